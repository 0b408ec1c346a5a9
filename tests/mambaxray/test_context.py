"""The clinical context on the command line: options for one study, columns of a CSV for many."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mambaxray import MambaXrayForConditionalGeneration, MambaXrayProcessor
from mambaxray.cli import app
from mambaxray.context import check_context, given_context, with_context
from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.report_files import read_reports
from mambaxray.evaluation.study_report import StudyReport
from mambaxray.generate import collect_studies

CONTEXT = ("indication", "prior_images", "prior_report")


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory) -> Path:
    """A model that takes indication and prior study, and writes two sections by request; with images beside it."""
    folder = tmp_path_factory.mktemp("context")
    given = MambaXrayProcessor(
        processor.image_processor,
        processor.tokenizer,
        num_image_tokens=processor.num_image_tokens,
        context=CONTEXT,
        section_instructions=["findings", "impression"],
    )
    own = MambaXrayForConditionalGeneration(model.config.__class__(**model.config.to_dict()))
    torch.manual_seed(0)
    own.load_state_dict(model.state_dict())
    own.take_prior_images(given.prior_image_token_id)
    own.save_pretrained(folder / "model")
    given.save_pretrained(folder / "model")
    for seed in range(3):
        make_study(seed, image_size=48)["images"][0].save(folder / f"{seed}.png")
    (folder / "prior.txt").write_text("Small left effusion.\n", encoding="utf-8")
    return folder


def generate(folder: Path, *arguments: str | Path):
    options = ["--model", folder / "model", "--max-new-tokens", "12", "--device", "cpu"]
    return CliRunner().invoke(app, [*map(str, ("generate", *arguments, *options))])


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_options_reach_the_model_and_the_record(folder, tmp_path):
    image = folder / "0.png"
    plain, told = tmp_path / "plain.jsonl", tmp_path / "told.jsonl"
    context = ("--indication", "Cough.", "--prior", folder / "1.png", "--prior", folder / "2.png")
    assert generate(folder, image, "--output", plain).exit_code == 0
    result = generate(folder, image, "--output", told, *context, "--prior-report", folder / "prior.txt")
    assert result.exit_code == 0, result.output
    (without,), (row,) = rows(plain), rows(told)
    assert "context" not in without
    assert row["context"] == {
        "indication": "Cough.",
        "prior_images": [str(folder / "1.png"), str(folder / "2.png")],
        "prior_report": "Small left effusion.",
    }
    assert row["report"] != without["report"]
    assert read_reports(told)[0].context == row["context"]


def test_resuming_writes_a_report_anew_whose_context_has_changed(folder, tmp_path):
    output = tmp_path / "out.jsonl"
    arguments = (folder / "0.png", "--output", output, "--resume", "--prior", folder / "1.png", "--indication")
    assert generate(folder, *arguments, "Cough.").exit_code == 0
    assert "has a report" in " ".join(generate(folder, *arguments, "Cough.").output.split()) or len(rows(output)) == 1
    again = generate(folder, *arguments, "Fever and a long history.")
    assert "1 reports are written again: the images or context of their studies have changed" in again.output
    assert rows(output)[0]["context"]["indication"] == "Fever and a long history."


def test_a_csv_gives_each_study_its_own_context(folder, tmp_path):
    columns = ["study_id", "image", "indication", "prior_image", "prior_report", "technique"]
    table = [
        ["a", folder / "0.png", "Cough.", folder / "1.png", "Clear.", "AP"],
        ["a", folder / "1.png", "", f"{folder / '1.png'};{folder / '2.png'}", "", ""],
        ["b", folder / "2.png", "", "", "", ""],
    ]
    with (tmp_path / "studies.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *table])
    first, second = collect_studies([str(tmp_path / "studies.csv")])
    priors = [str(folder / "1.png"), str(folder / "2.png")]
    told = {"indication": "Cough.", "technique": "AP", "prior_report": "Clear.", "prior_images": priors}
    assert (first.context, second.context) == (told, None)
    result = generate(folder, tmp_path / "studies.csv", "--output", tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.output
    assert "the model does not look at the column technique" in result.output
    assert [row.get("context") for row in rows(tmp_path / "out.jsonl")] == [told, None]


def test_rows_of_a_study_that_contradict_each_other_are_named(folder, tmp_path):
    with (tmp_path / "studies.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["study_id", "image", "indication"], ["a", folder / "0.png", "x"], ["a", folder / "1.png", "y"]]
        )
    with pytest.raises(ValueError, match=r"line 3: the column 'indication' differs from the rows of the same study"):
        collect_studies([str(tmp_path / "studies.csv")])


def test_a_section_is_asked_for(folder, tmp_path):
    for section in ("findings", "impression"):
        result = generate(folder, folder / "0.png", "--output", tmp_path / f"{section}.jsonl", "--section", section)
        assert result.exit_code == 0, result.output
    found, concluded = (rows(tmp_path / f"{section}.jsonl")[0] for section in ("findings", "impression"))
    assert found["report"] != concluded["report"]
    refused = generate(folder, folder / "0.png", "--section", "findings+impression")
    assert refused.exit_code == 2
    assert "those it was trained for: findings, impression" in " ".join(refused.output.split())


def test_an_image_of_the_study_itself_is_no_prior(tmp_path):
    study = StudyReport("s", images=(str(tmp_path / "today.png"),))
    with pytest.raises(ValueError, match="is an image of the study itself"):
        with_context([study], {"prior_images": [str(tmp_path / "." / "today.png")]})


def test_the_context_of_one_patient_is_not_given_to_several_studies():
    studies = [StudyReport("a"), StudyReport("b")]
    with pytest.raises(ValueError, match="--indication, --prior-report belongs to one study, but there are 2"):
        with_context(studies, {"indication": "Cough.", "prior_report": "Clear."})
    assert [study.context for study in with_context(studies, {"section": "findings"})] == [{"section": "findings"}] * 2


def test_what_a_model_does_not_take_is_refused(processor):
    given = {"indication": "Cough."}
    with pytest.raises(ValueError, match="does not take --indication; of the clinical context it takes nothing"):
        check_context(processor, [StudyReport("a", context=given)], given)


def test_files_that_are_not_there_or_no_text_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: no such file"):
        given_context(None, [tmp_path / "nowhere.png"], None, None)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is not a text in UTF-8"):
        given_context(None, [], tmp_path / "a.png", None)
