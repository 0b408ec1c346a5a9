"""The share of a report that comes from its exemplar, and what stock phrases alone would give."""

import pytest

from mambaxray.evaluation.copying import copied_share, copying
from mambaxray.evaluation.study_report import StudyReport


@pytest.mark.parametrize(
    ("report", "exemplar", "share"),
    [
        ("a b c d", "a b c d", 1.0),
        ("a b c d", "x A B C D y", 1.0),
        ("a b c x", "a b c y", 0.0),
        ("a b c d e f x y", "a b c d e f", 6 / 8),
        ("a b c d x a b c d", "a b c d", 8 / 9),
        ("", "a b c d", 0.0),
        ("a b c d", "", 0.0),
        ("a b\nc  d", "a b c d", 1.0),
    ],
)
def test_words_in_shared_runs_of_four_are_copied(report, exemplar, share):
    assert copied_share(report, exemplar) == share


def prediction(report, text):
    evidence = {"Edema": {"probability": 0.5}, "Fracture": {"studies": [{"study_id": "s", "weight": 1, "text": text}]}}
    return StudyReport("s", report=report, evidence=evidence)


def test_what_is_copied_by_chance_is_measured_with_the_exemplars_of_others():
    predictions = [
        prediction("a b c d x y z w", "a b c d"),
        prediction("a b c d", "x y z w"),
        StudyReport("without", report="a b c d"),
    ]
    assert copying(predictions) == {"copied": 0.25, "copied_by_chance": 0.75}


def test_what_queries_recall_from_a_memory_is_no_exemplar():
    recalled = {"studies": [{"study_id": "s", "weight": 1, "text": "a b c d", "memory": "report"}]}
    predictions = [StudyReport(name, report="a b c d", evidence={"Edema": recalled}) for name in "ab"]
    assert copying(predictions) == {}


def test_nothing_is_said_where_no_exemplars_are_known():
    assert copying([StudyReport("s", report="a"), prediction("a b c d", "a b c d")]) == {}
