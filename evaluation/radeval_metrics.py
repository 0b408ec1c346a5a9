"""RadGraph-F1, RadCliQ, CheXbert-F1, BERTScore, RaTEScore, GREEN and CRIMSON by the package `radeval`, if there is one.

radeval (https://github.com/jbdel/RadEval) and what it needs clash with this package's dependencies in places, so it is
no extra: it is used in-process when it can be imported, else in an environment of its own. Its models come from the
Hugging Face Hub.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .metric_table import MetricTable, MetricUnavailableError, mean_table
from .radeval_worker import run_radeval


@dataclass(frozen=True)
class _Family:
    """A metric of radeval: its name there, the Hub repositories of its weights, and our names of its scores."""

    metric: str
    repositories: tuple[str, ...]
    names: dict[str, str]


_CHEXBERT = {
    f"f1chexbert_{size}_{averaging}_f1": f"CheXbert_F1_{averaging}_{'14' if size == 'all' else size}"
    for size in ("all", "5")
    for averaging in ("micro", "macro", "weighted")
}

RADEVAL_METRICS: dict[str, _Family] = {
    "RadGraph": _Family(
        "radgraph",
        ("StanfordAIMI/RRG_scorers",),
        {f"radgraph_{level}": f"RadGraph_F1_{level}" for level in ("simple", "partial", "complete")},
    ),
    "RadCliQ": _Family("radcliq", ("StanfordAIMI/RRG_scorers", "distilroberta-base"), {"radcliq_v1": "RadCliQ_v1"}),
    "CheXbert": _Family("f1chexbert", ("StanfordAIMI/RRG_scorers", "bert-base-uncased"), _CHEXBERT),
    "BERTScore": _Family("bertscore", ("distilbert-base-uncased",), {"bertscore": "BERTScore_F1"}),
    "RaTEScore": _Family(
        "ratescore", ("Angelakeke/RaTE-NER-Deberta", "FremyCompany/BioLORD-2023-C"), {"ratescore": "RaTEScore"}
    ),
    "GREEN": _Family("green", ("StanfordAIMI/GREEN-radllama2-7b",), {"green": "GREEN"}),
    "CRIMSON": _Family("crimson", ("rajpurkarlab/medgemma-4b-it-crimson",), {"crimson": "CRIMSON"}),
}
"""Families that `metrics` can name. Of RadCliQ less is better; of the others more."""


@dataclass(frozen=True)
class RadevalScores:
    """Scores of one family: the `table` of those that single studies have, or else the `corpus` values only."""

    version: str
    table: MetricTable | None
    corpus: dict[str, float]


def radeval_scores(
    name: str,
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    external_python: str | PathLike | None = None,
) -> RadevalScores:
    """Scores of one family of `RADEVAL_METRICS`.

    Args:
        name: of the family.
        references, hypotheses: one of each per study.
        external_python: the Python of an environment that radeval is installed in; needed unless it can be imported.

    Raises:
        MetricUnavailableError: no radeval, no weights, or it failed or gave a study no value; the message names the
            Hub repositories that it loads from.
        FileNotFoundError: no such `external_python`.
    """
    family = RADEVAL_METRICS[name]
    if external_python is not None:
        answer = _run_outside(name, family, references, hypotheses, external_python)
    elif find_spec("radeval") is None:
        raise MetricUnavailableError(
            f"{name} needs the package radeval: `pip install radeval` into an environment of its own, and give its "
            f"Python as --external-python (external_python=); weights: {_repositories(family)}"
        )
    else:
        try:
            answer = run_radeval(family.metric, references, hypotheses)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise _failed(name, family, f"{type(error).__name__}: {error}") from error
    values = {family.names[key]: column for key, column in answer["per_sample"].items() if key in family.names}
    without = max((sum(value is None or value != value for value in column) for column in values.values()), default=0)
    if without:
        raise _failed(name, family, f"it gave {without} of {len(references)} studies no value")
    table = mean_table({key: np.asarray(column) for key, column in values.items()}) if values else None
    corpus = {family.names[key]: value for key, value in answer["corpus"].items() if key in family.names}
    if table is None and not corpus:
        raise _failed(name, family, f"radeval {answer['version']} gave none of {', '.join(family.names)}")
    return RadevalScores(answer["version"], table, corpus)


def _run_outside(
    name: str, family: _Family, references: Sequence[str], hypotheses: Sequence[str], python: str | PathLike
) -> dict[str, Any]:
    if not Path(python).is_file():
        raise FileNotFoundError(f"{python}: no such Python; give the path of the executable, e.g. radeval/bin/python")
    request = {"metric": family.metric, "references": list(references), "hypotheses": list(hypotheses)}
    with TemporaryDirectory() as folder:
        files = [Path(folder) / "request.json", Path(folder) / "answer.json"]
        files[0].write_text(json.dumps(request), encoding="utf-8")
        # -P: this folder's modules must not hide those of the other environment.
        worker = Path(__file__).with_name("radeval_worker.py")
        # In the temporary folder, for GREEN leaves files where it runs.
        finished = subprocess.run(
            [str(Path(python).absolute()), "-P", str(worker), *map(str, files)],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd=folder,
        )
        if finished.returncode or not files[1].is_file():
            lines = finished.stderr.decode("utf-8", "replace").strip().splitlines()
            raise _failed(name, family, lines[-1] if lines else f"exit code {finished.returncode}")
        return json.loads(files[1].read_text(encoding="utf-8"))


def _failed(name: str, family: _Family, reason: str) -> MetricUnavailableError:
    first = next(iter(reason.strip().splitlines()), reason)
    return MetricUnavailableError(f"{name} by radeval failed ({first}); it loads {_repositories(family)}")


def _repositories(family: _Family) -> str:
    return " and ".join(f"https://huggingface.co/{name}" for name in family.repositories)
