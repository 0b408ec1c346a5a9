"""The VMamba encoder: equal to the released one, and a well-behaved transformers model."""

import math

import pytest
import torch
from golden_cases import load_case
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from mambaxray import VMambaConfig, VMambaModel, load_vision_encoder, use_scan_backend
from mambaxray.configuration.configuration_mambaxray import MambaXrayConfig
from mambaxray.configuration.configuration_vmamba import vmamba_v0_options
from mambaxray.configuration.vision_tokens import count_visual_tokens, patch_positions
from mambaxray.modeling_mambaxray.modeling_vmamba import (
    VMambaDropPath,
    VMambaMixer,
    VMambaPatchMerging,
    cross_merge,
    scan_order,
)
from mambaxray.train.convert import convert_state_dict, vmamba_key

CASES = ("vmamba.csr_v3noz", "vmamba.v2_with_gate")
FORMS = {"noz": {}, "gated": {"use_gate": True, "use_conv_bias": True, "state_size": 4}, "v0": vmamba_v0_options()}


def tiny_config(**changes):
    return VMambaConfig(**{"image_size": 32, "embed_dim": 8, "depths": [1, 2], "drop_path_rate": 0.0} | changes)


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    return VMambaModel(tiny_config(**changes)).eval()


def official_encoder(case):
    values = case.config
    config = VMambaConfig(
        image_size=values["img"],
        patch_size=values["patch_size"],
        embed_dim=values["dims"][0],
        depths=values["depths"],
        patch_embedding="linear" if values["patchembed_version"] == "v1" else "convolutional",
        state_size=values["ssm_d_state"],
        ssm_ratio=values["ssm_ratio"],
        use_conv_bias=values["ssm_conv_bias"],
        use_gate="noz" not in values["forward_type"],
        mlp_ratio=values["mlp_ratio"],
    )
    model = VMambaModel(config).eval()
    model.load_state_dict(convert_state_dict(case.tensors("weights"), "vmamba"))
    return model


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
@pytest.mark.parametrize("case_id", CASES)
def test_values_and_gradients_equal_the_released_encoder(case_id, backend):
    case = load_case(case_id)
    io, debug = case.tensors("io"), case.tensors("debug")
    model = official_encoder(case)
    inner = {}
    model.stages[0].layers[0].mixer.register_forward_hook(lambda module, given, made: inner.update(y=(given[0], made)))
    image = io["image"].requires_grad_()
    with use_scan_backend(backend):
        result = model(image, output_hidden_states=True)
        maps = [each.permute(0, 2, 3, 1) for each in result.reshaped_hidden_states]
        (maps[-1] * io["cotangent"]).sum().backward()
    case.assert_close("io/output", maps[-1], io["output"])
    case.assert_close("io/global_features", result.pooler_output, io["global_features"])
    for name, actual in zip(("patch_embed_out", "layer0_out"), maps, strict=False):
        case.assert_close(f"debug/{name}", actual, debug[name])
    for name, actual in zip(("ss2d0_in", "ss2d0_out"), inner["y"], strict=True):
        case.assert_close(f"debug/{name}", actual, debug[name])
    parameters = dict(model.named_parameters())
    for name, expected in case.tensors("grads").items():
        actual = image.grad if name == "input" else parameters[vmamba_key(name)].grad
        case.assert_close(f"grads/{name}", actual, expected)


def test_the_four_orders_read_rows_and_columns_forwards_and_backwards_and_are_undone():
    grid = torch.arange(6.0).view(1, 2, 3, 1)
    orders = torch.stack([scan_order(grid, direction) for direction in range(4)])
    assert orders.flatten(1).tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]
    assert torch.equal(cross_merge(orders, 2, 3), 4 * grid)


def test_the_mixer_equals_its_equations_direction_by_direction():
    """Few lines from VMamba's SS2D: every direction alone, step by step."""
    torch.manual_seed(0)
    mixer = VMambaMixer(tiny_config(use_gate=True, state_size=3, ssm_ratio=2.0), 8)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    maps = torch.randn(2, 3, 5, 8)
    x, gate = mixer.in_proj(maps).chunk(2, dim=-1)
    x = F.silu(mixer.conv2d(x))
    total = torch.zeros_like(x)
    for k in range(4):
        grid = x.transpose(1, 2) if k % 2 else x
        u = grid.flatten(1, 2)
        u = u.flip(1) if k > 1 else u
        rank = mixer.dt_proj_weight.shape[-1]
        step, B, C = (u @ mixer.x_proj_weight[k].T).split([rank, 3, 3], dim=-1)
        step = F.softplus(step @ mixer.dt_proj_weight[k].T + mixer.dt_proj_bias[k])
        A, D = -mixer.A_log.view(4, 16, 3)[k].exp(), mixer.D.view(4, 16)[k]
        state, outputs = torch.zeros(2, 16, 3), []
        for t in range(15):
            state = (step[:, t, :, None] * A).exp() * state + (step * u)[:, t, :, None] * B[:, t, None, :]
            outputs.append((state * C[:, t, None, :]).sum(-1) + D * u[:, t])
        y = torch.stack(outputs, dim=1)
        y = y.flip(1) if k > 1 else y
        total = total + (y.view(2, 5, 3, 16).transpose(1, 2) if k % 2 else y.view(2, 3, 5, 16))
    expected = mixer.out_proj(mixer.norm(total) * F.silu(gate))
    torch.testing.assert_close(mixer(maps), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        # The authors' table (`assets/performance.md`), with a head of 1000 classes, which is not part of the encoder.
        ({"depths": [2, 2, 8, 2]}, 30),
        ({"depths": [2, 2, 5, 2], "ssm_ratio": 2.0}, 31),
        ({"depths": [2, 2, 20, 2]}, 49),
        ({"depths": [2, 2, 15, 2], "ssm_ratio": 2.0}, 50),
        ({"embed_dim": 128, "depths": [2, 2, 20, 2]}, 87),
        ({"embed_dim": 128, "depths": [2, 2, 15, 2], "ssm_ratio": 2.0}, 89),
        (vmamba_v0_options() | {"depths": [2, 2, 9, 2]}, 23),
        (vmamba_v0_options() | {"depths": [2, 2, 27, 2]}, 44),
        (vmamba_v0_options() | {"embed_dim": 128, "depths": [2, 2, 27, 2]}, 76),
    ],
)
def test_every_public_size_has_the_authors_number_of_parameters(options, millions):
    with torch.device("meta"):
        model = VMambaModel(VMambaConfig(**options))
    head = (model.config.hidden_size + 1) * 1000
    assert round((sum(parameter.numel() for parameter in model.parameters()) + head) / 1e6) == millions


def test_tiny_makes_49_tokens_of_768_at_224_px():
    config = VMambaConfig()
    assert (config.num_tokens, config.hidden_size) == (49, 768)
    assert count_visual_tokens(config) == 49
    assert patch_positions(config) == list(range(49))
    assert MambaXrayConfig(vision_config=config).num_image_tokens == 49
    assert MambaXrayConfig(vision_config=config.to_dict()).vision_config.to_dict() == config.to_dict()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("image_size", [4, 20, 32, 36])
def test_the_number_of_tokens_is_known_beforehand_for_odd_grids_too(form, image_size):
    model = tiny_model(image_size=image_size, depths=[1, 1, 1], **FORMS[form])
    output = model(torch.rand(1, 3, image_size, image_size), output_hidden_states=True)
    assert output.last_hidden_state.shape == (1, count_visual_tokens(model.config), model.config.hidden_size)
    sides = [math.ceil(image_size / 4), math.ceil(image_size / 8), math.ceil(image_size / 16), model.config.grid_size]
    assert [tuple(each.shape[1:]) for each in output.reshaped_hidden_states] == [
        (width, side, side) for width, side in zip((8, 16, 32, 32), sides, strict=True)
    ]
    for tokens, grid in zip(output.hidden_states, output.reshaped_hidden_states, strict=True):
        assert torch.equal(tokens, grid.flatten(2).transpose(1, 2))


def test_the_final_norm_can_be_left_to_the_pooled_output():
    normed, raw = tiny_model(), tiny_model(final_norm=False)
    images = torch.rand(1, 3, 32, 32)
    with_norm, without = normed(images, output_hidden_states=True), raw(images, output_hidden_states=True)
    assert torch.equal(without.last_hidden_state, without.hidden_states[-1])
    assert torch.equal(with_norm.last_hidden_state, normed.norm(without.last_hidden_state))
    assert torch.equal(with_norm.pooler_output, without.pooler_output)


def test_merged_patches_lie_in_the_order_of_swin():
    layer = VMambaPatchMerging(1, 1e-5)
    layer.norm, layer.reduction = torch.nn.Identity(), torch.nn.Identity()
    assert layer(torch.arange(4.0).view(1, 2, 2, 1)).flatten().tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("form", FORMS)
def test_saved_and_loaded_models_compute_the_same(tmp_path, form):
    model, images = tiny_model(**FORMS[form]), torch.rand(2, 3, 32, 32)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is VMambaModel
    assert loaded.config.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()
    assert torch.equal(loaded(images).last_hidden_state, model(images).last_hidden_state)


def test_another_image_size_needs_no_other_weights(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    larger = load_vision_encoder(tmp_path, image_size=64)
    assert larger(torch.rand(1, 3, 64, 64)).last_hidden_state.shape == (1, 64, 16)
    assert all(torch.equal(weight, larger.state_dict()[name]) for name, weight in model.state_dict().items())
    with pytest.raises(ValueError, match="image_size=SIZE"):
        model(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_gives_what_single_images_give(form):
    model, images = tiny_model(**FORMS[form]), torch.rand(3, 3, 32, 32)
    alone = torch.cat([model(image[None]).last_hidden_state for image in images])
    torch.testing.assert_close(model(images).last_hidden_state, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_stays_close_to_float32_and_keeps_the_recurrence_in_float32(tmp_path, form):
    model, images = tiny_model(**FORMS[form]), torch.rand(2, 3, 32, 32)
    model.save_pretrained(tmp_path)
    low = VMambaModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    kept = {name.rpartition(".")[2] for name, weight in low.named_parameters() if weight.dtype == torch.float32}
    assert kept == {"A_log", "D", "dt_proj_weight", "dt_proj_bias"}
    exact, rounded = model(images).last_hidden_state, low(images).last_hidden_state
    assert rounded.dtype == torch.bfloat16
    assert rounded.isfinite().all()
    assert F.cosine_similarity(exact.flatten(), rounded.float().flatten(), dim=0) > 0.999


def test_compiled_model_equals_the_plain_one():
    model, images = tiny_model(depths=[1]), torch.rand(1, 3, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images).last_hidden_state, model(images).last_hidden_state)


def test_left_out_branches_keep_the_mean_in_training_and_all_are_used_afterwards():
    torch.manual_seed(0)
    drop = VMambaDropPath(0.25).train()
    kept = drop(torch.ones(4000, 1, 1, 1)).flatten()
    assert sorted(set(kept.tolist())) == pytest.approx([0, 1 / 0.75])
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(torch.ones(3, 1, 1, 1)), torch.ones(3, 1, 1, 1))
    rates = [layer.drop_path.rate for stage in tiny_model(drop_path_rate=0.4).stages for layer in stage.layers]
    assert rates == pytest.approx([0, 0.2, 0.4])


def test_fresh_weights_are_those_of_the_paper_wherever_the_model_was_made():
    config = tiny_config(time_step_min=0.01, time_step_max=0.02, state_size=4)
    with torch.device("meta"):
        model = VMambaModel(config)
    torch.manual_seed(0)
    model.to_empty(device="cpu").initialize_weights()
    for stage in model.stages:
        for layer in stage.layers:
            mixer = layer.mixer
            steps = F.softplus(mixer.dt_proj_bias)
            assert steps.min() >= 0.0099
            assert steps.max() <= 0.0201
            torch.testing.assert_close(mixer.A_log[5].exp(), torch.arange(1.0, 5.0))
            assert mixer.D.eq(1).all()
            inner = mixer.x_proj_weight.shape[-1]
            assert mixer.x_proj_weight.std().item() == pytest.approx((3 * inner) ** -0.5, rel=0.2)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 30}, "nearest below is 28"),
        ({"depths": []}, "at least one stage"),
        ({"depths": [2, 0]}, r"depths\[1\] must be a positive integer, got 0"),
        ({"patch_size": 8}, "needs patch_size 4"),
        ({"patch_embedding": "conv"}, "one of .'linear', 'convolutional'., got 'conv'"),
        ({"downsampling": "v3"}, "one of .'patch_merging', 'convolutional'., got 'v3'"),
        ({"conv_kernel": 4}, "conv_kernel must be odd"),
        ({"ssm_ratio": 0}, "ssm_ratio > 0"),
        ({"drop_path_rate": 1.0}, "below 1, got 1.0"),
        ({"time_step_min": 0.2}, "time_step_min <= time_step_max"),
    ],
)
def test_an_impossible_configuration_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**values)


def test_unknown_official_keys_are_listed():
    with pytest.raises(ValueError, match=r"1 keys are not those of stage 'vmamba': layers.0.blocks.0.op.A_z_logs"):
        convert_state_dict({"layers.0.blocks.0.op.A_z_logs": torch.zeros(1)}, "vmamba")
