"""Scores of labels against numbers worked out by hand."""

import math

import pytest

from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.clinical import MAIN_OBSERVATIONS, label_scores


def labels(**values: int | None) -> dict[str, int | None]:
    """All not mentioned but these, named with underscores for spaces."""
    return dict.fromkeys(OBSERVATIONS) | {name.replace("_", " "): value for name, value in values.items()}


REFERENCES = [
    labels(Edema=1, Pleural_Effusion=1, Fracture=1),
    labels(Edema=1, Pleural_Effusion=0),
    labels(No_Finding=1),
]
HYPOTHESES = [
    labels(Edema=1, Pleural_Effusion=0, Fracture=1, Cardiomegaly=1),
    labels(Pleural_Effusion=1),
    labels(No_Finding=1, Pneumothorax=0),
]
# Positives: reference 3 + 1 + 1 = 5, hypothesis 3 + 1 + 1 = 5, both: Edema, Fracture, No Finding = 3.


def test_micro_pools_all_cells():
    scores = label_scores(REFERENCES, HYPOTHESES)
    assert scores["precision_micro_14_uncertain-negative"] == pytest.approx(3 / 5)
    assert scores["recall_micro_14_uncertain-negative"] == pytest.approx(3 / 5)
    assert scores["F1_micro_14_uncertain-negative"] == pytest.approx(3 / 5)
    # Among the five: reference 3 (two Edema, one Effusion), hypothesis 3 (Edema, Cardiomegaly, Effusion), both 1.
    assert scores["F1_micro_5_uncertain-negative"] == pytest.approx(1 / 3)


def test_macro_is_the_mean_over_observations_and_counts_unused_ones_as_zero():
    scores = label_scores(REFERENCES, HYPOTHESES)
    # Edema 2*1/(2+1), Fracture 1, No Finding 1, all others 0.
    assert scores["F1_macro_14_uncertain-negative"] == pytest.approx((2 / 3 + 1 + 1) / 14)
    assert scores["precision_macro_14_uncertain-negative"] == pytest.approx((1 + 1 + 1) / 14)
    assert scores["recall_macro_14_uncertain-negative"] == pytest.approx((1 / 2 + 1 + 1) / 14)
    assert scores["F1_macro_5_uncertain-negative"] == pytest.approx((2 / 3) / 5)


def test_example_is_the_mean_over_studies():
    scores = label_scores(REFERENCES, HYPOTHESES)
    assert scores["F1_example_14_uncertain-negative"] == pytest.approx((4 / 6 + 0 + 1) / 3)
    assert scores["precision_example_14_uncertain-negative"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    # The third study has no positive among the five on either side: 0 by definition.
    assert scores["F1_example_5_uncertain-negative"] == pytest.approx((2 / 4 + 0 + 0) / 3)


def test_each_observation_has_its_own_scores_and_support():
    scores = label_scores(REFERENCES, HYPOTHESES)
    assert scores["precision_Edema_uncertain-negative"] == 1
    assert scores["recall_Edema_uncertain-negative"] == 0.5
    assert scores["F1_Edema_uncertain-negative"] == pytest.approx(2 / 3)
    assert scores["support_Edema_uncertain-negative"] == 2
    assert scores["support_Pleural Effusion_uncertain-negative"] == 1
    assert scores["F1_Pneumonia_uncertain-negative"] == 0


@pytest.mark.parametrize(
    ("uncertain", "precision", "recall"),
    [
        # references: 1, -1, -1; hypotheses: 1, 1, -1
        ("positive", 1, 1),
        ("negative", 1 / 2, 1),
        ("ignore", 1, 1),
    ],
)
def test_uncertain_counts_as_the_metric_name_says(uncertain, precision, recall):
    references = [labels(Edema=value) for value in (1, -1, -1)]
    hypotheses = [labels(Edema=value) for value in (1, 1, -1)]
    scores = label_scores(references, hypotheses, uncertain=uncertain)
    assert scores[f"precision_micro_14_uncertain-{uncertain}"] == pytest.approx(precision)
    assert scores[f"recall_micro_14_uncertain-{uncertain}"] == pytest.approx(recall)
    assert all(name.endswith(f"_uncertain-{uncertain}") for name in scores)


def test_ignoring_uncertain_references_gives_nothing_for_hedging():
    scores = label_scores([labels(Edema=1)], [labels(Edema=-1)], uncertain="ignore")
    assert scores["recall_micro_14_uncertain-ignore"] == 0


def test_identical_labels_score_one():
    study = dict.fromkeys(OBSERVATIONS, 1)
    scores = label_scores([study], [study])
    assert all(value == 1 for value in scores.values())


def test_labels_without_any_positive_give_zero_and_never_nan():
    scores = label_scores([labels()], [labels()])
    assert all(value == 0 and not math.isnan(value) for value in scores.values())


def test_the_five_main_observations_are_cheXperts():
    assert set(MAIN_OBSERVATIONS) == {"Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"}


@pytest.mark.parametrize(
    ("references", "hypotheses", "options", "message"),
    [
        ([labels()], [], {}, "1 references but 0 hypotheses"),
        ([], [], {}, "no studies"),
        ([labels(Edema=2)], [labels()], {}, r"references\[0\]\['Edema'\] is 2"),
        ([labels()], [labels(Edema="1")], {}, r"hypotheses\[0\]\['Edema'\] is '1'"),
        ([labels(Oedema=1)], [labels()], {}, "Oedema"),
        ([{"Edema": 1}], [labels()], {}, "Atelectasis"),
        ([labels()], [labels()], {"uncertain": "maybe"}, "maybe"),
    ],
)
def test_unusable_labels_are_refused_with_the_reason(references, hypotheses, options, message):
    with pytest.raises(ValueError, match=message):
        label_scores(references, hypotheses, **options)
