"""Recall of retrieval: right on known rankings, fair to ties and to reports that occur twice."""

import itertools

import numpy as np
import pytest
from transformers import EvalPrediction

from mambaxray.evaluation.retrieval import compute_retrieval_metrics, recall_at, retrieval_metrics


def test_recall_counts_partners_among_the_k_nearest():
    candidates = np.eye(4)
    queries = np.array([[9, 1, 2, 3], [3, 2, 9, 1], [2, 3, 1, 9], [9, 3, 2, 1]], dtype=float)
    # The partners' ranks are 1, 3, 4 and 4.
    assert recall_at(queries, candidates, ks=(1, 2, 3, 4)) == {1: 0.25, 2: 0.25, 3: 0.5, 4: 1.0}


def test_both_directions_are_reported_under_their_names():
    embeds = np.eye(3)
    other = np.array([[1.0, 0, 0], [1.0, 0.5, 0], [0, 0, 1.0]])
    metrics = retrieval_metrics(embeds, other, ks=(1,))
    # Image 0 has two reports that are equally near; report 1 is nearer to image 0 than to its own.
    assert metrics == {
        "image_to_text_recall@1": pytest.approx((0.5 + 1 + 1) / 3),
        "text_to_image_recall@1": pytest.approx(2 / 3),
    }


def test_embeddings_that_all_coincide_score_what_chance_does():
    ones = np.ones((50, 4))
    assert recall_at(ones, ones) == pytest.approx({1: 1 / 50, 5: 5 / 50, 10: 10 / 50})


def test_ties_are_the_mean_over_all_orders():
    # Five equally similar candidates, two of them partners; look at the first two.
    orders = list(itertools.permutations([True, True, False, False, False]))
    expected = np.mean([any(order[:2]) for order in orders])
    ones = np.ones((5, 1))
    recall = recall_at(ones, ones, ks=(2,), groups=[0, 0, 1, 2, 3])[2]
    # Of the other three queries each has one partner.
    assert recall == pytest.approx((2 * expected + 3 * 2 / 5) / 5)


def test_the_same_report_of_another_study_counts_as_found():
    images, texts = np.array([[1.0, 0], [0, 1.0]]), np.array([[0, 1.0], [1.0, 0]])
    assert recall_at(images, texts, ks=(1,)) == {1: 0.0}
    assert recall_at(images, texts, ks=(1,), groups=[7, 7]) == {1: 1.0}


def test_many_pairs_are_ranked_as_one_by_one():
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(2, 1500, 3)).astype(np.float32)
    similarity = queries @ candidates.T
    ranks = (similarity > np.diag(similarity)[:, None]).sum(axis=1)
    assert recall_at(queries, candidates) == pytest.approx({k: (ranks < k).mean() for k in (1, 5, 10)})


def test_the_trainers_prediction_is_understood():
    prediction = EvalPrediction(predictions=(np.eye(2), np.eye(2)), label_ids=np.array([3, 3]))
    assert compute_retrieval_metrics(prediction)["text_to_image_recall@1"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((3, 3))), r"got \(2, 3\) and \(3, 3\)"),
        ((np.ones((0, 3)), np.ones((0, 3))), "must both be"),
        ((np.ones((2, 3)), np.ones((2, 3)), (0,)), r"positive, got \[0\]"),
        ((np.ones((2, 3)), np.ones((2, 3)), (1,), [1]), "1 groups for 2 pairs"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        recall_at(*arguments)
