"""The metrics as modules of Hugging Face `evaluate`, offline, and as a folder that can be pushed to the Hub.

Importing this file takes seconds, as `evaluate` does; nothing else of the package needs it.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import datasets
import evaluate

from .clinical import Uncertain
from .scoring import score_reports
from .tokenization import Tokenize

_CITATION = "Please cite the papers of the metrics that you report."
_INPUTS = "predictions: generated reports, one string per study. references: the radiologists' reports, in one order."


class _ReportMetric(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )


class ReportCaptionMetric(_ReportMetric):
    """BLEU-1 to 4, ROUGE-L, METEOR (where there is Java) and CIDEr of radiology reports, as pycocoevalcap computes."""

    def _compute(
        self, predictions: list[str], references: list[str], *, tokenize: Tokenize = "none"
    ) -> dict[str, float]:
        metrics = ("BLEU", "ROUGE_L", "METEOR", "CIDEr")
        return score_reports(references, predictions, metrics=metrics, tokenize=tokenize)[0]


class ReportClinicalMetric(_ReportMetric):
    """Precision, recall and F1 of the 14 CheXpert observations, read from the reports by rules.

    The labels come from mambaxray's CheXpertStyleLabeler, which is neither the CheXpert labeler nor CheXbert.
    """

    def _compute(
        self, predictions: list[str], references: list[str], *, uncertain: Uncertain = "negative"
    ) -> dict[str, float]:
        scores, _ = score_reports(references, predictions, metrics=["clinical"])
        chosen = {name: value for name, value in scores.items() if name.endswith(f"_uncertain-{uncertain}")}
        if not chosen:
            raise ValueError(f"uncertain={uncertain!r}: must be positive, negative or ignore")
        return chosen


_MODULES: dict[str, type[Any]] = {"caption": ReportCaptionMetric, "clinical": ReportClinicalMetric}

_SCRIPT = '''"""{description}"""

from mambaxray.evaluation.hf_metric import {name}


class ReportMetric({name}):
    """{description}"""
'''

_CARD = """---
title: {title}
sdk: gradio
sdk_version: 5.0.0
app_file: app.py
pinned: false
tags:
- evaluate
- metric
---

# {title}

{description}

```python
import evaluate

metric = evaluate.load("path/or/name/of/this")
print(metric.compute(predictions=["The lungs are clear."], references=["Lungs are clear."]))
```

It needs the package `mambaxray` with its extra `eval`.
"""

_APP = """import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load("{repository}"))
"""


def save_metric_module(folder: str | PathLike, kind: str) -> Path:
    """Writes a folder that `evaluate.load(folder)` loads, and that a Space on the Hub can hold.

    Args:
        folder: where to write; its name becomes the module's.
        kind: "caption" or "clinical".

    Raises:
        ValueError: another `kind`.
    """
    if kind not in _MODULES:
        raise ValueError(f"kind={kind!r}: must be one of {', '.join(_MODULES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = {"name": _MODULES[kind].__name__, "description": (_MODULES[kind].__doc__ or "").strip()}
    files = {
        f"{folder.name}.py": _SCRIPT.format(**described),
        "README.md": _CARD.format(title=folder.name, **described),
        "app.py": _APP.format(repository=folder.name),
        "requirements.txt": "evaluate\nmambaxray[eval]\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder
