"""AUROC and F1 of observations: by their definitions, with intervals, and where they do not exist."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EvalPrediction

from mambaxray.evaluation.classification import (
    auroc,
    best_thresholds,
    classification_metrics,
    classification_scores,
    sigmoid,
)

NAN = math.nan
FEW_VALUES = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])  # with ties
STUDIES = st.lists(st.tuples(FEW_VALUES, st.sampled_from([0.0, 1.0, NAN])), min_size=1, max_size=12)


def pairs_won(rows):
    """The definition: pairs of a positive and a negative study that are in the right order, ties counting half."""
    positive, negative = ([p for p, label in rows if label == wanted] for wanted in (1, 0))
    won = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    return sum(won) / len(won) if won else NAN


def f1_of(probabilities, labels, threshold):
    known = ~np.isnan(labels)
    found, positive = probabilities[known] >= threshold, labels[known] == 1
    return 2 * (found & positive).sum() / (found.sum() + positive.sum())


@settings(max_examples=60, deadline=None)
@given(STUDIES)
def test_auroc_is_the_share_of_pairs_in_the_right_order(rows):
    probabilities, labels = zip(*rows, strict=True)
    assert auroc(probabilities, labels) == pytest.approx(pairs_won(rows), nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(STUDIES)
def test_no_threshold_gives_a_higher_f1_than_the_best_one(rows):
    probabilities, labels = (np.array(column) for column in zip(*rows, strict=True))
    (threshold,) = best_thresholds(probabilities[:, None], labels[:, None])
    if not (labels == 1).any():
        assert threshold == 0.5
        return
    best = f1_of(probabilities, labels, threshold)
    assert best == pytest.approx(max(f1_of(probabilities, labels, t) for t in (0.0, 0.2, 0.5, 0.7, 1.0)))


def made(studies=200, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random((studies, 3)) < [0.3, 0.5, 0.0]).astype(float)
    labels[::7, 1] = NAN
    probabilities = sigmoid(generator.normal(size=(studies, 3)) + 1.5 * np.nan_to_num(labels) - 0.7)
    return probabilities, labels


NAMES = ("Edema", "Fracture", "Pneumonia")


def test_scores_are_those_of_each_observation_and_their_means():
    probabilities, labels = made()
    scores = classification_scores(probabilities, labels, names=NAMES, thresholds=[0.5, 0.4, 0.5], resamples=20)
    edema, fracture, pneumonia = (scores.observations[name] for name in NAMES)
    assert edema.auroc == pytest.approx(pairs_won(list(zip(probabilities[:, 0], labels[:, 0], strict=True))))
    assert edema.positives + edema.negatives == 200
    assert fracture.positives + fracture.negatives == 200 - len(range(0, 200, 7))
    assert fracture.f1 == pytest.approx(f1_of(probabilities[:, 1], labels[:, 1], 0.4))
    assert (pneumonia.auroc, pneumonia.auroc_interval, pneumonia.f1, pneumonia.f1_interval) == (None,) * 4
    assert scores.auroc_macro == pytest.approx((edema.auroc + fracture.auroc) / 2)
    assert scores.f1_macro == pytest.approx((edema.f1 + fracture.f1) / 2)


def test_the_interval_is_the_percentiles_of_scores_of_drawn_studies():
    probabilities, labels = made(60)
    scores = classification_scores(probabilities, labels, names=NAMES, resamples=150, confidence=0.9, seed=3)
    generator, drawn = np.random.default_rng(3), []
    for size in (100, 50):
        draws = generator.integers(60, size=(size, 60))
        drawn += [auroc(probabilities[rows, 0], labels[rows, 0]) for rows in draws]
    low, high = np.quantile(drawn, [0.05, 0.95])
    assert scores.observations["Edema"].auroc_interval == pytest.approx((low, high))
    assert scores == classification_scores(probabilities, labels, names=NAMES, resamples=150, confidence=0.9, seed=3)


def test_studies_of_one_patient_are_drawn_together():
    probabilities, labels = made(40)
    four_times = np.repeat(probabilities, 4, axis=0), np.repeat(labels, 4, axis=0)
    patients = [f"p{number // 4}" for number in range(160)]
    options = {"names": NAMES, "resamples": 200}
    plain = classification_scores(probabilities, labels, **options).observations["Edema"].auroc_interval
    together = classification_scores(*four_times, patients=patients, **options)
    apart = classification_scores(*four_times, **options).observations["Edema"].auroc_interval
    assert together.patients == 40
    width = lambda interval: interval[1] - interval[0]  # noqa: E731
    # Copies of a study are no new evidence: the interval stays as wide, about twice that of as many patients.
    assert width(together.observations["Edema"].auroc_interval) == pytest.approx(width(plain), rel=0.25)
    assert width(apart) < 0.7 * width(plain)


def test_the_95_percent_interval_holds_the_true_auroc_about_that_often():
    generator, inside = np.random.default_rng(0), 0
    truth = 0.760  # of two normal distributions one standard deviation apart: Phi(1 / sqrt 2)
    for _ in range(150):
        labels = np.repeat([0.0, 1.0], 40)
        probabilities = sigmoid(generator.normal(size=80) + labels)
        scores = classification_scores(probabilities[:, None], labels[:, None], names=["x"], resamples=200)
        low, high = scores.observations["x"].auroc_interval
        inside += low <= truth <= high
    assert 0.88 < inside / 150 < 0.99


def test_scores_become_a_json_file_and_a_table_with_dashes():
    probabilities, labels = made()
    scores = classification_scores(probabilities, labels, names=NAMES, resamples=10)
    values = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert values["observations"]["Pneumonia"]["auroc"] is None
    lines = scores.to_markdown().splitlines()
    row = next(line for line in lines if line.startswith("| Pneumonia"))
    assert row == "| Pneumonia | 0 | 200 | - | - | - | - | 0.500 |"
    assert f"{scores.auroc_macro:.3f}" in next(line for line in lines if line.startswith("| mean"))
    assert "200 studies of 200 patients; intervals from 10 bootstrap samples" in lines[-1]


def test_the_trainers_metrics_are_the_means_and_absent_where_there_are_none():
    probabilities, labels = made()
    logits = np.log(probabilities / (1 - probabilities))
    scores = classification_scores(probabilities, labels, names=NAMES, resamples=0)
    assert scores.observations["Edema"].auroc_interval is None
    assert classification_metrics(EvalPrediction(logits, labels)) == pytest.approx(
        {"AUROC_macro": scores.auroc_macro, "F1_macro": scores.f1_macro}
    )
    assert classification_metrics(EvalPrediction(logits, np.full_like(labels, NAN))) == {}
    only_positive = np.ones_like(labels)
    assert classification_metrics(EvalPrediction(logits, only_positive)).keys() == {"F1_macro"}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([[0.5]], [[0.5]]), {}, r"labels must be 1 \(positive\), 0 \(negative\) or NaN"),
        (([[1.5]], [[1]]), {}, r"probabilities must lie between 0 and 1; of logits, give sigmoid"),
        (([[NAN]], [[1]]), {}, "probabilities must lie between 0 and 1"),
        (([[0.5, 0.5]], [[1]]), {}, r"got \(1, 2\) and \(1, 1\)"),
        ((np.empty((0, 1)), np.empty((0, 1))), {}, "at least one study"),
        (([[0.5, 0.5]], [[1, 0]]), {}, "1 names for 2 observations"),
        (([[0.5]], [[1]]), {"patients": ["a", "b"]}, "2 patients for 1 studies"),
        (([[0.5]], [[1]]), {"resamples": -1}, "must not be negative, got -1"),
        (([[0.5]], [[1]]), {"confidence": 95}, "confidence=95: must be between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        classification_scores(*arguments, **{"names": ["x"]} | options)
