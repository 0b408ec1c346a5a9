"""`evaluate_reports` as a user calls it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from mambaxray import evaluate_reports
from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.clinical import label_scores
from mambaxray.evaluation.labeler import CheXpertStyleLabeler

NO_JAVA = ["BLEU", "ROUGE_L", "CIDEr", "clinical"]
REFERENCES = [make_study(seed, image_size=32)["report"] for seed in range(24)]
HYPOTHESES = [*REFERENCES[:12], *REFERENCES[6:18]]


@pytest.fixture(scope="module")
def result():
    return evaluate_reports(REFERENCES, HYPOTHESES, metrics=NO_JAVA)


def test_everything_has_a_place_and_fits_into_json(result):
    assert json.loads(json.dumps(result))["scores"] == result["scores"]
    assert {"scores", "per_sample", "intervals", "honesty", "signature", "unavailable", "ids"} == set(result)
    assert {"Bleu_1", "Bleu_4", "ROUGE_L", "CIDEr", "F1_micro_14_uncertain-ignore"} <= set(result["scores"])
    assert all(len(values) == 24 for values in result["per_sample"].values())


def test_clinical_scores_are_those_of_the_labels(result):
    labeler = CheXpertStyleLabeler()
    for uncertain in ("positive", "negative", "ignore"):
        expected = label_scores(labeler.batch(REFERENCES), labeler.batch(HYPOTHESES), uncertain=uncertain)
        assert {name: result["scores"][name] for name in expected} == pytest.approx(expected)


def test_every_score_lies_in_its_interval(result):
    for name, (low, high) in result["intervals"].items():
        assert low <= result["scores"][name] <= high, name
    assert "support_Edema_uncertain-negative" not in result["intervals"]


def test_perfect_reports_beat_every_baseline():
    result = evaluate_reports(REFERENCES, REFERENCES, metrics=NO_JAVA, features=np.eye(24))
    assert set(result["honesty"]["baselines"]) == {"best constant report", "random report", "nearest neighbour"}
    for scores in result["honesty"]["baselines"].values():
        assert scores["Bleu_4"] < result["scores"]["Bleu_4"]
        assert scores["F1_micro_14_uncertain-negative"] < 1 == result["scores"]["F1_micro_14_uncertain-negative"]


def test_baselines_come_from_the_training_reports_where_given():
    training = ["The heart is enlarged.", "No pneumothorax."]
    result = evaluate_reports(
        REFERENCES,
        HYPOTHESES,
        metrics=["BLEU"],
        training_reports=training,
        features=np.tile([1.0, 0.1], (24, 1)),
        training_features=np.eye(2),
    )
    baselines = result["honesty"]["baselines"]
    assert set(result["honesty"]["constant_reports"].values()) <= set(training)
    nearest = evaluate_reports(REFERENCES, [training[0]] * 24, metrics=["BLEU"])
    assert baselines["nearest neighbour"] == nearest["scores"]
    assert "random training report" in baselines


def test_a_nearest_report_is_never_of_the_same_patient():
    patients = [number // 2 for number in range(24)]
    result = evaluate_reports(
        [f"patient {patient}" for patient in patients],
        ["a"] * 24,
        metrics=["Bleu_2"],
        patients=patients,
        features=np.eye(12)[patients],
    )
    assert result["honesty"]["baselines"]["nearest neighbour"]["Bleu_2"] < 0.01


def test_mappings_are_matched_by_study():
    references = {f"s{number}": text for number, text in enumerate(REFERENCES)}
    hypotheses = dict(reversed({f"s{number}": text for number, text in enumerate(HYPOTHESES)}.items()))
    matched = evaluate_reports(references, hypotheses, metrics=["BLEU"], ci=False)
    assert matched["ids"] == list(references)
    assert matched["scores"] == evaluate_reports(REFERENCES, HYPOTHESES, metrics=["BLEU"], ci=False)["scores"]


def test_patients_with_several_studies_widen_the_interval():
    references, hypotheses = REFERENCES * 4, HYPOTHESES * 4
    patients = list(range(24)) * 4
    alone, grouped = (
        evaluate_reports(references, hypotheses, metrics=["ROUGE_L"], patients=owners)["intervals"]["ROUGE_L"]
        for owners in (None, patients)
    )
    assert grouped[1] - grouped[0] > 1.5 * (alone[1] - alone[0])


def test_r2gen_compat_scores_both_sides_cut_by_the_tokenizer():
    tokenizer = tiny_tokenizer("a b c d")
    complete = evaluate_reports(["a b c d"], ["a b d c"], metrics=["Bleu_1", "Bleu_2"], ci=False)
    cut = evaluate_reports(
        ["a b c d"],
        ["a b d c"],
        metrics=["Bleu_1", "Bleu_2"],
        ci=False,
        protocol="r2gen-compat",
        tokenizer=tokenizer,
        max_tokens=2,
    )
    assert complete["scores"]["Bleu_2"] == pytest.approx((1 / 3) ** 0.5)
    assert cut["scores"]["Bleu_2"] == pytest.approx(1)
    assert "protocol:full-reference|" in complete["signature"]
    assert "protocol:r2gen-compat[2," in cut["signature"]


def test_the_signature_says_what_was_scored():
    signature = evaluate_reports(["a"], ["a"], metrics=["BLEU"], ci=False, section="findings")["signature"]
    fields = dict(part.split(":", 1) for part in signature.split("|"))
    assert fields["nrefs"] == "1"
    assert fields["studies"] == "1"
    assert fields["section"] == "findings"
    assert fields["tok"] == "none"
    assert fields["version"].startswith("mambaxray-")


def test_without_java_all_but_meteor_is_scored(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = evaluate_reports(REFERENCES, HYPOTHESES, ci=False)
    assert "METEOR" not in result["scores"]
    assert "install" in result["unavailable"]["METEOR"]
    assert {"Bleu_4", "CIDEr", "F1_micro_5_uncertain-positive"} <= set(result["scores"])


def test_stock_empty_and_broken_off_reports_show_in_the_honesty_checks():
    hypotheses = ["The lungs are clear.", "The lungs are clear.", "", "The heart is"]
    honesty = evaluate_reports(["The lungs are clear."] * 4, hypotheses, metrics=["BLEU"], ci=False)["honesty"]
    assert honesty["unique_ratio"] == 0.75
    assert honesty["empty_share"] == 0.25
    assert honesty["truncated_share"] == 0.25
    assert honesty["length_ratio"] == pytest.approx(11 / 16)
    assert honesty["reference_unique_ratio"] == 0.25
    repeated = evaluate_reports(["a"], ["a b c d " * 20], metrics=["BLEU"], ci=False)["honesty"]
    assert repeated["repetition"] > 0.9


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_any_reports_have_a_result_without_nan(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    result = evaluate_reports(references, hypotheses, metrics=NO_JAVA, resamples=20)
    json.dumps(result, allow_nan=False)


def test_very_long_reports_are_scored():
    result = evaluate_reports(["no effusion. " * 1_000], ["small left effusion. " * 1_000], metrics=NO_JAVA, ci=False)
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((["a"], []), {}, ValueError, "1 references but 0 hypotheses"),
        (([], []), {}, ValueError, "no studies"),
        (("a", ["a"]), {}, TypeError, "one string"),
        ((["a"], [None]), {}, TypeError, r"hypotheses\[0\] is None"),
        (({"x": "a"}, {"y": "a"}), {}, ValueError, r"missing \(x\) and 1 are unknown \(y\)"),
        (({"x": "a"}, ["a"]), {}, TypeError, "both be sequences, or both mappings"),
        ((["a"], ["a"]), {"metrics": ["BLEUE"]}, ValueError, "unknown metric 'BLEUE'.*BLEU, ROUGE_L"),
        ((["a"], ["a"]), {"metrics": "BLEU"}, TypeError, "several names"),
        ((["a"], ["a"]), {"tokenize": "13a"}, ValueError, "13a"),
        ((["a"], ["a"]), {"protocol": "r2gen"}, ValueError, "r2gen-compat"),
        ((["a"], ["a"]), {"protocol": "r2gen-compat"}, ValueError, "give both"),
        ((["a"], ["a"]), {"max_tokens": 60}, ValueError, "only protocol='r2gen-compat'"),
        ((["a"], ["a"]), {"patients": [1, 2]}, ValueError, "2 patients but 1 studies"),
        ((["a"], ["a"]), {"training_reports": []}, ValueError, "training_reports is empty"),
        ((["a"], ["a"]), {"confidence": 95}, ValueError, "between 0 and 1"),
    ],
)
def test_unusable_arguments_are_refused_with_the_reason(arguments, options, error, message):
    with pytest.raises(error, match=message):
        evaluate_reports(*arguments, **{"metrics": ["BLEU"]} | options)
