"""`mambaxray evaluate` on real files."""

import csv
import json
import os
import subprocess
import sys

import pytest
from html_page import Page

from mambaxray.data.phantoms import make_study

REPORTS = {f"s{seed}": make_study(seed, image_size=32)["report"] for seed in range(8)}
NO_JAVA = [part for name in ("BLEU", "ROUGE_L", "clinical") for part in ("--metric", name)]


def evaluate(*arguments, **environment):
    command = [sys.executable, "-m", "mambaxray.cli", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


@pytest.fixture
def predictions(tmp_path):
    """As `generate` writes it, with a study that failed."""
    path = tmp_path / "reports.jsonl"
    rows = [
        {"study_id": study, "images": [f"{study}.png"], "report": text, "error": None}
        for study, text in REPORTS.items()
    ]
    rows[3] |= {"report": None, "error": "unreadable"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def annotation(tmp_path):
    path = tmp_path / "annotation.json"
    test = [{"id": study, "report": text, "image_path": [], "split": "test"} for study, text in REPORTS.items()]
    train = [{"id": "t", "report": "The lungs are clear.", "image_path": [], "split": "train"}]
    path.write_text(json.dumps({"train": train, "test": test}), encoding="utf-8")
    return path


def test_predictions_of_generate_are_scored_against_an_annotation_file(predictions, annotation, tmp_path):
    scores, page = tmp_path / "out" / "scores.json", tmp_path / "out" / "page.html"
    done = evaluate(predictions, "--references", annotation, *NO_JAVA, "--output", scores, "--html", page)
    assert done.returncode == 0, done.stderr
    assert "Bleu_4" in done.stdout
    assert "random training report" in done.stdout
    assert "nrefs:1|studies:8|" in done.stdout
    assert "1 of 8 studies have no generated report" in done.stderr
    result = json.loads(scores.read_text(encoding="utf-8"))
    assert result["per_sample"]["ROUGE_L"][3] == 0
    assert result["per_sample"]["ROUGE_L"][0] == 1
    assert result["honesty"]["empty_share"] == 1 / 8
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_one_csv_file_can_hold_both_reports_and_line_breaks(tmp_path):
    path = tmp_path / "both.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "report", "reference"])
        writer.writerows((study, text.replace(". ", ".\n"), text) for study, text in REPORTS.items())
    done = evaluate(path, *NO_JAVA, "--no-ci")
    assert done.returncode == 0, done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("ROUGE_L"))
    assert row[1] == "1.0000"
    assert "Finding F1, micro, 14 observations, uncertain as negative" in done.stdout
    assert "F1_micro_14" not in done.stdout.partition("more scores")[0]


def test_without_java_meteor_is_reported_and_the_rest_scored(predictions, annotation, tmp_path):
    done = evaluate(predictions, "--references", annotation, "--no-ci", PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "METEOR: unavailable: METEOR needs Java" in done.stdout
    assert "CIDEr" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no studies"),
        ('{"study_id": "s0", "report": "a"}', "give a reference file"),
        ('{"study_id": "s0", "report": "a", "reference": "a"}\n' * 2, "'s0' occurs twice"),
        ('{"study_id": "s0"}', "line 1 has neither a report"),
        ('{"report": "a"}', "line 1 has no study_id or id"),
        ("no json", "line 1 is not JSON"),
        ('{"study_id": "s0", "report": 3}', "its report is not a string"),
        ("[1]", "line 1 is not a record"),
    ],
)
def test_a_file_that_can_not_be_scored_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "reports.jsonl"
    path.write_text(content, encoding="utf-8")
    done = evaluate(path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_studies_of_only_one_file_are_named(predictions, annotation, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(predictions.read_text().splitlines(keepends=True)[:6]))
    done = evaluate(few, "--references", annotation)
    assert done.returncode == 2
    assert "2 studies of" in done.stderr
    assert "s6, s7" in done.stderr
    assert "--only-present" in done.stderr
    pilot = evaluate(few, "--references", annotation, "--only-present", "--metric", "ROUGE_L", "--no-ci")
    assert pilot.returncode == 0, pilot.stderr
    assert "|studies:6|" in pilot.stdout
    # A report without its reference is refused all the same.
    few.write_text(few.read_text().replace('"s0"', '"elsewhere"'))
    unknown = evaluate(few, "--references", annotation, "--only-present")
    assert unknown.returncode == 2
    assert "1 studies of" in unknown.stderr


def test_a_models_reports_are_no_references(tmp_path):
    """Or a model would be scored against itself, or against another one."""
    generated = tmp_path / "generated.jsonl"
    line = {"study_id": "s0", "images": [], "report": "Clear.", "error": None, "made_with": "model=1"}
    generated.write_text(json.dumps(line) + "\n")
    done = evaluate(generated, "--references", generated)
    assert done.returncode == 2
    assert "holds reports that a model has written (study 's0' says what with), no references" in done.stderr


def test_an_input_is_never_overwritten_by_the_output(predictions, annotation):
    before = {file: file.read_bytes() for file in (predictions, annotation)}
    for option, file in (("--output", predictions), ("--html", annotation)):
        done = evaluate(predictions, "--references", annotation, "--metric", "ROUGE_L", option, file)
        assert done.returncode == 2
        assert "is an input of this command" in done.stderr
    assert {file: file.read_bytes() for file in before} == before


@pytest.fixture
def other(tmp_path):
    file = tmp_path / "other.jsonl"
    rows = [{"study_id": study, "report": "The lungs are clear."} for study in reversed(REPORTS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def compare(*arguments):
    command = [sys.executable, "-m", "mambaxray.cli", "compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def test_two_systems_are_compared(predictions, annotation, other):
    done = compare(predictions, other, "-r", annotation, "--metric", "ROUGE_L")
    assert done.returncode == 0, done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("ROUGE_L"))
    assert float(row[1]) == pytest.approx(7 / 8)
    assert row[3].startswith("+")
    assert "ar10000" in done.stdout


def test_three_systems_are_compared_with_numbers_of_findings_and_a_page(predictions, annotation, other, tmp_path):
    page, output = tmp_path / "new" / "page.html", tmp_path / "scores.json"
    third = tmp_path / "third.jsonl"
    third.write_text(predictions.read_text(encoding="utf-8"), encoding="utf-8")
    named = [part for name in ("ours", "constant", "again") for part in ("--name", name)]
    files = (predictions, other, third)
    options = ("--metric", "ROUGE_L", "--metric", "entities", "--page", page, "--output", output, "--shown", 3)
    done = compare(*files, "-r", annotation, *named, *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert list(result["scores"]) == ["ours", "constant", "again"]
    assert list(result["comparisons"]) == ["constant", "again"]
    assert set(result["comparisons"]["again"]["differences"].values()) == {0}
    found, constant = result["entities"]["ours"], result["entities"]["constant"]
    assert found == result["entities"]["again"]
    assert constant["hit"] == constant["stated"] == 0
    share = result["scores"]["ours"]["entities_hit"]
    assert share == pytest.approx(found["hit"] / (found["hit"] + found["near"] + found["missed"]))
    lines = {tuple(line.split()) for line in done.stdout.splitlines()}
    assert ("hit", str(found["hit"]), "0", str(found["hit"])) in lines
    shown = Page(page.read_text(encoding="utf-8"))
    assert len(shown.all("article")) == 3
    assert {"ours", "constant", "again"} <= set(shown.text)


def test_what_compare_can_not_do_is_said(predictions, annotation, other, tmp_path):
    for arguments, message in (
        ([predictions], "at least two systems, got 1 file"),
        ([predictions, predictions], "a file is given twice"),
        ([predictions, other, "--name", "ours"], "give --name once per file, all different: 2 files, names ours"),
        ([predictions, other, "--page", other], "is an input of this command"),
        ([predictions, other, "--metric", "ROUGE_L", "--page", tmp_path / "p.html", "--study", "x"], "no study 'x'"),
    ):
        done = compare(*arguments, "-r", annotation)
        assert done.returncode == 2
        assert message in done.stderr
