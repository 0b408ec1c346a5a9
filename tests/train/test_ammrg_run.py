"""AM-MRG's stage 2 by recipe, from the folders that stage 1 and the memory builder leave."""

import pytest
import torch
from tiny import VISION_CONFIGS
from tiny_training import TINY
from transformers import AutoModelForImageTextToText

from mambaxray import AMMRGForConditionalGeneration, load_recipe, make_phantoms, run_recipe
from mambaxray.configuration.configuration_ammrg_classification import AMMRGClassificationConfig
from mambaxray.modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory, TrainingSplit
from mambaxray.modeling_mambaxray.modeling_ammrg_classification import AMMRGForDiseaseClassification
from mambaxray.train.recipe import RecipeError

WIDTHS = {"visual": 24, "report": 10}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A folder with `stage1`, of three layers, and the memories `visual` and `report` of training phantoms."""
    folder = tmp_path_factory.mktemp("before")
    config = AMMRGClassificationConfig(
        VISION_CONFIGS["vision_mamba"](),
        query_hidden_size=16,
        query_hidden_layers=3,
        query_attention_heads=2,
        query_intermediate_size=24,
        query_dropout=0.3,
        encoder_hidden_size=20,
    )
    torch.manual_seed(0)
    AMMRGForDiseaseClassification(config).save_pretrained(folder / "stage1")
    studies = [
        study
        for split in make_phantoms(30, image_size=32).values()
        for study in split.select_columns(["study_id", "patient_id", "split"])
    ]
    training = [study for study in studies if study["split"] == "train"]
    for name, width in WIDTHS.items():
        memory = StudyMemory(
            {"values": torch.randn(len(training), width)},
            [study["study_id"] for study in training],
            [study["patient_id"] for study in training],
            MemorySource("phantoms", str(folder / "stage1")),
            TrainingSplit.of(studies),
        )
        memory.save_pretrained(folder / name)
    return folder


def overrides(before, **changes):
    values = {
        "stage1": before / "stage1",
        "memories": {name: str(before / name) for name in WIDTHS},
        "options": "{hopfield_heads: 2, hopfield_head_size: 8, hopfield_value_size: 8}",
    } | changes
    common = [each for each in TINY if not each.startswith("model.vision_encoder")]
    return [*common, "training.max_steps=2", *(f"model.{name}={value}" for name, value in values.items())]


def test_a_run_starts_from_stage_1_and_is_made_for_its_memories(before, tmp_path):
    result = run_recipe(load_recipe("ammrg_phantoms", overrides(before)), tmp_path / "run")
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    assert type(model) is AMMRGForConditionalGeneration
    assert model.config.memory_sizes == WIDTHS
    assert (model.config.query_hidden_layers, model.config.query_dropout) == (3, 0.3)
    assert model.config.queries_from_stage1
    stage1 = AMMRGForDiseaseClassification.from_pretrained(before / "stage1")
    for name in ("disease_queries", "qformer_projection"):
        for key, weight in getattr(stage1, name).state_dict().items():
            assert torch.equal(getattr(model, name).state_dict()[key], weight), key
    # The vision encoder is stage 1's, and goes on learning.
    moved = [
        not torch.equal(model.vision_encoder.state_dict()[key], weight)
        for key, weight in stage1.vision_encoder.state_dict().items()
    ]
    assert any(moved)
    assert model.study_memory.keys() == set(WIDTHS)
    assert {"eval_loss", "eval_F1_micro_14_uncertain-negative"} <= result.metrics.keys()


def test_a_memory_that_is_left_out_is_said_so(before, tmp_path):
    only = {"visual": str(before / "visual")}
    with pytest.raises(RecipeError, match=r"looks up memories: give model\.memories\.report=FOLDER"):
        run_recipe(load_recipe("ammrg_phantoms", overrides(before, memories=only)), tmp_path / "run")
    without = "{report_memory_size: null, hopfield_heads: 2, hopfield_head_size: 8, hopfield_value_size: 8}"
    recipe = load_recipe("ammrg_phantoms", overrides(before, memories=only, options=without))
    result = run_recipe(recipe, tmp_path / "run")
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    assert model.config.memory_sizes == {"visual": WIDTHS["visual"]}


def test_adapters_on_the_language_model_leave_the_queries_of_stage_1_alone(before, tmp_path):
    recipe = load_recipe("ammrg_phantoms", [*overrides(before), "model.lora={r: 2, lora_alpha: 2}"])
    result = run_recipe(recipe, tmp_path / "run")
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    stage1 = AMMRGForDiseaseClassification.from_pretrained(before / "stage1")
    weights = dict(model.named_parameters())
    for key, weight in stage1.disease_queries.state_dict().items():
        assert torch.equal(weights[f"disease_queries.{key}"], weight), key
    assert any(name.startswith("associations.modules_to_save.") for name in weights)
    assert model.study_memory.keys() == set(WIDTHS)
