"""Metrics that radeval computes: how it is found and asked, and what is said when it can't answer.

radeval's models are gigabytes on the Hub, so a stand-in with its interface (that of radeval 2.2) answers in a real
process of its own; its values mean nothing.
"""

import json
import sys
from importlib.util import find_spec

import pytest

from mambaxray import evaluate_reports
from mambaxray.evaluation.metric_table import MetricUnavailableError
from mambaxray.evaluation.radeval_metrics import RADEVAL_METRICS, radeval_scores

STAND_IN = """
class RadEval:
    def __init__(self, metrics, per_sample, detailed, show_progress):
        (self.metric,) = metrics
        assert per_sample != detailed

    def __call__(self, refs, hyps):
        import statistics  # a name that a module of the caller has too
        if self.metric == "green":
            raise OSError("StanfordAIMI/GREEN-radllama2-7b is not a local folder")
        if self.metric == "bertscore":
            return {"bertscore": [1.0, None]}
        if self.metric == "f1chexbert":
            return {"f1chexbert_5_micro_f1": 0.5, "f1chexbert_label_scores_f1": {"f1chexbert_5": {}}}
        if self.metric == "radcliq":
            return {"radcliq_v1": [statistics.mean([len(ref), len(hyp)]) for ref, hyp in zip(refs, hyps)]}
        return {f"radgraph_{level}": [0.25, 0.75] for level in ("simple", "partial", "complete")}
"""


@pytest.fixture
def external_python(tmp_path):
    """An environment with the stand-in and without this package."""
    packages = tmp_path / "site"
    (packages / "radeval").mkdir(parents=True)
    (packages / "radeval" / "__init__.py").write_text(STAND_IN)
    (packages / "radeval-9.9.dist-info").mkdir()
    (packages / "radeval-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: radeval\nVersion: 9.9\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def test_scores_come_from_the_other_environment_with_intervals_and_version(external_python):
    result = evaluate_reports(
        ["a", "b"], ["a\u2028", "c\nd"], metrics=["RadGraph", "CheXbert", "RadCliQ"], external_python=external_python
    )
    assert result["scores"] == {
        "RadGraph_F1_simple": 0.5,
        "RadGraph_F1_partial": 0.5,
        "RadGraph_F1_complete": 0.5,
        "RadCliQ_v1": pytest.approx(1.75),
        "CheXbert_F1_micro_5": 0.5,
    }
    assert result["per_sample"]["RadGraph_F1_partial"] == [0.25, 0.75]
    assert set(result["intervals"]) == set(result["scores"]) - {"CheXbert_F1_micro_5"}
    assert "radeval:9.9" in result["signature"]
    json.dumps(result, allow_nan=False)


def test_missing_weights_give_one_line_with_the_repository_and_no_score(external_python):
    result = evaluate_reports(["a"], ["a"], metrics=["GREEN", "BLEU"], external_python=external_python, ci=False)
    assert "GREEN" not in result["scores"]
    assert "Bleu_4" in result["scores"]
    reason = result["unavailable"]["GREEN"]
    assert "https://huggingface.co/StanfordAIMI/GREEN-radllama2-7b" in reason
    assert "is not a local folder" in reason
    assert "\n" not in reason


def test_a_study_without_a_value_is_no_zero(external_python):
    with pytest.raises(MetricUnavailableError, match="1 of 2 studies no value"):
        radeval_scores("BERTScore", ["a", "b"], ["a", "b"], external_python=external_python)


@pytest.mark.skipif(find_spec("radeval") is not None, reason="radeval is installed here")
@pytest.mark.parametrize("name", RADEVAL_METRICS)
def test_without_radeval_the_message_says_how_to_get_it(name):
    with pytest.raises(
        MetricUnavailableError, match=rf"{name} needs the package radeval.*--external-python.*https://hug"
    ):
        radeval_scores(name, ["a"], ["a"])


def test_a_python_that_is_not_there_is_an_error():
    with pytest.raises(FileNotFoundError, match="nowhere/python"):
        radeval_scores("GREEN", ["a"], ["a"], external_python="nowhere/python")
