"""Rewards against cases made by hand, in the forms in which TRL calls them."""

import math
import sys
from types import ModuleType

import numpy as np
import pytest

from mambaxray.evaluation import radeval_worker
from mambaxray.evaluation.caption_metrics import cider_tables
from mambaxray.evaluation.cider import CiderScorer
from mambaxray.evaluation.metric_table import MetricUnavailableError
from mambaxray.evaluation.ngram_counts import NgramCounts
from mambaxray.train.rewards import (
    MODEL_REWARDS,
    REWARDS,
    RewardContext,
    check_rewards,
    make_rewards,
    normalized_sum,
    register_reward,
    text_of,
)


def value(name: str, report: str, reference: str, **context: object) -> float | None:
    (reward,) = make_rewards([name], RewardContext(**context))
    assert reward.__name__ == name
    (got,) = reward(prompts=["p"], completions=[report], completion_ids=[[1]], report=[reference], study_id=["s"])
    return got


@pytest.mark.parametrize(
    ("name", "report", "reference", "expected"),
    [
        ("label_f1", "Left effusion.", "Right effusion.", 1),  # sides do not count here
        ("label_f1", "Left effusion. Cardiomegaly.", "Right effusion.", 2 / 3),
        ("label_f1", "No acute disease.", "The lungs are clear.", 1),
        ("label_f1", "No acute disease.", "Left effusion.", 0),
        ("label_f1", "", "Left effusion.", 0),
        ("label_f1", "Possible effusion.", "Possible effusion.", 1),  # neither states anything
        ("label_f1", "Effusion.", "Possible effusion.", 0),
        ("located_f1", "Left effusion.", "Right effusion.", 0),
        ("located_f1", "Left effusion.", "Left effusion.", 1),
        ("located_f1", "Bilateral effusions.", "Left effusion.", 2 / 3),
        ("located_f1", "Small left effusion.", "Large left effusion.", 0.5),  # the right side, another size
        ("located_f1", "Small left effusion.", "Small to moderate left effusion.", 1),
        ("contradiction_penalty", "Effusion. Pneumothorax.", "No effusion or pneumothorax.", -2),
        ("contradiction_penalty", "No effusion.", "No effusion or pneumothorax.", 0),
        ("contradiction_penalty", "Effusion.", "The lungs are clear.", 0),
        ("denial_f1", "No effusion.", "No effusion or pneumothorax.", 2 / 3),
        ("denial_f1", "No effusion or pneumothorax.", "No effusion.", 2 / 3),  # denying everything does not pay
        ("denial_f1", "No effusion. Cardiomegaly.", "Effusion. Cardiomegaly.", 0),
        ("denial_f1", "Cardiomegaly.", "No effusion.", 0),
        ("denial_f1", "Cardiomegaly.", "Effusion.", 1),  # neither rules out anything
        ("denial_f1", "Left effusion. No right effusion.", "Left effusion.", 1),  # present, if on one side only
        ("denial_f1", "No acute disease.", "Normal chest.", 1),  # "No Finding" is stated, not ruled out
        ("repetition", "a b c d a b c d", "x", -1 / 5),
        ("repetition", "a b c d e", "x", 0),
        ("length", "a " * 10, "b " * 10, 0),
        ("length", "a " * 12, "b " * 10, 0),
        ("length", "a " * 25, "b " * 10, -1),
        ("length", "a " * 4, "b " * 10, -1),
        ("length", "a " * 20, "b " * 10, -math.log(2 / 1.25) / math.log(2)),
        ("length", "", "b", -1),
        ("length", "", "", 0),
        ("bleu", "a b c d e", "a b c d e", 1),
        ("rouge", "a b", "a b", 1),
        ("rouge", "a b", "c d", 0),
    ],
)
def test_a_reward_is_what_it_says(name, report, reference, expected):
    assert value(name, report, reference) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("uncertain", "expected"), [("positive", 1), ("negative", 0), ("ignore", 1)])
def test_the_policy_for_what_is_uncertain_is_stated(uncertain, expected):
    # "Effusion" against a hedged one: right, wrong, or not counted.
    assert value("label_f1", "Effusion.", "Possible effusion.", uncertain=uncertain) == expected


def test_completions_may_be_texts_or_conversations():
    (reward,) = make_rewards(["label_f1"])
    conversations = [
        [{"role": "assistant", "content": "Left effusion."}],
        [{"role": "assistant", "content": [{"type": "text", "text": "Cardiomegaly."}]}],
    ]
    assert text_of(conversations[1]) == "Cardiomegaly."
    references = ["Effusion.", "Effusion."]
    plain = reward(completions=["Left effusion.", "Cardiomegaly."], report=references)
    assert reward(completions=conversations, report=references) == plain == [1, 0]


@pytest.mark.parametrize("name", [name for name in REWARDS if name not in MODEL_REWARDS])
def test_rewards_of_a_batch_are_those_of_each_report(name):
    reports = ["Left effusion. Left effusion. Left effusion.", "No acute disease.", "Mild cardiomegaly and edema.", ""]
    references = ["Small left effusion.", "Normal heart. No effusion.", "No cardiomegaly.", "Rib fracture."]
    (reward,) = make_rewards([name], RewardContext(references=references))
    together = reward(completions=reports, report=references)
    alone = [reward(completions=[a], report=[b])[0] for a, b in zip(reports, references, strict=True)]
    assert together == pytest.approx(alone)
    assert len(set(together)) > 1


def test_the_best_report_is_the_reference_itself():
    texts = ["Small left effusion. No pneumothorax. Heart size is normal.", "Bibasilar atelectasis. Mild edema."]
    other = texts[::-1]
    for name in REWARDS:
        if name not in MODEL_REWARDS:
            (reward,) = make_rewards([name], RewardContext(references=texts))
            same, swapped = (reward(completions=each, report=texts) for each in (texts, other))
            assert all(a >= b for a, b in zip(same, swapped, strict=True)), name


def test_cider_with_the_corpus_of_its_references_is_the_corpus_metric():
    references = [
        "small left effusion",
        "normal heart and lungs",
        "right lower lobe opacity",
        "small left effusion seen",
    ]
    reports = ["small left effusion", "normal heart", "right lower lobe", "a b c d e f"]
    (table,) = cider_tables(NgramCounts(references, [reports]))
    assert CiderScorer(references)(reports, references) == pytest.approx(table.per_sample["CIDEr"].tolist())
    with pytest.raises(ValueError, match="needs a corpus"):
        CiderScorer(["one"])


def test_rewards_are_normalised_one_by_one_before_they_are_summed():
    values = {"small": [0.0, 0.001, 0.002, 0.003], "large": [300.0, 200.0, 100.0, 0.0]}
    assert normalized_sum(values, {"small": 1.0, "large": 1.0}) == pytest.approx([0] * 4, abs=0.2)
    ranked = normalized_sum(values, {"small": 2.0, "large": 1.0})
    assert ranked == sorted(ranked)
    # One that says nothing, or can't judge a report, changes no order.
    silent = normalized_sum(
        values | {"same": [5.0] * 4, "none": [None, None, None, 1.0]},
        dict.fromkeys("x", 1)
        | {
            "small": 2.0,
            "large": 1.0,
            "same": 9.0,
            "none": 1e-9,
        },
    )
    assert np.argsort(silent).tolist() == np.argsort(ranked).tolist()


def test_a_reward_of_ones_own_can_be_registered(monkeypatch):
    monkeypatch.setattr("mambaxray.train.rewards.REWARDS", dict(REWARDS))

    @register_reward("shouting")
    def shouting(context):
        return lambda reports, references: [float(report.isupper()) for report in reports]

    (reward,) = make_rewards(["shouting"])
    assert reward(completions=["EFFUSION", "effusion"], report=["", ""]) == [1, 0]
    with pytest.raises(ValueError, match="registered already"):
        register_reward("shouting")(shouting)


@pytest.mark.parametrize(
    ("weights", "message"),
    [({}, "rewards is empty"), ({"label_F1": 1}, "unknown reward 'label_F1'"), ({"rouge": 0}, "must be positive")],
)
def test_rewards_that_can_not_be_are_named(weights, message):
    with pytest.raises(ValueError, match=message):
        check_rewards(weights)


@pytest.mark.parametrize("name", MODEL_REWARDS)
def test_a_reward_by_a_model_says_what_it_lacks(name):
    with pytest.raises(MetricUnavailableError, match="needs the package radeval"):
        value(name, "a", "b")


def test_rewards_by_models_load_them_once(monkeypatch):
    """A stand-in with radeval's interface: its values mean nothing."""
    loaded = []

    class RadEval:
        def __init__(self, metrics, per_sample, detailed, show_progress):
            loaded.append(metrics)

        def __call__(self, refs, hyps):
            return {"ratescore": [len(hyp) / 10 for hyp in hyps]}

    module = ModuleType("radeval")
    module.RadEval = RadEval
    module.__spec__ = object()
    monkeypatch.setitem(sys.modules, "radeval", module)
    monkeypatch.setattr(radeval_worker, "version", lambda name: "9.9")
    radeval_worker._evaluator.cache_clear()
    (reward,) = make_rewards(["ratescore"])
    assert reward(completions=["a", "bb"], report=["x", "y"]) == [0.1, 0.2]
    assert reward(completions=["ccc"], report=["x"]) == [pytest.approx(0.3)]
    assert loaded == [["ratescore"]]
    radeval_worker._evaluator.cache_clear()
