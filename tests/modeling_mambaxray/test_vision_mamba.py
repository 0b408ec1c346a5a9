"""The vision Mamba encoder: equal to the released one, and a well-behaved transformers model."""

from dataclasses import replace

import pytest
import torch
from golden_cases import load_case
from measure import OperatorCount
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F

from mambaxray import VisionMambaConfig, VisionMambaModel, use_scan_backend
from mambaxray.configuration.configuration_vision_mamba import PATCH_EMBEDDINGS
from mambaxray.modeling_mambaxray.modeling_vision_mamba import (
    VisionMambaLayer,
    resize_position_embeddings,
    scan_orders,
)
from mambaxray.modeling_mambaxray.ops.selective_scan import BACKENDS
from mambaxray.train.convert import convert_state_dict, vision_mamba_key


def tiny_config(**changes):
    values = {"hidden_size": 24, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8, "state_size": 4}
    return VisionMambaConfig(**values | changes)


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    return VisionMambaModel(tiny_config(**changes)).eval()


def official_encoder(case):
    config = VisionMambaConfig(
        hidden_size=case.config["embed_dim"],
        num_hidden_layers=case.config["depth"],
        image_size=case.config["img_size"],
        patch_size=case.config["patch_size"],
    )
    model = VisionMambaModel(config).eval()
    model.load_state_dict(convert_state_dict(case.tensors("weights"), "encoder"))
    return model


def test_output_equals_the_released_encoder_from_files_in_the_repository():
    case = load_case("arm_encoder.b")
    io = case.tensors("io")
    with torch.no_grad():
        output = official_encoder(case)(io["image"]).last_hidden_state
    case.assert_close("io/output", output, io["output"])


@pytest.mark.parametrize("variant", ["a", "b"])
@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
def test_values_and_gradients_equal_the_released_encoder(variant, backend, monkeypatch):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    case = load_case(f"arm_encoder.{variant}")
    io, debug = case.tensors("io"), case.tensors("debug")
    model = official_encoder(case)
    image = io["image"].requires_grad_()
    result = model(image, output_hidden_states=True)
    case.assert_close("io/output", result.last_hidden_state, io["output"])
    for index in range(model.config.num_hidden_layers):
        name = f"layer{index}_out"
        case.assert_close(f"debug/{name}", result.hidden_states[index + 1], debug[name])
    (result.last_hidden_state * io["cotangent"]).sum().backward()
    parameters = dict(model.named_parameters())
    for name, expected in case.tensors("grads").items():
        actual = image.grad if name == "input" else parameters[vision_mamba_key(name)].grad
        case.assert_close(f"grads/{name}", actual, expected)


def test_the_column_order_reads_columns_and_keeps_the_cls_token_in_the_middle():
    orders = scan_orders(2, use_cls_token=True).tolist()
    assert orders[0] == [0, 1, 2, 3, 4]  # patches 00 01 cls 10 11
    assert orders[2] == [0, 3, 2, 1, 4]
    assert orders[1] == orders[0][::-1]
    assert orders[3] == orders[2][::-1]


@pytest.mark.parametrize("grid", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("use_cls_token", [True, False])
def test_every_order_visits_every_token_once(grid, use_cls_token):
    orders = scan_orders(grid, use_cls_token)
    length = grid**2 + use_cls_token
    assert orders.shape == (4, length)
    assert all(sorted(order) == list(range(length)) for order in orders.tolist())
    if use_cls_token:
        middle = grid**2 // 2
        assert orders[0, middle] == middle
        assert orders[2, middle] == middle


def test_odd_grids_put_cls_where_the_scans_expect_it():
    model = tiny_model(image_size=24)  # 9 patches
    assert model(torch.rand(1, 3, 24, 24)).last_hidden_state.shape == (1, 10, 24)


def test_a_single_direction_is_causal_in_its_order_and_four_are_not():
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[..., -8:, -8:] += 1.0  # the last patch
    for directions, causal in ((1, True), (4, False)):
        model = tiny_model(num_directions=directions, use_cls_token=False)
        before, after = model(images).last_hidden_state, model(changed).last_hidden_state
        assert torch.equal(before[:, :-1], after[:, :-1]) is causal
        assert not torch.equal(before[:, -1], after[:, -1])


def test_position_resize_is_bicubic_with_the_cls_row_kept():
    case = load_case("pretrain_to_clip_init")
    io = case.tensors("io")
    zero_cls = torch.zeros(1, 1, io["pos_embed_in"].shape[-1])
    patches = io["pos_embed_in"]
    middle = patches.shape[1] // 2
    with_cls = torch.cat([patches[:, :middle], zero_cls, patches[:, middle:]], dim=1)
    resized = resize_position_embeddings(with_cls, io["pos_embed_out"].shape[1], use_cls_token=True)
    torch.testing.assert_close(resized, io["pos_embed_out"], rtol=0, atol=1e-6)


def test_loading_at_another_image_size_resizes_positions_and_nothing_else(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    larger = VisionMambaModel.from_pretrained(tmp_path, image_size=48)
    assert larger.config.image_size == 48
    expected = resize_position_embeddings(model.embeddings.position_embeddings, 37, use_cls_token=True)
    assert torch.equal(larger.embeddings.position_embeddings, expected)
    rest = {name: weight for name, weight in larger.state_dict().items() if "position" not in name}
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in rest.items())
    assert larger(torch.rand(1, 3, 48, 48)).last_hidden_state.shape == (1, 37, 24)


@pytest.mark.parametrize("patch_embedding", PATCH_EMBEDDINGS)
def test_saved_and_loaded_models_compute_the_same(tmp_path, patch_embedding):
    model, images = tiny_model(patch_embedding=patch_embedding), torch.rand(2, 3, 32, 32)
    model.train()(images)  # running statistics, where there are any, are saved too
    model.eval().save_pretrained(tmp_path)
    loaded, report = VisionMambaModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(loaded(images).last_hidden_state, model(images).last_hidden_state)


def test_a_convolutional_patch_sees_its_surroundings_and_a_linear_one_itself_only():
    for patch_embedding, sees in (("linear", False), ("convolutional", True)):
        embed = tiny_model(patch_embedding=patch_embedding).embeddings
        image = torch.rand(1, 3, 32, 32)
        changed = image.clone()
        changed[..., :8, 7] += 1  # the last column of the first patch
        difference = (embed(image) - embed(changed)).abs().sum(-1)[0]
        assert difference[0] > 0
        assert (difference[1] > 0) == sees
        assert not difference[2:4].any()  # the rest of the row


@pytest.mark.parametrize("patch_embedding", PATCH_EMBEDDINGS)
def test_a_batch_gives_what_single_images_give(patch_embedding):
    model, images = tiny_model(patch_embedding=patch_embedding), torch.rand(3, 3, 32, 32)
    together = model(images).last_hidden_state
    alone = torch.cat([model(image[None]).last_hidden_state for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_bfloat16_stays_close_to_float32_and_keeps_the_recurrence_in_float32(tmp_path):
    model, images = tiny_model(num_hidden_layers=4), torch.rand(2, 3, 32, 32)
    model.save_pretrained(tmp_path)
    low = VisionMambaModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    direction = low.layers[0].mixer.directions[0]
    for kept in (direction.A_log, direction.D, direction.dt_proj.weight, direction.dt_proj.bias):
        assert kept.dtype == torch.float32
    assert direction.x_proj.weight.dtype == torch.bfloat16
    exact, rounded = model(images).last_hidden_state, low(images).last_hidden_state
    assert rounded.dtype == torch.bfloat16
    assert rounded.isfinite().all()
    assert F.cosine_similarity(exact.flatten(), rounded.float().flatten(), dim=0) > 0.999


def test_fresh_step_sizes_lie_in_the_configured_range():
    model = VisionMambaModel(tiny_config(time_step_min=0.01, time_step_max=0.02))
    for layer in model.layers:
        for direction in layer.mixer.directions:
            steps = F.softplus(direction.dt_proj.bias)
            assert steps.min() >= 0.0099
            assert steps.max() <= 0.0201


def test_compiled_model_equals_the_plain_one():
    model, images = tiny_model(num_hidden_layers=1), torch.rand(1, 3, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images).last_hidden_state, model(images).last_hidden_state)


@pytest.fixture
def triton_without_gpu(monkeypatch):
    """Counts what the kernels for GPUs are called with, on tensors that have shapes but no values."""
    monkeypatch.setitem(BACKENDS, "triton", replace(BACKENDS["triton"], problem=str, device_type="cpu"))
    with use_scan_backend("triton"), FakeTensorMode(allow_non_fake_inputs=True):
        yield


def count_in_block(dtype, training):
    """Operators of one block, and the bytes of its tokens."""
    config = VisionMambaConfig(hidden_size=64, state_size=16, time_step_rank=4)
    model = VisionMambaLayer(config)
    parameters = {
        name: torch.empty(p.shape, dtype=torch.float32 if "dt_proj" in name else dtype, requires_grad=training)
        for name, p in model.named_parameters()
    }
    tokens = torch.empty(16, 37, 64, dtype=dtype, requires_grad=training)
    orders = torch.empty(4, 37, dtype=torch.long)
    with OperatorCount() as count, torch.set_grad_enabled(training):
        output = functional_call(model, parameters, (tokens, orders, orders))
        if training:
            output.sum().backward()
    return count, tokens.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_copies_no_tokens_on_a_gpu(triton_without_gpu, dtype):
    count, size = count_in_block(dtype, training=False)
    assert not count.copies(size)
    assert sum(count.calls.values()) <= 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_joins_the_halves_of_a_gradient_and_copies_no_other_tokens(triton_without_gpu, dtype):
    count, size = count_in_block(dtype, training=True)
    assert set(count.copies(size)) == {"cat"}, "of x and the gate, which are one projection"
    assert count.calls["cat"] == 2  # the other one is of the step, B and C
    assert sum(count.calls.values()) <= 130


def test_a_whole_graph_is_compiled_with_the_kernels_for_gpus(monkeypatch):
    """Up to the operators, which need a GPU to run."""
    monkeypatch.setitem(BACKENDS, "triton", replace(BACKENDS["triton"], problem=str, device_type="cpu"))
    graphs = []

    def keep(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    model = tiny_model()
    compiled = torch.compile(model, fullgraph=True, backend=keep)
    with use_scan_backend("triton"), FakeTensorMode(allow_non_fake_inputs=True):
        compiled(torch.empty(1, 3, 32, 32))
    (graph,) = graphs
    for name in ("directional_convolution_triton", "selective_scan_triton", "merge_directions_triton"):
        assert sum(name in target for target in graph) == model.config.num_hidden_layers


@pytest.mark.parametrize("change", ["hook", "forward", "subclass"])
def test_projections_that_something_has_changed_are_called_one_by_one(change):
    model = tiny_model()
    images = torch.rand(1, 3, 32, 32)
    before = model(images).last_hidden_state
    calls = []
    for layer in model.layers:
        for direction in layer.mixer.directions:
            for projection in (direction.x_proj, direction.dt_proj):
                if change == "hook":
                    projection.register_forward_hook(lambda module, inputs, output: calls.append(module))
                elif change == "forward":
                    projection.forward = lambda x, m=projection: calls.append(m) or F.linear(x, m.weight, m.bias)
                else:
                    projection.__class__ = type("Changed", (torch.nn.Linear,), {})
    torch.testing.assert_close(model(images).last_hidden_state, before, rtol=1e-5, atol=1e-6)
    assert len(calls) == (0 if change == "subclass" else 2 * 4 * 2)


def test_an_image_of_another_size_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="image_size=SIZE"):
        tiny_model()(torch.rand(1, 3, 40, 40))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 100, "patch_size": 16}, "nearest below is 96"),
        ({"num_directions": 2}, "num_directions must be 1 or 4"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, got 0"),
        ({"patch_embedding": "conv"}, "one of .'linear', 'convolutional'., got 'conv'"),
        ({"patch_embedding": "convolutional", "image_size": 96, "patch_size": 12}, "power of two, got 12"),
        ({"time_step_min": 0.2}, "time_step_min <= time_step_max"),
    ],
)
def test_an_impossible_configuration_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        VisionMambaConfig(**values)


def test_base_and_large_have_the_papers_sizes():
    base, large = VisionMambaConfig(), VisionMambaConfig(hidden_size=1024, num_hidden_layers=24, image_size=224)
    assert (base.num_tokens, base.time_step_rank, base.intermediate_size) == (145, 48, 2048)
    assert (large.num_tokens, large.time_step_rank, large.intermediate_size) == (197, 64, 2730)


def test_unknown_official_keys_are_listed():
    with pytest.raises(ValueError, match=r"1 keys are not those of stage 'encoder': layers.0.mixer.A_z_log"):
        convert_state_dict({"layers.0.mixer.A_z_log": torch.zeros(1)}, "encoder")


def test_new_weights_have_the_spread_that_their_place_asks_for():
    torch.manual_seed(0)
    config = VisionMambaConfig(hidden_size=192, num_hidden_layers=4, image_size=32)
    layer = VisionMambaModel(config).layers[0]
    assert layer.mixer.in_proj.weight.std().item() == pytest.approx(config.initializer_range, rel=0.05)
    # Halved at 4 layers, so that the residual stream's variance does not grow with the depth.
    assert layer.mixer.out_proj.weight.std().item() == pytest.approx(config.initializer_range / 2, rel=0.05)


def test_a_stem_without_weights_yet_gets_some():
    config = VisionMambaConfig(hidden_size=32, num_hidden_layers=1, image_size=32, patch_embedding="convolutional")
    with torch.device("meta"):
        model = VisionMambaModel(config)
    model.to_empty(device="cpu").initialize_weights()
    convolutions = [m for m in model.embeddings.patch_embeddings if isinstance(m, torch.nn.Conv2d)]
    for convolution in convolutions:
        fan_in = convolution.weight[0].numel()
        assert convolution.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.2)
