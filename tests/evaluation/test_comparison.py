"""Intervals and tests: do they cover, and do they find what is there and nothing else?"""

import numpy as np
import pytest
from scipy import stats

from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.comparison import compare_reports
from mambaxray.evaluation.metric_table import mean_table
from mambaxray.evaluation.statistics import bootstrap_intervals, paired_differences, randomization_test

REFERENCES = [make_study(seed, image_size=32)["report"] for seed in range(30)]
OTHERS = [make_study(seed, image_size=32)["report"] for seed in range(100, 130)]
NO_JAVA = ["BLEU", "ROUGE_L", "CIDEr", "F1_micro_14_uncertain-negative"]


def table(values):
    return [mean_table({"score": np.asarray(values)})]


def test_the_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_intervals(table(values), np.arange(400), resamples=4000)["score"]
    expected = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx(tuple(expected), abs=0.01)


def test_the_p_value_of_a_paired_difference_is_scipys():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 60))
    p = randomization_test(table(first + 0.3), table(second), np.arange(60))["score"]
    expected = stats.permutation_test(
        (first + 0.3, second), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=10_000, rng=1
    ).pvalue
    assert p == pytest.approx(expected, abs=0.02)


def test_p_values_of_equal_systems_are_uniform():
    generator = np.random.default_rng(0)
    values = [
        randomization_test(*(table(part) for part in generator.normal(size=(2, 30))), np.arange(30), exchanges=200)
        for _ in range(200)
    ]
    assert stats.kstest([value["score"] for value in values], "uniform").pvalue > 0.01


def test_studies_of_one_patient_are_exchanged_together():
    first, second = np.repeat(np.random.default_rng(0).normal(size=(2, 10)), 20, axis=1)
    alone = randomization_test(table(first), table(second), np.arange(200))["score"]
    grouped = randomization_test(table(first), table(second), np.repeat(np.arange(10), 20))["score"]
    assert alone < 0.05 < grouped


def test_a_difference_is_resampled_in_pairs():
    values = np.random.default_rng(0).normal(size=100)
    low, high = paired_differences(table(values + 0.1), table(values), np.arange(100))["score"]
    assert (low, high) == pytest.approx((0.1, 0.1))


def test_good_reports_differ_from_bad_ones_and_the_adjusted_p_is_no_smaller():
    result = compare_reports(REFERENCES, REFERENCES, OTHERS, metrics=NO_JAVA, exchanges=2000)
    for name, difference in result["differences"].items():
        assert difference > 0
        assert result["intervals"][name][0] > 0
        assert result["p_values"][name] < 0.01
        assert result["p_values"][name] <= result["adjusted_p_values"][name] < 0.05


def test_a_system_does_not_differ_from_itself():
    result = compare_reports(REFERENCES, OTHERS, OTHERS, metrics=NO_JAVA, exchanges=200)
    assert set(result["differences"].values()) == {0}
    assert set(result["p_values"].values()) == {1}


def test_without_java_the_rest_is_compared(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = compare_reports(REFERENCES, REFERENCES, OTHERS, exchanges=100)
    assert "METEOR" in result["unavailable"]
    assert "Bleu_4" in result["p_values"]
    with pytest.raises(ValueError, match="nothing to compare: METEOR needs Java"):
        compare_reports(REFERENCES, REFERENCES, OTHERS, metrics=["METEOR"])
