"""Baselines that never look at an image."""

import pytest

from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.baselines import best_constant_report
from mambaxray.evaluation.honesty import unique_ratio


def labels(*present):
    return {name: 1 if name in present else None for name in OBSERVATIONS}


def test_the_best_constant_report_is_the_one_that_scores_highest():
    candidates = {
        "effusion": labels("Pleural Effusion"),
        "normal": labels("No Finding"),
        "both": labels("Pleural Effusion", "Cardiomegaly"),
    }
    references = [labels("Pleural Effusion"), labels("Pleural Effusion", "Cardiomegaly"), labels("No Finding")]
    report, score = best_constant_report(candidates, references)
    # "both": 3 right of 6 stated, 3 of 4 found; "effusion": 2 of 3 and 2 of 4.
    assert report == "both"
    assert score == pytest.approx(2 * 3 / (6 + 4))


def test_no_candidates_is_an_error():
    with pytest.raises(ValueError, match="no candidate"):
        best_constant_report({}, [labels()])


def test_unique_ratio_counts_different_texts():
    assert unique_ratio(["a", "b", "a", "a"]) == 0.5
    with pytest.raises(ValueError, match="no reports"):
        unique_ratio([])
