"""The metrics where Hugging Face users look for them: in `evaluate` and in a Trainer."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny import tiny_tokenizer
from transformers import EvalPrediction

from mambaxray import evaluate_reports, report_metrics
from mambaxray.data.phantoms import make_study

evaluate = pytest.importorskip("evaluate", reason="the extra [eval] is not installed")

REFERENCES = [make_study(seed, image_size=32)["report"] for seed in range(6)]
HYPOTHESES = [*REFERENCES[3:], *REFERENCES[:3]]


@pytest.fixture
def scores(monkeypatch, tmp_path):
    # Without Java: METEOR has tests of its own.
    monkeypatch.setenv("PATH", str(tmp_path))
    return evaluate_reports(REFERENCES, HYPOTHESES, ci=False)["scores"]


LOAD = """
import json, sys, evaluate
given = json.load(sys.stdin)
for folder in given["folders"]:
    metric = evaluate.load(folder)
    print(json.dumps(metric.compute(predictions=given["hypotheses"], references=given["references"])))
"""


def test_saved_modules_are_loaded_by_evaluate_without_a_network(scores, tmp_path):
    from mambaxray.evaluation.hf_metric import save_metric_module

    folders = [save_metric_module(tmp_path / f"report_{kind}", kind) for kind in ("caption", "clinical")]
    assert {path.name for path in folders[0].iterdir()} == {
        "report_caption.py",
        "README.md",
        "app.py",
        "requirements.txt",
    }
    given = {"folders": [str(path) for path in folders], "hypotheses": HYPOTHESES, "references": REFERENCES}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"},
        cwd=tmp_path,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    caption, clinical = map(json.loads, done.stdout.splitlines())
    assert {"Bleu_4", "ROUGE_L", "CIDEr"} <= set(caption)
    assert "F1_micro_14_uncertain-negative" in clinical
    for computed in (caption, clinical):
        assert computed == pytest.approx({name: scores[name] for name in computed})


def test_metric_classes_work_batch_by_batch(scores, tmp_path):
    from mambaxray.evaluation.hf_metric import ReportCaptionMetric

    metric = ReportCaptionMetric(cache_dir=str(tmp_path))
    for start in (0, 3):
        metric.add_batch(predictions=HYPOTHESES[start : start + 3], references=REFERENCES[start : start + 3])
    assert metric.compute()["CIDEr"] == pytest.approx(scores["CIDEr"])


def test_an_unknown_kind_of_module_is_refused(tmp_path):
    from mambaxray.evaluation.hf_metric import save_metric_module

    with pytest.raises(ValueError, match=r"'all'.*caption, clinical"):
        save_metric_module(tmp_path, "all")


def test_a_trainers_texts_are_scored(scores):
    computed = report_metrics()(EvalPrediction(predictions=HYPOTHESES, label_ids=REFERENCES))
    assert computed.pop("unique_ratio") == 1
    assert computed == pytest.approx({name: scores[name] for name in computed})
    assert {"Bleu_4", "F1_macro_5_uncertain-negative"} <= set(computed)


def test_a_trainers_token_ids_are_decoded():
    tokenizer = tiny_tokenizer("a b c")
    ids = np.asarray([[4, 5, 6, -100], [4, 4, -100, -100]])
    prediction = EvalPrediction(predictions=ids, label_ids=ids)
    assert report_metrics(["Bleu_1"], tokenizer=tokenizer)(prediction)["Bleu_1"] == pytest.approx(1)
    with pytest.raises(ValueError, match="token ids"):
        report_metrics(["Bleu_1"])(prediction)
