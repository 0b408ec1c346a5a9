"""AM-MRG in the hands of a user: predictions and the explain page show what each disease recalls, a push does not."""

import json
import shutil

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from typer.testing import CliRunner

from mambaxray import (
    AMMRGForConditionalGeneration,
    explain_report,
    generate_predictions,
    make_phantoms,
    make_tiny_models,
    write_attention_page,
)
from mambaxray.cli import app
from mambaxray.configuration.observations import OBSERVATIONS
from mambaxray.info import describe_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    (path,) = make_tiny_models(tmp_path_factory.mktemp("tiny"), names=["ammrg"])
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def studies():
    return make_phantoms(20, image_size=32)["test"]


def test_the_pipeline_writes_what_the_model_does(folder, loaded, studies):
    model, processor = loaded
    image = studies[0]["images"][0]
    (report,) = pipeline("image-to-text", model=str(folder))(image, max_new_tokens=6)
    inputs = processor(images=[image])
    ids = model.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert report["generated_text"] == processor.decode(ids, skip_special_tokens=True).strip()
    assert type(model) is AMMRGForConditionalGeneration


def test_predictions_hold_evidence_when_asked_and_not_otherwise(loaded, studies, tmp_path):
    model, processor = loaded
    options = {"max_new_tokens": 4, "batch_size": 2}
    generate_predictions(model, processor, studies, output=tmp_path / "without.jsonl", **options)
    generate_predictions(model, processor, studies, output=tmp_path / "with.jsonl", evidence=True, **options)
    rows = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("without", "with")
    ]
    assert [row["report"] for row in rows[0]] == [row["report"] for row in rows[1]]
    assert not any("evidence" in row for row in rows[0])
    for row in rows[1]:
        assert row["evidence"].keys() == set(OBSERVATIONS)
        for each in row["evidence"].values():
            assert {study["memory"] for study in each["studies"]} == {"visual", "report"}
            assert all(0 <= study["weight"] <= 1 for study in each["studies"])
            assert len(each["map"]) == len(each["map"][0]) == 2


def test_the_explain_page_shows_the_recalled_studies_with_the_text_that_the_memory_holds(loaded, studies, tmp_path):
    model, processor = loaded
    explanation = explain_report(model, processor, studies[0]["images"], max_new_tokens=6)
    path = write_attention_page(tmp_path / "page.html", explanation, title="AM-MRG", summary="One study.")
    page = path.read_text(encoding="utf-8")
    for each in explanation.evidence:
        assert len(each.studies) == 2 * model.num_recalled_studies
        for study in each.studies:
            assert f"{study.study_id} ({study.memory})" in page
            assert study.text.split(".")[0] in page


def test_info_names_the_family_and_counts_its_parts(folder):
    facts = describe_model(str(folder))
    assert facts["Model"]["family"] == "ammrg"
    assert {"disease queries", "associations"} <= facts["Parameters"].keys()


def test_without_its_memories_the_command_says_what_to_do(folder, studies, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("_patient_text"))
    studies[0]["images"][0].save(tmp_path / "xray.png")
    done = CliRunner().invoke(app, ["generate", str(tmp_path / "xray.png"), "--model", str(copy)])
    assert done.exit_code == 2
    assert "has no visual memory" in done.output
    assert "mambaxray memory build" in done.output


def test_a_damaged_memory_is_named_as_the_cause(folder, studies, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for file in copy.glob("_patient_text/study_memory/*/memory.json"):
        file.write_text("{")
    studies[0]["images"][0].save(tmp_path / "xray.png")
    done = CliRunner().invoke(app, ["generate", str(tmp_path / "xray.png"), "--model", str(copy)])
    assert done.exit_code == 2
    assert "is no memory that can be read" in done.output
