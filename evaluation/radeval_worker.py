"""Runs one metric of the package `radeval`; also as a program of its own, in an environment that has radeval only.

    python -P radeval_worker.py REQUEST.json ANSWER.json

So it imports nothing of this package. The request has `metric`, `references` and `hypotheses`; the answer is what
`run_radeval` returns. An error ends the program with a traceback, whose last line states what went wrong.
"""

import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any


@lru_cache(maxsize=8)
def _evaluator(metric: str, by_study: bool) -> Any:
    """radeval with the models of one metric, which stay loaded: rewards ask for it with every batch."""
    from radeval import RadEval

    return RadEval(metrics=[metric], per_sample=by_study, detailed=not by_study, show_progress=False)


def run_radeval(metric: str, references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Any]:
    """Values of one metric, under radeval's own names.

    Returns:
        `version` of radeval, `per_sample` (`{name: [value per study]}`) and `corpus` (`{name: value}`), one of the two
        empty: F1 of CheXbert is a value of the corpus and of no single study.
    """
    by_study = metric != "f1chexbert"
    values = _evaluator(metric, by_study)(refs=list(references), hyps=list(hypotheses))
    if by_study:
        per_sample = {
            name: [None if value is None else float(value) for value in column] for name, column in values.items()
        }
        return {"version": version("radeval"), "per_sample": per_sample, "corpus": {}}
    corpus = {name: float(value) for name, value in values.items() if not isinstance(value, dict)}
    return {"version": version("radeval"), "per_sample": {}, "corpus": corpus}


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer = run_radeval(request["metric"], request["references"], request["hypotheses"])
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")
