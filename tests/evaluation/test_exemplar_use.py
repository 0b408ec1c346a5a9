"""What is copied from exemplars, and which observations they help to find, counted by hand."""

import json

import pytest
from typer.testing import CliRunner

from mambaxray.cli import app
from mambaxray.evaluation.exemplar_use import copying_with_intervals, recall_by_prevalence
from mambaxray.evaluation.study_report import StudyReport

EXEMPLAR = "The heart is enlarged. There is a small left pleural effusion."


def evidence(text):
    studies = [{"study_id": "s", "weight": 1.0, "text": text}]
    return {"Edema": {"probability": 0.5}, "Cardiomegaly": {"probability": 0.5, "studies": studies}}


def test_the_share_of_the_reports_stands_beside_that_of_the_references():
    studies = [
        StudyReport("a", report=EXEMPLAR, reference="Clear lungs.", evidence=evidence(EXEMPLAR)),
        StudyReport("b", report="Clear lungs.", reference=EXEMPLAR, evidence=evidence(EXEMPLAR)),
        StudyReport("c", report=EXEMPLAR, reference=EXEMPLAR, evidence=evidence(EXEMPLAR)),
        StudyReport("d", report=None, reference="Clear lungs.", evidence=evidence(EXEMPLAR)),
        StudyReport("e", report=EXEMPLAR, reference=EXEMPLAR),  # nothing was retrieved
    ]
    found = copying_with_intervals(studies)
    assert found.studies == {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
    assert found.shares == {"report": 0.5, "reference": 0.5, "by chance": 0.5}
    for low, high in found.intervals.values():
        assert 0 <= low < 0.5 < high <= 1
    with pytest.raises(ValueError, match="no prediction has a retrieved report in its evidence"):
        copying_with_intervals(studies[-1:])


EFFUSION, CARDIOMEGALY = "There is a pleural effusion.", "The heart is enlarged."


def system(reports):
    """Ten studies: eight with an effusion, two with a large heart."""
    references = [EFFUSION] * 8 + [CARDIOMEGALY] * 2
    return [
        StudyReport(str(number), report=report, reference=reference)
        for number, (report, reference) in enumerate(zip(reports, references, strict=True))
    ]


def test_recall_is_that_of_each_observation_from_rare_to_common():
    with_exemplars = system([EFFUSION] * 4 + [CARDIOMEGALY] * 6)
    without = system([EFFUSION] * 6 + [CARDIOMEGALY] * 2 + [EFFUSION] * 2)
    gains = {gain.observation: gain for gain in recall_by_prevalence(with_exemplars, without[::-1])}
    assert list(gains) == ["Cardiomegaly", "Pleural Effusion", "rarer half", "commoner half"]
    assert (gains["Cardiomegaly"].support, gains["Pleural Effusion"].support) == ((2, 2), (8, 8))
    assert (gains["Cardiomegaly"].without, gains["Cardiomegaly"].with_exemplars) == (0.0, 1.0)
    assert (gains["Pleural Effusion"].without, gains["Pleural Effusion"].with_exemplars) == (0.75, 0.5)
    assert gains["rarer half"].with_exemplars == 1.0
    low, high = gains["Pleural Effusion"].interval
    assert low <= -0.25 <= high
    with pytest.raises(ValueError, match="the same studies"):
        recall_by_prevalence(with_exemplars, without[:-1])


def test_the_command_prints_both_and_writes_a_share_per_study(tmp_path):
    for name, rows in (("with", [EFFUSION] * 10), ("without", [CARDIOMEGALY] * 10)):
        lines = [
            {"study_id": row.study_id, "report": row.report, "reference": row.reference, "evidence": evidence(EFFUSION)}
            for row in system(rows)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = [str(tmp_path / f"{name}.jsonl") for name in ("with", "without")]
    command = ["retrieval", "analyze", files[0], "--without", files[1], "--output", str(tmp_path / "result.json")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "Pleural Effusion" in done.output
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["copying"]["studies"] == {str(number): 1.0 for number in range(10)}
    assert result["recall"][0]["observation"] == "Cardiomegaly"
