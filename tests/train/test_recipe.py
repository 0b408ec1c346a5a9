"""Recipes: what they say, and what they refuse."""

import math

import pytest

from mambaxray import load_recipe
from mambaxray.train.recipe import RecipeError, list_recipes, make_recipe
from mambaxray.train.run import training_arguments

MINIMAL = {"stage": "finetune", "model": {"checkpoint": "some/model"}}


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_of_the_package_is_valid_and_explains_itself(tmp_path, name):
    recipe = load_recipe(name)
    training_arguments(recipe, tmp_path)
    assert recipe.description
    assert recipe.training["learning_rate"] > 0


@pytest.mark.parametrize("name", list_recipes())
def test_a_resolved_recipe_reads_back_as_it_is(tmp_path, name):
    recipe = load_recipe(name, ["seed=5", "data.source=here"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sede": 1}, "unknown key sede; did you mean seed"),
        ({"data": {"sorce": "x"}}, "unknown key data.sorce; did you mean source"),
        ({"training": {"learning_rat": 1}}, "unknown key training.learning_rat; did you mean learning_rate"),
        ({"generation": {"num_beam": 1}}, "unknown key generation.num_beam; did you mean num_beams"),
        ({"training": {"output_dir": "x"}}, "unknown key training.output_dir"),
        ({"seed": "one"}, "seed must be int, got 'one'"),
        ({"seed": True}, "seed must be int, got True"),
        ({"model": {"checkpoint": "a", "freeze": ["b", 1]}}, "model.freeze must be list of str, got ['b', 1]"),
        ({"model": {"vision_encoder": 3}}, "model.vision_encoder must be str or dict or null, got 3"),
        ({3: "three"}, "unknown key 3; known: stage"),
        ({"sede": 1, "seed": "one"}, "unknown key sede; did you mean seed"),
        ({"data": 3}, "data must hold keys and values, got 3"),
        ({"stage": "finetuen"}, "stage is 'finetuen'; it must be one of"),
        ({"stage": ["finetune"]}, r"stage is ['finetune']; it must be one of"),
        ({"model": {}}, "give model.checkpoint, or both"),
        ({"model": {"checkpoint": "a", "vision_encoder": "b"}}, "whole model"),
        ({"model": {"vision_encoder": {"hidden_size": 3}, "language_model": "b"}}, "without model_type"),
        ({"model": {"vision_encoder": "a", "language_model": "b", "quantization": "3bit"}}, "4bit, 8bit or null"),
        (
            {"model": {"checkpoint": "a", "system": "nonsense"}},
            "which model.system can't change.*model.system=mambaxray",
        ),
        ({"model": {"checkpoint": "a", "options": {"x": 1}}}, "which model.options can't change"),
        (
            {"model": {"checkpoint": "a", "image_size": 64}},
            "which model.image_size can't change.*model.image_size=null",
        ),
        (
            {"model": {"checkpoint": "a", "vocab_size": 64}},
            "which model.vocab_size can't change.*model.vocab_size=1000",
        ),
        ({"model": {"checkpoint": "a", "language_model_dtype": "float32"}}, "model.language_model_dtype can't change"),
        (
            {
                "model": {
                    "vision_encoder": "a",
                    "language_model": {"model_type": "llama"},
                    "language_model_dtype": "float32",
                }
            },
            "model.language_model_dtype needs a pre-trained",
        ),
        ({"metrics": ["BLUE"]}, "metrics: unknown metric 'BLUE'"),
        ({"early_stopping_patience": 2}, "needs training.metric_for_best_model"),
    ],
)
def test_what_a_recipe_cannot_say_is_named(values, message):
    with pytest.raises(RecipeError, match=message.replace("[", r"\[")):
        make_recipe(MINIMAL | values)


@pytest.mark.parametrize("name", list_recipes())
def test_a_share_of_all_steps_evaluates_at_every_part_of_an_epoch_and_at_the_last_step(name):
    training = load_recipe(name).training
    share = training.get("eval_steps")
    if not isinstance(share, float):
        pytest.skip("evaluates by epochs or by a number of steps")
    times = 2 * training["num_train_epochs"]
    for half_epoch in range(1, 20_000, 7):
        assert math.ceil(times * half_epoch * share) == half_epoch


PAPERS = "Generate a comprehensive and detailed diagnosis report for this chest X-ray image."


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "length", "language_model"),
    [
        ("emrrg_iu", 30, 20, 60, "Qwen/Qwen1.5-1.8B-Chat"),
        ("emrrg_iu_llama2", 30, 20, 60, "meta-llama/Llama-2-7b-chat-hf"),
        ("emrrg_mimic", 6, 18, 100, "meta-llama/Llama-2-7b-chat-hf"),
        ("emrrg_chexpert_plus", 6, 18, 100, "meta-llama/Llama-2-7b-chat-hf"),
    ],
)
def test_emrrgs_recipes_have_what_its_section_4_2_states(name, epochs, batch, length, language_model):
    recipe = load_recipe(name)
    assert recipe.training["num_train_epochs"] == epochs
    assert recipe.training["per_device_train_batch_size"] == batch
    assert recipe.model.max_report_length == length
    assert recipe.model.language_model == language_model
    assert recipe.model.instruction == PAPERS
    assert recipe.model.vision_lora["features"] == "X+in_proj"
    if name.startswith("emrrg_iu"):
        assert recipe.training["eval_strategy"] == "epoch"


@pytest.mark.parametrize("data_set", ["iu", "mimic", "chexpert_plus"])
def test_ammrgs_recipes_have_what_its_paper_states(data_set):
    recipe = load_recipe(f"ammrg_{data_set}")
    assert recipe.model.system == "ammrg"
    assert recipe.model.language_model == "meta-llama/Llama-2-7b-chat-hf"
    assert recipe.model.freeze == ["language_model"]
    assert recipe.model.memories.keys() == {"visual", "report"}
    assert (recipe.model.image_size, recipe.training["learning_rate"]) == (224, 1e-4)
    assert recipe.model.options["hopfield_beta"] == 4.0
    assert recipe.model.instruction.endswith("diagnosis report for this chest X-ray image.")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "a", "streaming": True}, "data.streaming is for data.folders"),
        ({"source": "a", "folders": ["b"]}, "data.source and data.folders exclude each other"),
    ],
)
def test_data_that_a_pretraining_recipe_would_pass_over_is_refused(data, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe({"stage": "pretrain", "model": {"checkpoint": "a"}, "data": data})


def test_a_dual_encoders_checkpoint_settles_its_width():
    with pytest.raises(RecipeError, match=r"which model\.projection_dim can't change"):
        make_recipe({"stage": "contrast", "model": {"checkpoint": "a", "projection_dim": 64}})


def test_a_recipe_without_what_its_stage_needs_is_refused():
    with pytest.raises(RecipeError, match="the recipe lacks model"):
        make_recipe({"stage": "finetune"})


def test_overrides_replace_values_and_make_sections():
    recipe = load_recipe(
        "finetune_phantoms",
        ["training.learning_rate=1e-4", "model.freeze=[language_model]", "model.lora.r=4", "data.max_train=3"],
    )
    assert recipe.training["learning_rate"] == 1e-4
    assert recipe.model.freeze == ["language_model"]
    assert recipe.model.lora == {"r": 4}
    assert recipe.data.max_train == 3


@pytest.mark.parametrize("override", ["seed", "=1", "seed.x=1", "training.learning_rate=[1"])
def test_an_override_that_is_none_is_refused(override):
    with pytest.raises(RecipeError):
        load_recipe("finetune_phantoms", [override])


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    with pytest.raises(FileNotFoundError, match="finetune_phantoms"):
        load_recipe("finetune_fantoms")


def test_a_file_that_is_no_recipe_is_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(RecipeError, match="must hold keys and values, not list"):
        load_recipe(tmp_path / "list.yaml")
    for text in ("a: [", "\ta: 1", "a: *b", "? [1, 2]\n: 3", "[" * 3000, "!!python/object:os.system {}", "a: \x07"):
        (tmp_path / "broken.yaml").write_text(text)
        with pytest.raises(RecipeError, match="not valid YAML") as caught:
            load_recipe(tmp_path / "broken.yaml")
        assert len(str(caught.value).splitlines()) == 1
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="not a text in UTF-8"):
        load_recipe(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.max_steps=abc", "training.max_steps must be a number, got 'abc'"),
        ("training.max_steps=-5", "training.max_steps must be positive, or -1"),
        ("training.learning_rate=fast", "training.learning_rate must be a number, got 'fast'"),
    ],
)
def test_a_training_value_that_is_no_possible_number_is_refused_by_its_key(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("finetune_phantoms", [override])


@pytest.mark.parametrize(
    ("metric", "is_high"),
    [
        *[("wrong_side_rate", False), ("eval_contradiction_rate", False), ("loss", False), ("report", False)],
        *[("text_to_vision", False), ("F1_micro_14_uncertain-negative", True), ("unique_ratio", True)],
    ],
)
def test_the_best_model_is_the_one_with_the_lowest_of_what_should_be_low(tmp_path, metric, is_high):
    recipe = load_recipe("finetune_phantoms", [f"training.metric_for_best_model={metric}"])
    assert training_arguments(recipe, tmp_path).greater_is_better is is_high
    told = load_recipe(
        "finetune_phantoms", [f"training.metric_for_best_model={metric}", "training.greater_is_better=true"]
    )
    assert training_arguments(told, tmp_path).greater_is_better


def test_the_best_model_must_be_in_a_checkpoint(tmp_path):
    steps = ["training.eval_steps=2", "training.save_steps=4", "training.load_best_model_at_end=true"]
    with pytest.raises(RecipeError, match=r"training\.save_steps is 4, training\.eval_steps 2"):
        training_arguments(load_recipe("finetune_phantoms", steps), tmp_path)
