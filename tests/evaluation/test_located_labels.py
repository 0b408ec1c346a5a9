"""Located scores: sides, sizes and contradictions of whole reports."""

import numpy as np
import pytest

from mambaxray import evaluate_reports
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.labeler import CheXpertStyleLabeler
from mambaxray.evaluation.located_labels import COUNT_NAMES, LOCATED_NAMES, compare_located, locate, located_table
from mambaxray.evaluation.metric_names import metric_in_words
from mambaxray.evaluation.scoring import LabelCache

labeler = CheXpertStyleLabeler()


def read(text: str):
    return locate(labeler.read(text))


def counts(reference: str, report: str) -> dict[str, int]:
    compared = compare_located(read(reference), read(report))
    return {name: int(getattr(compared, name).sum()) for name in compared.__dataclass_fields__}


@pytest.mark.parametrize(
    ("reference", "report", "hits", "stated", "true"),
    [
        ("Left effusion.", "Left effusion.", 1, 1, 1),
        ("Left effusion.", "Right effusion.", 0, 1, 1),
        ("Left effusion.", "Bilateral effusions.", 1, 2, 1),
        ("Bilateral effusions.", "Left effusion.", 1, 1, 2),
        ("Left effusion.", "Effusion.", 0, 1, 1),  # no side is no right side
        ("Effusion.", "Left effusion.", 1, 1, 1),  # where the reference says none, any is right
        ("Effusion.", "Bilateral effusions.", 1, 1, 1),
        ("Left effusion.", "Possible left effusion.", 0, 0, 1),
        ("Mild cardiomegaly.", "Severe cardiomegaly.", 1, 1, 1),
        ("Left effusion.", "Cardiomegaly.", 0, 1, 1),
        ("Left effusion. Small right effusion.", "Bilateral effusions.", 2, 2, 2),
        ("Normal chest.", "No acute disease.", 1, 1, 1),
    ],
)
def test_a_finding_counts_on_its_side(reference, report, hits, stated, true):
    found = counts(reference, report)
    assert (found["hits"], found["stated"], found["true"]) == (hits, stated, true)


@pytest.mark.parametrize(
    ("reference", "report", "wrong"),
    [
        ("Large left effusion.", "Large right effusion.", 1),
        ("Left effusion.", "Bilateral effusions.", 0),
        ("Left effusion.", "Effusion.", 0),
        ("Effusion.", "Left effusion.", 0),
        ("Left effusion. Right pneumothorax.", "Right effusion. Left pneumothorax.", 2),
    ],
)
def test_a_wrong_side_is_one_when_both_name_sides_and_share_none(reference, report, wrong):
    assert counts(reference, report)["wrong_side"] == wrong


@pytest.mark.parametrize(
    ("reference", "report", "contradicted"),
    [
        ("No pneumothorax.", "Small pneumothorax.", 1),
        ("No pneumothorax.", "No pneumothorax.", 0),
        ("The lungs are clear.", "Small pneumothorax.", 0),  # not mentioned is not ruled out
        ("No left effusion. Small right effusion.", "Left effusion.", 1),
        ("No left effusion. Small right effusion.", "Right effusion.", 0),
        ("No left effusion but small right.", "Bilateral effusions.", 1),
        ("Heart size is normal. No effusion.", "Cardiomegaly. Left effusion.", 2),
        ("Left effusion.", "No acute disease.", 0),
    ],
)
def test_a_contradiction_is_what_the_reference_rules_out(reference, report, contradicted):
    assert counts(reference, report)["contradicted"] == contradicted


@pytest.mark.parametrize(
    ("reference", "report", "compared", "agreed"),
    [
        ("Small left effusion.", "Small left effusion.", 1, 1),
        ("Small left effusion.", "Large left effusion.", 1, 0),
        ("Small left effusion.", "Large right effusion.", 0, 0),  # of another side there is nothing to compare
        ("Small left effusion.", "Left effusion.", 0, 0),
        ("Small to moderate left effusion.", "Moderate left effusion.", 1, 1),
        ("Small to moderate left effusion.", "Large left effusion.", 1, 0),
        ("Mild cardiomegaly.", "Marked cardiomegaly.", 1, 0),
        ("Small left and large right effusions.", "Large left and large right effusions.", 2, 1),
        ("Small bilateral effusions.", "Small left effusion.", 1, 1),
    ],
)
def test_sizes_are_compared_where_both_say_one(reference, report, compared, agreed):
    found = counts(reference, report)
    assert (found["compared"], found["agreed"]) == (compared, agreed)


REFERENCES = ["Large right effusion. No pneumothorax.", "Normal chest.", "Bibasilar atelectasis. Mild cardiomegaly."]
REPORTS = ["Small left effusion. Left pneumothorax.", "Normal chest.", "Left basilar atelectasis. Mild cardiomegaly."]


def test_corpus_scores_follow_from_the_counts_by_hand():
    scores = located_table([read(t) for t in REFERENCES], [read(t) for t in REPORTS]).scores()
    # stated: effusion, pneumothorax | normal | atelectasis, heart; true: effusion | normal | atelectasis twice, heart
    assert scores["located_precision_micro_14_uncertain-negative"] == pytest.approx(3 / 5)
    assert scores["located_recall_micro_14_uncertain-negative"] == pytest.approx(3 / 5)
    assert scores["located_F1_micro_14_uncertain-negative"] == pytest.approx(6 / 10)
    assert scores["located_F1_example_14_uncertain-negative"] == pytest.approx((0 + 1 + 4 / 5) / 3)
    assert scores["located_F1_macro_14_uncertain-negative"] == pytest.approx((1 + 2 / 3 + 1) / 14)
    assert (scores["wrong_sides"], scores["contradictions"]) == (1, 1)
    assert scores["contradiction_rate"] == pytest.approx(1 / 3)
    assert (scores["severity_compared"], scores["severity_agreement"]) == (1, 1)


def test_evaluation_has_them_with_intervals_and_words():
    result = evaluate_reports(REFERENCES, REPORTS, metrics=["located"])
    assert tuple(result["scores"]) == LOCATED_NAMES
    assert set(result["intervals"]) == set(LOCATED_NAMES) - set(COUNT_NAMES)
    assert result["per_sample"]["located_F1_example_14_uncertain-negative"] == pytest.approx([0, 1, 0.8])
    assert result["per_sample"]["contradiction_rate"] == [1, 0, 0]
    assert all(metric_in_words(name) != name for name in LOCATED_NAMES)
    assert set(result["honesty"]["baselines"]["best constant report"]) == set(LOCATED_NAMES)


def test_located_scores_are_never_above_the_label_scores():
    texts = [*REFERENCES, "Left effusion.", "Right pneumothorax and left basilar atelectasis."]
    scores = evaluate_reports(texts, texts[1:] + texts[:1], metrics=["located", "clinical"])["scores"]
    assert scores["located_F1_micro_14_uncertain-negative"] <= scores["F1_micro_14_uncertain-negative"] < 1


def test_a_study_without_a_report_is_scored_as_missed():
    table = located_table([read("Left effusion.")], [read("")])
    assert table.scores()["located_recall_micro_14_uncertain-negative"] == 0
    with pytest.raises(ValueError, match="1 references but 0"):
        located_table([read("Left effusion.")], [])


def test_the_cache_reads_each_text_once():
    cache = LabelCache()
    assert cache.located(["Left effusion."] * 2)[0] is cache.located(["Left effusion."])[0]
    assert cache(["Left effusion."])[0]["Pleural Effusion"] == 1
    assert np.shape(compare_located(*cache.located(["a", "b"])).hits) == (len(OBSERVATIONS),)
