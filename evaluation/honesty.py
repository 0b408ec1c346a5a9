"""Signs that good scores hide bad reports: the same text for everybody, empty, broken off or repeating texts."""

import re
from collections.abc import Sequence

import numpy as np

_REPEATED_WORDS = 4
_SENTENCE_END = re.compile(r"[.!?:][\"')\]]*\s*\Z")


def honesty_checks(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Numbers to read beside the scores; each with its counterpart of the references, `reference_…`.

    - `unique_ratio`: different texts among the reports, 1 when no two are equal. A system that has one text for
      every normal image has a low one.
    - `empty_share`: reports without a letter or digit.
    - `truncated_share`: reports with words that don't end a sentence (no full stop, question mark … at the end), as
      those that hit the limit of new tokens. Meaningless where the references have no punctuation either.
    - `repetition`: mean share of a report's 4-word sequences that it had before.
    - `length_ratio`: words of all reports by words of all references (no counterpart); 0 if those have none.

    Raises:
        ValueError: no reports.
    """
    own = {"hypotheses": _of(hypotheses), "references": _of(references)}
    words = {name: sum(len(text.split()) for text in texts) for name, texts in (("r", references), ("h", hypotheses))}
    return {
        **own["hypotheses"],
        "length_ratio": words["h"] / words["r"] if words["r"] else 0.0,
        **{f"reference_{name}": value for name, value in own["references"].items()},
    }


def unique_ratio(reports: Sequence[str]) -> float:
    """Share of different texts among the reports, 1 when no two are equal."""
    if not reports:
        raise ValueError("there are no reports")
    return len(set(reports)) / len(reports)


def _of(reports: Sequence[str]) -> dict[str, float]:
    return {
        "unique_ratio": unique_ratio(reports),
        "empty_share": float(np.mean([not _has_words(text) for text in reports])),
        "truncated_share": float(np.mean([_has_words(text) and not _SENTENCE_END.search(text) for text in reports])),
        "repetition": float(np.mean([repetition_of(text) for text in reports])),
    }


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def repetition_of(report: str) -> float:
    """Share of a report's 4-word sequences that it had before."""
    words = report.split()
    sequences = [tuple(words[start : start + _REPEATED_WORDS]) for start in range(len(words) - _REPEATED_WORDS + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0
