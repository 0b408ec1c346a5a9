"""The dual-stage system from its stage 1 and its memory to reports, by the recipe of the package."""

import pytest
import torch
from disease_aware import EXEMPLAR_TEMPLATE
from tiny import VISION_CONFIGS
from tiny_training import TINY
from transformers import AutoModelForImageTextToText, AutoProcessor

from mambaxray import (
    DiseaseAwareForPreTraining,
    DiseaseAwarePreTrainingConfig,
    MambaXrayImageProcessor,
    evaluate_model,
    load_recipe,
    make_phantoms,
    run_recipe,
)
from mambaxray.train.build_memories import build_retrieval_memory
from mambaxray.train.recipe import RecipeError

DATA = {"num_studies": 24, "image_size": 32}


@pytest.fixture(scope="module")
def stage1(tmp_path_factory):
    """A stage 1 that has learned nothing, and the memory that its command builds."""
    folder = tmp_path_factory.mktemp("stage1")
    torch.manual_seed(0)
    text = {"model_type": "bert", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = DiseaseAwarePreTrainingConfig(
        VISION_CONFIGS["vmamba"](), text | {"num_attention_heads": 2}, query_hidden_size=16, query_attention_heads=2
    )
    DiseaseAwareForPreTraining(config).save_pretrained(folder / "model")
    MambaXrayImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "model")
    build_retrieval_memory(folder / "memory", str(folder / "model"), "phantoms", data_options=DATA, processes=1)
    return folder


def overrides(stage1, *further):
    tiny = [each for each in TINY if "vision_encoder" not in each]
    return [
        *tiny,
        f"data.options={DATA}".replace("'", ""),
        f"model.stage1={stage1 / 'model'}",
        f"model.memories.retrieval={stage1 / 'memory'}",
        "model.options={query_hidden_size: 16, query_attention_heads: 2, fusion_attention_heads: 2}",
        f"model.processor={{exemplar_template: '{EXEMPLAR_TEMPLATE}', max_exemplar_tokens: 30}}",
        *further,
    ]


@pytest.fixture(scope="module")
def run(stage1, tmp_path_factory):
    recipe = load_recipe("disease_aware_phantoms", overrides(stage1))
    return run_recipe(recipe, tmp_path_factory.mktemp("run") / "run")


def test_it_trains_by_recipe_from_stage_1_which_stays_as_it_was(run, stage1):
    losses = [entry["loss"] for entry in run.history if "loss" in entry]
    assert len(losses) == 4
    assert any("eval_F1_micro_14_uncertain-negative" in entry for entry in run.history)
    model = AutoModelForImageTextToText.from_pretrained(run.model_dir)
    before = DiseaseAwareForPreTraining.from_pretrained(stage1 / "model").state_dict()
    for name, tensor in model.state_dict().items():
        if name.startswith(("vision_encoder.", "disease_queries.")):
            assert torch.equal(tensor, before[name]), name
    assert set(model.study_memory) == {"retrieval"}


def test_the_trained_model_evaluates_with_an_exemplar_for_each_study(run):
    model = AutoModelForImageTextToText.from_pretrained(run.model_dir).eval()
    processor = AutoProcessor.from_pretrained(run.model_dir)
    assert (processor.exemplar_template, processor.max_exemplar_tokens) == (EXEMPLAR_TEMPLATE, 30)
    studies = make_phantoms(**DATA)["test"]
    done = evaluate_model(model, processor, studies, evidence=True, max_new_tokens=5, scoring={"metrics": ["BLEU"]})
    patients = dict(zip(studies["study_id"], studies["patient_id"], strict=True))
    memory = model.study_memory["retrieval"]
    for prediction in done.predictions:
        (exemplar,) = prediction.evidence["Edema"]["studies"]
        assert exemplar["study_id"] != prediction.study_id
        row = memory.study_ids.index(exemplar["study_id"])
        assert memory.patient_ids[row] != patients[prediction.study_id]


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ("model.memories={}", r"give model.memories.retrieval=FOLDER"),
        ("model.options.query_attention_heads=4", "its query_attention_heads is 2, this model's 4"),
        ("model.processor={max_tokens: 3}", "DiseaseAwareProcessor has no option max_tokens; it has exemplar_template"),
        ("data.options.num_studies=20", "model.memories.retrieval=.*study .* not in"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_the_recipes_key(stage1, tmp_path, further, message):
    recipe = load_recipe("disease_aware_phantoms", overrides(stage1, further))
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe, tmp_path / "run")


def test_without_exemplars_it_needs_no_memory(stage1, tmp_path):
    further = [
        "model.memories={}",
        "model.options.exemplars=false",
        "model.options.fusion=mean",
        "training.max_steps=1",
    ]
    result = run_recipe(load_recipe("disease_aware_phantoms", overrides(stage1, *further)), tmp_path / "run")
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    assert model.study_memory is None
    assert not model.recalls
