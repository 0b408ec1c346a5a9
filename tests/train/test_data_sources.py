"""Several data sources in one recipe: joined with options of their own, and refused where their ids are alike."""

import json

import pytest
import torch

from mambaxray import load_recipe, run_recipe
from mambaxray.data.phantoms import make_phantoms
from mambaxray.model_facts import ModelFacts, read_facts
from mambaxray.train.contrast import make_dual_encoder
from mambaxray.train.recipe import RecipeError, make_recipe, with_defaults
from mambaxray.train.recipe_base import DataSection, SourceSection
from mambaxray.train.recipe_contrast import DualEncoderSection
from mambaxray.train.recipe_pretrain import ImageDataSection
from mambaxray.train.recipe_sections import build_section
from mambaxray.train.stage_parts import freeze, load_all_splits, load_splits

PHANTOMS = {"source": "phantoms"}


def phantoms(count=10, **more):
    return {
        "source": "phantoms",
        "options": {"num_studies": count, "image_size": 32, "seed": more.pop("seed", 0)},
    } | more


def data(*sources):
    return build_section(DataSection, {"sources": list(sources)}, "data")


@pytest.fixture
def annotated(tmp_path):
    """Another data set, with a test split and no validation split."""
    for number, study in enumerate(make_phantoms(6, seed=9, image_size=32)["train"]):
        study["images"][0].save(tmp_path / f"{number}.png")
    rows = [{"id": f"a{n}", "report": f"Report {n}.", "image_path": [f"{n}.png"]} for n in range(4)]
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / f"{number}.png").rename(tmp_path / "images" / f"{number}.png")
    (tmp_path / "annotation.json").write_text(json.dumps({"train": rows[:3], "val": [], "test": rows[3:]}))
    return str(tmp_path)


def test_sources_are_joined_split_by_split_each_with_its_own_options(annotated):
    splits = load_all_splits(data(phantoms(10, max_train=2), {"source": annotated}, phantoms(20, seed=5)))
    assert {name: len(studies) for name, studies in splits.items()} == {"train": 21, "validation": 3, "test": 4}
    assert splits["train"]["study_id"][2:5] == ["a0", "a1", "a2"]
    assert splits["train"][2]["report"] == "Report 0."
    assert splits["train"][20]["images"][0].size == (32, 32)
    train, validation = load_splits(data(phantoms(10, max_train=2), {"source": annotated}))
    assert (len(train), len(validation)) == (5, 1)


def test_one_source_may_be_written_either_way():
    written = phantoms(10, max_train=3, max_validation=1)
    one, listed = (load_all_splits(each) for each in (build_section(DataSection, written, "data"), data(written)))
    for name in ("train", "validation", "test"):
        assert one[name]["study_id"] == listed[name]["study_id"]
    assert (len(one["train"]), len(one["validation"])) == (3, 1)


def test_studies_of_the_same_id_are_refused_unless_a_prefix_tells_them_apart():
    with pytest.raises(RecipeError, match=r"sources\[0\] \(phantoms\) and data.sources\[1\].*both have the study 'ph"):
        load_all_splits(data(phantoms(), phantoms()))
    splits = load_all_splits(data(phantoms(), phantoms(prefix="again")))
    first, second = splits["train"]["study_id"][0], splits["train"]["study_id"][8]
    assert second == f"again/{first}"
    assert splits["train"]["patient_id"][8] == second
    assert splits["train"][8]["images"][0].size == (32, 32)
    assert list(splits["train"].features) == list(make_phantoms(2, image_size=32)["train"].features)


def test_a_patient_of_two_sources_is_refused_even_in_another_split(tmp_path):
    image = make_phantoms(2, image_size=32)["train"][0]["images"][0]
    for folder, shared in (("a", "train"), ("b", "test")):
        (tmp_path / folder / "images").mkdir(parents=True)
        image.save(tmp_path / folder / "images" / "x.png")
        rows = {
            split: [
                {
                    "id": f"{folder}-{split}",
                    "report": "Clear.",
                    "image_path": ["x.png"],
                    "patient_id": "shared" if split == shared else f"{folder}-{split}",
                }
            ]
            for split in ("train", "val", "test")
        }
        (tmp_path / folder / "annotation.json").write_text(json.dumps(rows))
    sources = [{"source": str(tmp_path / folder)} for folder in ("a", "b")]
    with pytest.raises(RecipeError, match=r"both have the patient 'shared'\. If they are two, give one of"):
        load_all_splits(data(*sources))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "a", "sources": [PHANTOMS]}, "data.sources have their own source: give it there.*data.source=null"),
        ({"max_train": 3, "sources": [PHANTOMS]}, "data.sources have their own max_train"),
        ({"sources": [{"source": "a", "optoins": {}}]}, r"unknown key data.sources\[0\].optoins; did you mean options"),
        ({"sources": [PHANTOMS, {"options": {}}]}, r"data.sources\[1\] lacks source"),
        ({"sources": [PHANTOMS, {"source": 3}]}, r"data.sources\[1\].source must be str, got 3"),
        ({"sources": "phantoms"}, "data.sources must be list of keys and values, got 'phantoms'"),
        ({"sources": ["phantoms"]}, r"data.sources\[0\] must hold keys and values, got 'phantoms'"),
    ],
)
def test_what_sources_cannot_be_is_named(values, message):
    with pytest.raises(RecipeError, match=message):
        build_section(DataSection, values, "data")


def test_folders_of_images_and_sources_exclude_each_other():
    with pytest.raises(RecipeError, match="exclude each other"):
        build_section(ImageDataSection, {"folders": ["a"], "sources": [PHANTOMS]}, "data")


def test_a_source_without_training_studies_is_named():
    test_only = phantoms(4) | {"options": {"num_studies": 4, "image_size": 32, "splits": {"test": 1.0}}}
    with pytest.raises(RecipeError, match="phantoms has no training studies; it has test"):
        load_all_splits(data(phantoms(), test_only))


def test_a_recipe_with_sources_reads_back_as_it_was_written():
    values = {
        "stage": "contrast",
        "model": {"checkpoint": "a"},
        "data": {"sources": [PHANTOMS, {"source": "b", "prefix": "b"}]},
    }
    recipe = make_recipe(values)
    assert recipe.data.sources[1] == SourceSection(source="b", prefix="b")
    assert with_defaults(values) == recipe.to_dict()
    assert make_recipe(recipe.to_dict()) == recipe


def test_the_contrastive_stage_learns_from_two_sources_and_its_card_names_both(tmp_path):
    overrides = [
        "data={sources: [{source: phantoms, options: {num_studies: 10, image_size: 32}}, "
        "{source: phantoms, options: {num_studies: 10, image_size: 32, seed: 3}, prefix: more}]}",
        *("model.vision_encoder.image_size=32", "model.vision_encoder.hidden_size=24", "model.vocab_size=320"),
        *("training.max_steps=2", "training.per_device_train_batch_size=4", "training.report_to=[]"),
        *('training.eval_strategy="no"', "training.save_steps=10"),
    ]
    result = run_recipe(load_recipe("contrast_phantoms", overrides), tmp_path / "run")
    assert result.steps == 2
    assert result.metrics["eval_loss"] > 0
    facts = read_facts(result.model_dir)
    assert facts.data["data_set"] == "phantoms"
    assert facts.data["data_sets"] == ["phantoms"]


def test_every_agreement_of_several_sources_binds():
    both = ModelFacts(data={"data_set": "mimic-cxr and chexpert-plus", "data_sets": ["mimic-cxr", "chexpert-plus"]})
    assert "MIMIC-CXR" in both.agreement
    assert "CheXpert Plus" in both.agreement
    assert ModelFacts(data={"data_set": "phantoms", "data_sets": ["phantoms"]}).agreement is None


def test_a_part_of_a_dual_encoder_can_be_frozen():
    text = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 16,
    }
    vision = {"model_type": "vision_mamba", "hidden_size": 16, "num_hidden_layers": 1, "image_size": 32}
    section = DualEncoderSection(vision_encoder=vision, text_encoder=text, vocab_size=300)
    torch.manual_seed(0)
    model, _ = make_dual_encoder(section, [study["report"] for study in make_phantoms(8, image_size=32)["train"]])
    freeze(model, ["text_encoder"])
    assert not any(weight.requires_grad for weight in model.text_encoder.parameters())
    assert all(weight.requires_grad for weight in model.vision_encoder.parameters())
    with pytest.raises(RecipeError, match="no part 'decoder'; the model's parts are vision_encoder, text_encoder"):
        freeze(model, ["decoder"])


def test_priors_are_those_of_the_same_source_also_under_a_prefix_and_beyond_its_limit():
    options = {"num_studies": 12, "image_size": 32, "history": True}
    sources = [{"source": "phantoms", "options": options, "prefix": name, "max_train": 2} for name in ("a", "b")]
    train, _ = load_splits(build_section(DataSection, {"sources": sources}, "data"))
    assert len(train) == 4
    later = [row for row in train if row["prior"]]
    assert [row["study_id"][:2] for row in later] == ["a/", "b/"]
    for row in later:
        assert row["prior"] == row["study_id"].removesuffix("-1") + "-0"
        assert len(row["prior_images"]) == 1
        assert row["prior_report"]
