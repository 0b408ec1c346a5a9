"""Model cards say what is known, say so where nothing is, and leave what their author wrote."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from mambaxray import make_tiny_models, write_model_card


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_tiny_models(folder)
    return folder


@pytest.fixture
def run(models, tmp_path):
    """A run's folder: a model, its recipe, environment, result and scores."""
    (models / "mambaxray").rename(tmp_path / "model")
    data = tmp_path / "prepared"
    data.mkdir()
    card = {
        "data_set": "mimic-cxr",
        "counts": {"train": 1234, "test": 56},
        "section": "findings",
        "cleaning": "r2gengpt",
        "split_source": "PhysioNet",
        "shared_patients": 0,
    }
    (data / "prepared.json").write_text(json.dumps(card), encoding="utf-8")
    recipe = {"stage": "finetune", "description": "A trial", "data": {"source": str(data), "options": {}}, "model": {}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    environment = {"seed": 7, "devices": ["NVIDIA X"], "processes": 2, "versions": {"torch": "2.13.0", "peft": None}}
    (tmp_path / "environment.json").write_text(json.dumps(environment | {"git": None}), encoding="utf-8")
    result = {"steps": 900, "seconds": 120.0, "trained_parameters": 10, "total_parameters": 54321, "metrics": {}}
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    scores = {
        "scores": {"Bleu_4": 0.1234, "F1_edema": 0.5},
        "intervals": {"Bleu_4": [0.1, 0.15]},
        "signature": "nrefs:1|x",
    }
    (tmp_path / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    yield tmp_path
    (tmp_path / "model").rename(models / "mambaxray")


def test_a_card_says_what_the_run_says(run):
    card = ModelCard.load(write_model_card(run / "model", examples=False))
    for known in (
        "A trial",
        "mimic-cxr",
        "train 1,234, test 56",
        "findings",
        "r2gengpt",
        "PhysioNet",
        "900",
        "2.0 minutes",
    ):
        assert known in card.text
    for known in (
        "NVIDIA X",
        "54,321",
        "torch 2.13.0",
        "| Bleu_4 | 0.123 | 0.100 to 0.150 |",
        "nrefs:1|x",
        "cxpmrg_bench",
    ):
        assert known in card.text
    assert str(run) not in card.text
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("Bleu_4", 0.1234, "mimic-cxr")
    assert result.metric_args == {"signature": "nrefs:1|x", "interval_95": [0.1, 0.15]}
    assert card.data.pipeline_tag == "image-to-text"


def test_a_model_of_credentialed_data_is_gated(run):
    data = ModelCard.load(write_model_card(run / "model", examples=False)).data
    assert "PhysioNet" in data.extra_gated_prompt
    assert "checkbox" in data.extra_gated_fields.values()


def test_what_is_unknown_is_called_so(models):
    card = ModelCard.load(write_model_card(models / "r2gengpt", examples=False))
    for row in ("data set", "studies by split", "time", "hardware", "parameters in all"):
        assert f"| {row} | not recorded |" in card.text
    assert "On a test split: not measured." in card.text
    assert "r2gengpt" in card.text.split("## Citation")[1]
    assert card.data.eval_results is None
    assert "extra_gated_prompt" not in card.data.to_dict()
    assert "license" not in card.data.to_dict()


def test_the_card_of_a_model_that_looks_up_memories_says_that_they_are_not_published(models):
    text = write_model_card(models / "ammrg", examples=False).read_text(encoding="utf-8")
    assert "**It looks up a memory of training studies** (report, visual)" in text
    assert "--memory NAME=FOLDER" in text
    assert "looks up" not in write_model_card(models / "mambaxray", examples=False).read_text(encoding="utf-8")


def test_what_the_author_wrote_stays_and_the_rest_follows_the_run(run):
    file = write_model_card(run / "model", examples=False)
    text = file.read_text(encoding="utf-8")
    text = text.replace("# A trial, trained on mimic-cxr", "# My model\n\nWritten by hand.").replace(
        "library_name:", "license: mit\nlibrary_name:"
    )
    # The author takes the section on limits over.
    start = text.index("<!-- mambaxray: limits -->")
    end = text.index("<!-- /mambaxray -->", start) + len("<!-- /mambaxray -->")
    text = text[:start] + "## Limits\n\nMy own." + text[end:]
    file.write_text(text, encoding="utf-8")
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    scores["scores"]["Bleu_4"] = 0.2
    (run / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    card = ModelCard.load(write_model_card(run / "model", examples=False))
    assert "Written by hand." in card.text
    assert "My own." in card.text
    assert "mambaxray: limits" not in card.text
    assert "| Bleu_4 | 0.200 |" in card.text
    assert card.data.license == "mit"
    assert card.data.eval_results[0].metric_value == 0.2
    again = write_model_card(run / "model", examples=False).read_text(encoding="utf-8")
    assert again == write_model_card(run / "model", examples=False).read_text(encoding="utf-8")


def test_a_card_without_marks_is_kept_above_what_is_known(models):
    (models / "vision_mamba" / "README.md").write_text("---\ntags: [mine]\n---\n# Ours\n\nHello.\n", encoding="utf-8")
    card = ModelCard.load(write_model_card(models / "vision_mamba"))
    assert card.text.strip().startswith("# Ours\n\nHello.")
    assert card.data.tags[0] == "mine"
    assert "this model writes no reports" in card.text
    assert card.data.pipeline_tag == "image-feature-extraction"


def test_the_blank_form_of_other_libraries_makes_room(models):
    form = ModelCard.from_template(ModelCardData(library_name="peft")).content
    (models / "mambaxray_pretraining" / "README.md").write_text(form, encoding="utf-8")
    card = ModelCard.load(write_model_card(models / "mambaxray_pretraining"))
    assert "More Information Needed" not in card.text
    assert card.data.library_name == "transformers"


@pytest.mark.slow
def test_examples_are_three_phantoms_with_both_reports(models):
    card = ModelCard.load(write_model_card(models / "emrrg"))
    assert len(list((models / "emrrg" / "examples").glob("*.png"))) == 3
    examples = card.text.split("## Examples on phantoms")[1].split("<!-- /mambaxray -->")[0]
    assert examples.count("![phantom") == 3


def test_scores_of_another_kind_are_refused(models, tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match="holds no scores"):
        write_model_card(models / "r2gengpt", scores=tmp_path / "x.json")
    with pytest.raises(FileNotFoundError, match="is absent"):
        write_model_card(models / "r2gengpt", scores=tmp_path / "y.json")
    with pytest.raises(FileNotFoundError, match="holds no model"):
        write_model_card(tmp_path)


def test_a_card_says_what_the_model_was_trained_on_whatever_its_recipe_was_written_for(run):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    data = run / "prepared"
    for data_set, source in (("nih-chest-xray14", str(data)), ("someone/x-rays", "hf://datasets/someone/x-rays")):
        card = json.loads((data / "prepared.json").read_text(encoding="utf-8")) | {"data_set": data_set}
        (data / "prepared.json").write_text(json.dumps(card), encoding="utf-8")
        values = recipe | {"description": "a tiny report generator from scratch", "data": {"source": source}}
        (run / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        (run / "model" / "README.md").unlink(missing_ok=True)
        text = ModelCard.load(write_model_card(run / "model", examples=False)).text
        assert text.lstrip().startswith(f"# a tiny report generator from scratch, trained on {data_set}\n")
        assert f"| data set | {data_set} |" in text
        assert "drawn" not in text.split("## Examples")[0]
