"""Whole runs of recipes, from Python and from the command line."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TINY
from transformers import AutoModelForImageTextToText, AutoProcessor

from mambaxray import load_recipe, run_recipe
from mambaxray.data.phantoms import make_study
from mambaxray.train.recipe import RecipeError, make_recipe


def tiny_recipe(*overrides):
    return load_recipe("finetune_phantoms", [*TINY, *overrides])


def losses(result):
    return [entry["loss"] for entry in result.history if "loss" in entry]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run_recipe(tiny_recipe(), folder)


def test_a_run_leaves_a_model_that_writes_reports(finished):
    folder, result = finished
    assert result.model_dir == folder / "model"
    assert result.steps == len(losses(result)) == 4
    assert {"eval_loss", "eval_F1_micro_14_uncertain-negative", "eval_unique_ratio"} <= result.metrics.keys()
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    inputs = AutoProcessor.from_pretrained(result.model_dir)(images=make_study(0)["images"])
    # The recipe's way to generate is the saved model's.
    assert model.generate(**inputs).shape[1] <= inputs["input_ids"].shape[1] + 5
    assert not list(result.model_dir.glob("*.bin"))  # no pickle with this machine's paths


def test_the_folder_tells_recipe_environment_revision_and_seed(finished):
    folder, _ = finished
    assert load_recipe(folder / "recipe.yaml") == tiny_recipe()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["versions"]["torch"] == torch.__version__
    assert {"git", "platform", "devices", "processes", "command"} <= environment.keys()


def test_a_finished_run_is_not_trained_again(finished):
    folder, result = finished
    weights = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert run_recipe(tiny_recipe(), folder) == result
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == weights


def test_a_folder_of_another_recipe_is_refused(finished):
    folder, _ = finished
    with pytest.raises(RecipeError, match="another recipe"):
        run_recipe(tiny_recipe("seed=1"), folder)


def test_the_same_seed_gives_the_same_losses_and_another_one_others(finished, tmp_path):
    _, result = finished
    assert losses(run_recipe(tiny_recipe("training.save_strategy=no"), tmp_path / "0")) == losses(result)
    assert losses(run_recipe(tiny_recipe("training.save_strategy=no", "seed=1"), tmp_path / "1")) != losses(result)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.freeze=[decoder]"], "the model's parts are vision_encoder, language_model"),
        (["data.source=null"], "give data.source=FOLDER"),
        (["model.lora={rank: 3}"], "model.lora: .*rank"),
    ],
)
def test_parts_that_do_not_fit_are_named(tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        run_recipe(tiny_recipe(*overrides), tmp_path)


def test_a_frozen_language_model_is_left_as_it_was(tmp_path, finished):
    folder, _ = finished
    recipe = tiny_recipe("training.max_steps=2", "model.freeze=[language_model]")
    values = recipe.to_dict()
    values["model"] |= {"checkpoint": str(folder / "model"), "vision_encoder": None, "language_model": None}
    values["model"]["vocab_size"] = 1000
    result = run_recipe(make_recipe(values), tmp_path)
    before = AutoModelForImageTextToText.from_pretrained(folder / "model").state_dict()
    after = AutoModelForImageTextToText.from_pretrained(result.model_dir).state_dict()
    changed = {name.split(".")[0] for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {"vision_encoder", "projector", "layer_norm"}
    assert result.trained_parameters < result.total_parameters


def test_a_checkpoint_takes_the_recipes_prompt(tmp_path, finished):
    folder, _ = finished
    values = tiny_recipe("training.max_steps=1", "model.instruction=What is seen?", "metrics=null").to_dict()
    values["model"] |= {"checkpoint": str(folder / "model"), "vision_encoder": None, "language_model": None}
    values["model"] |= {"vocab_size": 1000, "prompt_template": None}
    result = run_recipe(make_recipe(values), tmp_path)
    processor = AutoProcessor.from_pretrained(result.model_dir)
    assert processor.default_prompt == f"{processor.image_token} What is seen?"
    chat = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)
    assert "What is seen?" in chat


@pytest.fixture(scope="module")
def pretrained(finished, tmp_path_factory):
    """A language model and a vision encoder in folders of their own, as they come from the Hub."""
    folder, _ = finished
    parts = tmp_path_factory.mktemp("parts")
    model = AutoModelForImageTextToText.from_pretrained(folder / "model")
    model.vision_encoder.save_pretrained(parts / "vision")
    model.language_model.save_pretrained(parts / "language")
    AutoProcessor.from_pretrained(folder / "model").tokenizer.save_pretrained(parts / "language")
    return [f"model.vision_encoder={parts / 'vision'}", f"model.language_model={parts / 'language'}"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_pretrained_frozen_language_model_is_saved_only_when_the_recipe_says_so(tmp_path, pretrained, whole):
    recipe = tiny_recipe(
        *pretrained,
        "training.max_steps=2",
        "model.freeze=[language_model]",
        f"model.save_language_model={str(whole).lower()}",
    )
    result = run_recipe(recipe, tmp_path)
    names = {name.split(".")[0] for name in load_file(result.model_dir / "model.safetensors")}
    assert ("language_model" in names) == whole
    assert AutoModelForImageTextToText.from_pretrained(result.model_dir).num_parameters() == result.total_parameters


def test_quantization_without_its_package_says_what_to_install(tmp_path, pretrained):
    if find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(RecipeError, match="pip install bitsandbytes"):
        run_recipe(tiny_recipe(*pretrained, "model.quantization=4bit"), tmp_path)


def test_lora_by_recipe_loads_again(tmp_path):
    result = run_recipe(tiny_recipe("training.max_steps=2", "model.lora={r: 2}"), tmp_path)
    assert not (result.model_dir / "model.safetensors").exists()
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    assert any("lora_A" in name for name in model.state_dict())


def test_an_adapter_trained_into_a_relative_folder_loads_from_another_working_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run_recipe(tiny_recipe("training.max_steps=1", "training.eval_strategy=no", "model.lora={r: 2}"), "run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "model")
    assert any("lora_A" in name for name in model.state_dict())


def command_line(*arguments):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["mambaxray", *arguments], env=environment, capture_output=True, text=True, check=False)


def test_the_command_trains_as_python_does(finished, tmp_path):
    _, result = finished
    done = command_line("finetune", "--recipe", "finetune_phantoms", "--output", str(tmp_path), *TINY)
    assert done.returncode == 0, done.stderr
    assert f"eval_loss: {result.metrics['eval_loss']:.4g}" in done.stderr


def test_the_command_names_a_mistake_in_one_line(tmp_path):
    done = command_line("finetune", "--recipe", "finetune_phantoms", "--output", str(tmp_path), "training.max_step=3")
    assert done.returncode == 2
    assert "did you mean max_steps" in done.stderr
    assert "Traceback" not in done.stderr


def test_recipes_are_listed():
    done = command_line("recipes")
    assert "finetune_phantoms" in done.stdout


def test_a_recipe_chooses_the_system_and_its_options(tmp_path):
    overrides = ["training.max_steps=2", "model.system=emrrg", "model.options={gate_warm_up: none}"]
    result = run_recipe(tiny_recipe(*overrides, "model.freeze=[language_model]"), tmp_path / "emrrg")
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    assert model.config.model_type == "emrrg"
    assert model.config.gate_warm_up == "none"
    assert torch.count_nonzero(model.cross_attention.layers["0"].gate.weight)
    for override, message in [
        ("model.system=r2gen", "model.system must be one of mambaxray, emrrg"),
        ("model.options={gates: none}", "emrrg has no field gates"),
    ]:
        with pytest.raises(RecipeError, match=re.escape(message)):
            run_recipe(tiny_recipe(*overrides, override), tmp_path / override)
