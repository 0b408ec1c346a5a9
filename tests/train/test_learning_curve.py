"""Epochs up to the best evaluation, and the gap between validation and training loss there."""

import pytest

from mambaxray.train.learning_curve import best_evaluation

HISTORY = [
    {"loss": 4.0, "epoch": 0.5},
    {"loss": 3.0, "epoch": 1.0},
    {"eval_loss": 3.7, "eval_Bleu_4": 0.1, "epoch": 1.0},
    {"loss": 2.0, "epoch": 1.5},
    {"loss": 1.5, "epoch": 2.0},
    {"eval_loss": 2.25, "eval_Bleu_4": 0.2, "epoch": 2.0},
    {"loss": 1.0, "epoch": 3.0},
    {"eval_loss": 2.5, "eval_Bleu_4": 0.3, "epoch": 3.0},
    {"train_runtime": 3.0, "train_loss": 2.0, "epoch": 3.0},
    {"eval_loss": 2.5, "eval_Bleu_4": 0.3, "epoch": 3.0},
]


def test_the_lowest_validation_loss_is_the_best_evaluation():
    assert best_evaluation(HISTORY, {}) == {"epochs": 2.0, "loss_gap": pytest.approx(2.25 - 1.75)}


def test_the_recipes_metric_decides_what_is_best_and_the_first_of_equals_counts():
    assert best_evaluation(HISTORY, {"metric_for_best_model": "Bleu_4"}) == {"epochs": 3.0, "loss_gap": 1.5}
    assert best_evaluation(HISTORY, {"metric_for_best_model": "eval_Bleu_4", "greater_is_better": False}) == {
        "epochs": 1.0,
        "loss_gap": pytest.approx(3.7 - 3.5),
    }


def test_of_several_losses_that_of_the_report_makes_the_gap():
    history = [
        {"loss": 5.0, "report": 2.0, "reconstruction": 3.0, "epoch": 1.0},
        {"eval_loss": 7.0, "eval_report": 2.5, "epoch": 1.0},
    ]
    assert best_evaluation(history, {}) == {"epochs": 1.0, "loss_gap": 0.5}


def test_nothing_is_said_of_a_run_without_evaluations_and_no_gap_without_training_losses():
    assert best_evaluation([{"loss": 1.0, "epoch": 1.0}], {}) == {}
    assert best_evaluation([{"eval_loss": 1.0, "epoch": 1.0}], {}) == {"epochs": 1.0}
