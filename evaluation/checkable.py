"""How much of a report can be checked: a model that is rewarded for what it states may learn to state nothing."""

from collections.abc import Iterable

from .labeler import CheXpertStyleLabeler
from .labeler_sentences import sentences


def uncheckable_share(reports: Iterable[str]) -> float:
    """Share of all sentences in which the labeler reads none of the 14 observations, neither present nor absent; 0
    without any sentence. General remarks ("The lungs are clear") are among them, so compare with the references."""
    labeler = CheXpertStyleLabeler()
    silent = total = 0
    for report in reports:
        starts = [mention.start for mention in labeler.mentions(report)]
        for sentence in sentences(report.lower(), 0, len(report), report) if len(report.lower()) == len(report) else ():
            if not any(character.isalpha() for character in sentence.words):
                continue
            begin, end = sentence.span(0, len(sentence.words))
            total += 1
            silent += not any(begin <= start < end for start in starts)
    return silent / total if total else 0.0


__all__ = ["uncheckable_share"]
