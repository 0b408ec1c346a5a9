"""Partial LoRA on the vision Mamba: equal to the released adapters, and an ordinary citizen of peft."""

import subprocess
import sys

import pytest
import torch
from golden_cases import load_case
from peft import PeftModel
from safetensors.torch import load_file
from tiny import tiny_model
from tiny_training import TINY
from torch import nn
from transformers import AutoModelForImageTextToText, SwinConfig, SwinModel, Trainer, TrainingArguments

from mambaxray import VisionMambaConfig, VisionMambaModel, load_recipe, run_recipe
from mambaxray.modeling_mambaxray.ops.selective_scan import BACKENDS
from mambaxray.train import apply_efficient_tuning
from mambaxray.train.convert import convert_state_dict
from mambaxray.train.parameter_table import parameter_groups, parameter_table
from mambaxray.train.partial_lora import FEATURES
from mambaxray.train.recipe import RecipeError

# The released names where ours differ: its "d" are the rows of x_proj that make the step, its "dt" all of dt_proj.
OURS = {"X": "X", "Z": "Z", "d": "dt", "B": "B", "C": "C", "dt": "dt_proj"}
MATRIX = {"X": "in_proj", "Z": "in_proj", "dt": "x_proj", "B": "x_proj", "C": "x_proj", "dt_proj": "dt_proj"}


USABLE = [
    pytest.param(name, marks=pytest.mark.skipif(bool(backend.problem()), reason=backend.problem() or "usable"))
    for name, backend in BACKENDS.items()
]


def tiny_encoder(**changes):
    torch.manual_seed(0)
    # Weights large enough that every feature has a say.
    values = {"hidden_size": 24, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8, "initializer_range": 0.3}
    return VisionMambaModel(VisionMambaConfig(**values | changes)).eval()


def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def tokens_of(model):
    with torch.no_grad():
        return model(images()).last_hidden_state


def set_adapter_at_random(model, adapter_name="default", seed=2):
    """Values in place of the zeros that adapters start from, only where they may be learned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if adapter_name in getattr(module, "lora_B", {}):
                up = module.lora_B[adapter_name]
                values = torch.randn(up.weight.shape, generator=generator)
                up.weight.copy_(values * getattr(up, "block", 1))


def released_mixer(case):
    """The case's mixer, one direction with an inner width of its own, as the only layer of an encoder."""
    config, weights = case.config, case.tensors("weights")
    encoder = tiny_encoder(
        hidden_size=config["intermediate_size"],
        num_hidden_layers=1,
        num_directions=1,
        state_size=config["state_size"],
        conv_kernel=config["conv_kernel"],
        time_step_rank=config["time_step_rank"],
    )
    mixer = encoder.layers[0].mixer
    mixer.in_proj = nn.Linear(config["hidden_size"], 2 * config["intermediate_size"], bias=False)
    mixer.out_proj = nn.Linear(config["intermediate_size"], config["hidden_size"], bias=False)
    shared = ("in_proj", "out_proj")
    names = {name.removeprefix("mixer."): value for name, value in weights.items() if name.startswith("mixer.")}
    mixer.load_state_dict({n if n.startswith(shared) else f"directions.0.{n}": value for n, value in names.items()})
    return encoder, {name: value for name, value in weights.items() if name.startswith("adapters.")}


@pytest.mark.parametrize("released", ["X", "Z", "d", "B", "C", "dt", "XZdBCdt"])
def test_values_and_gradients_of_a_mixer_equal_the_released_adapters(released):
    case = load_case("emrrg.lora_mixer")
    encoder, adapters = released_mixer(case)
    members, rank = case.config["sets"][released], case.config["r"]
    features = [OURS[name] for name in members]
    model = apply_efficient_tuning(encoder, "+".join(features), rank=rank, scale=case.config["scale"])
    mixer = encoder.layers[0].mixer
    places = {}
    for name, feature in zip(members, features, strict=True):
        matrix = MATRIX[feature]
        module = mixer.in_proj if matrix == "in_proj" else getattr(mixer.directions[0], matrix)
        column = rank * sum(MATRIX[earlier] == matrix for earlier in features[: features.index(feature)])
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        rows = getattr(module.lora_B["default"], "block", torch.ones_like(up))[:, column].bool()
        with torch.no_grad():
            down[column : column + rank] = adapters[f"adapters.lora_{name}.adapter_down.weight"]
            up[rows, column : column + rank] = adapters[f"adapters.lora_{name}.adapter_up.weight"]
        places[name] = (down, up, rows, slice(column, column + rank))
    io = case.tensors("io")
    order = torch.arange(io["hidden_states"].shape[1])[None]
    output = mixer(io["hidden_states"], order, order)
    case.assert_close(f"io/output_{released}", output, io[f"output_{released}"])
    (output * io["cotangent"]).sum().backward()
    for name, expected in case.tensors("grads").items():
        if name.split("/")[0] != released:
            continue
        down, up, rows, columns = places[released]
        actual = down.grad[columns] if name.endswith("adapter_down.weight") else up.grad[rows][:, columns]
        case.assert_close(f"grads/{name}", actual, expected)
    with model.disable_adapter():
        case.assert_close("io/output_none", mixer(io["hidden_states"], order, order), io["output_none"])


@pytest.mark.parametrize("backend", USABLE)
def test_partial_lora_on_x_moves_all_four_directions_as_the_paper_says(monkeypatch, backend):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    case = load_case("emrrg.lora_arm_intended")
    config, weights = case.config, case.tensors("weights")
    encoder = VisionMambaModel(
        VisionMambaConfig(
            hidden_size=config["embed_dim"],
            num_hidden_layers=config["depth"],
            image_size=config["img_size"],
            patch_size=config["patch_size"],
        )
    ).eval()
    official = {n.removeprefix("encoder."): w for n, w in weights.items() if n.startswith("encoder.")}
    encoder.load_state_dict(convert_state_dict(official, "encoder"))
    model = apply_efficient_tuning(encoder, "X", rank=config["r"], scale=config["scale"])
    with torch.no_grad():
        for index, layer in enumerate(encoder.layers):
            prefix = f"adapters.layers.{index}.mixer.lora_X.adapter"
            layer.mixer.in_proj.lora_A["default"].weight.copy_(weights[f"{prefix}_down.weight"])
            layer.mixer.in_proj.lora_B["default"].weight[: config["embed_dim"]] = weights[f"{prefix}_up.weight"]
        io = case.tensors("io")
        case.assert_close("io/output_lora_X", model(io["image"]).last_hidden_state, io["output_lora_X"])
        with model.disable_adapter():
            case.assert_close("io/output_base", model(io["image"]).last_hidden_state, io["output_base"])


@pytest.mark.parametrize("features", [*FEATURES, "X+in_proj", "Z+B+C+embedding+out_proj"])
def test_merging_changes_nothing_and_unmerging_gives_the_encoder_back(features):
    plain = tokens_of(encoder := tiny_encoder())
    model = apply_efficient_tuning(encoder, features, rank=3)
    assert torch.equal(tokens_of(model), plain)
    set_adapter_at_random(model)
    adapted = tokens_of(model)
    assert (adapted - plain).abs().max() > 1e-2
    model.merge_adapter()
    torch.testing.assert_close(tokens_of(model), adapted, rtol=1e-5, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(tokens_of(model), adapted, rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        torch.testing.assert_close(tokens_of(model), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", USABLE)
def test_adapters_of_every_feature_learn_and_nothing_else_does(monkeypatch, backend):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    encoder = tiny_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = apply_efficient_tuning(encoder, "+".join(FEATURES), rank=2)
    # Weight decay, which must not wake what has to stay zero.
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(images()).last_hidden_state.square().mean().backward()
        optimizer.step()
    adapted = [module for module in model.modules() if hasattr(module, "lora_B")]
    # in_proj and out_proj, and x_proj and dt_proj in four directions, in two layers; the patch embedding.
    assert len(adapted) == 2 * (2 + 2 * 4) + 1
    for module in adapted:
        up = module.lora_B["default"]
        block = getattr(up, "block", torch.ones_like(up.weight))
        assert torch.equal(up.weight == 0, block == 0)
    after = {name.replace(".base_layer", ""): value for name, value in encoder.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_several_adapters_stand_beside_each_other():
    model = apply_efficient_tuning(tiny_encoder(), "X", rank=2, adapter_name="one")
    model = apply_efficient_tuning(model, "Z+dt_proj", rank={"Z": 3, "dt_proj": 1}, adapter_name="two")
    set_adapter_at_random(model, "one")
    set_adapter_at_random(model, "two")
    seen = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        seen[name] = tokens_of(model)
    assert not torch.allclose(seen["one"], seen["two"])
    model.set_adapter("one")
    assert torch.equal(tokens_of(model), seen["one"])
    model.delete_adapter("two")
    assert torch.equal(tokens_of(model), seen["one"])


@pytest.mark.slow
def test_the_adapter_alone_is_saved_and_loads_with_peft_in_a_fresh_process(tmp_path):
    encoder = tiny_encoder()
    encoder.save_pretrained(tmp_path / "encoder")
    model = apply_efficient_tuning(VisionMambaModel.from_pretrained(tmp_path / "encoder"), "X+C", rank=2)
    set_adapter_at_random(model)
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(".lora_" in name for name in saved)
    torch.save({"images": images(), "tokens": tokens_of(model)}, tmp_path / "expected.pt")
    program = """
import mambaxray, torch
from peft import PeftModel
from transformers import AutoModel
model = PeftModel.from_pretrained(AutoModel.from_pretrained("encoder"), "adapter")
expected = torch.load("expected.pt")
torch.testing.assert_close(model(expected["images"]).last_hidden_state, expected["tokens"], rtol=1e-5, atol=1e-5)
"""
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_training_goes_on_under_the_same_restriction_after_loading(tmp_path):
    encoder = tiny_encoder()
    encoder.save_pretrained(tmp_path / "encoder")
    apply_efficient_tuning(encoder, "X+B", rank=2).save_pretrained(tmp_path / "adapter")

    def loaded():
        plain = VisionMambaModel.from_pretrained(tmp_path / "encoder")
        return PeftModel.from_pretrained(plain, tmp_path / "adapter", is_trainable=True)

    model = apply_efficient_tuning(loaded(), "X+B", rank=2)
    model(images()).last_hidden_state.sum().backward()
    gradient = model.get_submodule("base_model.model.layers.0.mixer.in_proj.lora_B.default").weight.grad
    assert torch.count_nonzero(gradient[:24])
    assert not torch.count_nonzero(gradient[24:])
    with pytest.raises(ValueError, match=r"rank 2 .*these features make it 4"):
        apply_efficient_tuning(loaded(), "X+Z", rank=2)


def test_half_precision_keeps_close_to_float32():
    model = apply_efficient_tuning(tiny_encoder(), "X+dt_proj+B", rank=2)
    set_adapter_at_random(model)
    full = tokens_of(model)
    half = tokens_of(model.to(torch.bfloat16))
    assert torch.isfinite(half).all()
    assert (half.float() - full).abs().mean() < 0.05 * full.abs().mean()


def test_a_report_generator_trains_adapters_and_its_new_parts_only():
    model = apply_efficient_tuning(tiny_model(), "X", rank=2, lora={"r": 3})
    groups = {group.name: group for group in parameter_groups(model)}
    # Two layers; down 2 x 24 and up 24 x 2 of the 48 rows.
    assert groups["vision_encoder: LoRA on in_proj"].trained == 2 * (2 * 24 + 24 * 2)
    assert groups["language_model: LoRA"].trained > 0
    assert groups["projector"].trained == groups["projector"].total > 0
    assert groups["vision_encoder"].trained == groups["language_model"].trained == 0
    assert f"{sum(group.trained for group in groups.values()):,}" in parameter_table(model).splitlines()[-1]


def test_the_plain_trainer_saves_adapters_and_goes_on_from_them(tmp_path):
    row = {"pixel_values": images()[0], "input_ids": torch.tensor([5] + [48] * 5 + [6, 7])}
    row["labels"] = row["input_ids"].masked_fill(row["input_ids"] == 48, -100)

    def trained(folder, steps, resume=False):
        model = apply_efficient_tuning(tiny_model(), "X+in_proj", rank=2)
        arguments = TrainingArguments(
            str(tmp_path / folder),
            max_steps=steps,
            save_steps=2,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
            gradient_checkpointing=True,
        )
        Trainer(model=model, args=arguments, train_dataset=[row] * 8).train(resume_from_checkpoint=resume)
        return model.state_dict()

    whole = trained("whole", 4)
    trained("parts", 2)
    resumed = trained("parts", 4, resume=True)
    assert not (tmp_path / "parts" / "checkpoint-2" / "model.safetensors").exists()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert torch.count_nonzero(whole["base_model.model.vision_encoder.layers.0.mixer.in_proj.lora_B.default.weight"])


def test_a_recipe_puts_adapters_on_the_encoder_and_the_result_loads_again(tmp_path):
    overrides = [*TINY, "training.max_steps=2", "model.freeze=[language_model]"]
    tables = []
    result = run_recipe(
        load_recipe("finetune_phantoms", [*overrides, "model.vision_lora={features: X+in_proj, rank: 2}"]),
        tmp_path,
        on_start=lambda model: tables.append(parameter_table(model)),
    )
    assert "vision_encoder: LoRA on in_proj" in tables[0]
    assert f"{result.trained_parameters:,}" in tables[0]
    assert not (result.model_dir / "model.safetensors").exists()
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    assert any("in_proj.lora_A" in name for name in model.state_dict())
    with pytest.raises(RecipeError, match=r"model\.vision_lora: unknown feature 'Y'"):
        run_recipe(load_recipe("finetune_phantoms", [*TINY, "model.vision_lora={features: Y}"]), tmp_path / "wrong")


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ("X+Y", {}, "unknown feature 'Y'.*dt, B, C"),
        ("X+X", {}, "names X twice"),
        ("X", {"rank": 0}, "rank of X must be a positive integer, got 0"),
        ("X+B", {"rank": {"X": 4}}, "ranks are given for X, but the features are X, B"),
        ("X", {"dropout": 0.1, "lora": {"lora_dropout": 0.2}}, "one dropout"),
    ],
)
def test_what_can_not_be_adapted_is_named(features, options, message):
    with pytest.raises(ValueError, match=message):
        apply_efficient_tuning(tiny_model(), features, **options)


def test_a_model_without_a_vision_mamba_is_refused():
    with pytest.raises(ValueError, match="SwinModel has no vision Mamba"):
        apply_efficient_tuning(SwinModel(SwinConfig(image_size=32, embed_dim=8, depths=[1], num_heads=[1])), "X")
