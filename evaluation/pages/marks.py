"""Compares the findings of a generated report with those of its reference, and marks them in both texts.

Each observation that a `CheXpertStyleLabeler` reads in either text gets one verdict; each mention of it is marked in
HTML by a tint, an underline style and a sign, so that colour is never the only mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from markupsafe import Markup

from ...data.schema import ABSENT, OBSERVATIONS, PRESENT, UNCERTAIN
from ..labeler import CheXpertStyleLabeler, Mention
from ..located_labels import LocatedFinding
from .rendering import render

_REPORTED = (PRESENT, UNCERTAIN)


class Verdict(Enum):
    """What a generated report does with one observation: its CSS class, its sign, its name and its meaning.

    The order is that of precedence where the words of two observations overlap.
    """

    DENIED = ("denied", "⊘", "Wrongly ruled out", "the reference reports it")
    INVENTED = ("invented", "✗", "Invented", "the reference does not report it")
    WRONG_SIDE = ("wrong-side", "⇄", "Wrong side", "both report it, on different sides")
    MISSED = ("missed", "○", "Missed", "only the reference reports it")
    CERTAINTY = ("certainty", "≈", "Certainty differs", "stated in one report, suspected in the other")
    FOUND = ("found", "✓", "Found", "both report it")
    RULED_OUT = ("ruled-out", "", "Ruled out", "in both reports")

    def __init__(self, css_class: str, sign: str, title: str, meaning: str) -> None:
        self.css_class = css_class
        self.sign = sign
        self.title = title
        self.meaning = meaning


@dataclass(frozen=True)
class Mark:
    """The words `text[start:end]` and the verdict on each observation they mention."""

    start: int
    end: int
    verdicts: dict[str, Verdict]

    @property
    def verdict(self) -> Verdict:
        """The verdict to show: the gravest one."""
        return min(self.verdicts.values(), key=list(Verdict).index)

    @property
    def title(self) -> str:
        """All verdicts in words."""
        return "; ".join(f"{name}: {each.title.lower()} ({each.meaning})" for name, each in self.verdicts.items())


@dataclass(frozen=True)
class FindingComparison:
    """The verdict on each observation that needs one, in the order of `OBSERVATIONS`, and the marks in both texts."""

    verdicts: dict[str, Verdict]
    reference_marks: tuple[Mark, ...]
    hypothesis_marks: tuple[Mark, ...]

    def observations(self, *verdicts: Verdict) -> list[str]:
        """The observations with one of these verdicts."""
        return [name for name, verdict in self.verdicts.items() if verdict in verdicts]


def compare_findings(reference: str, hypothesis: str, labeler: CheXpertStyleLabeler) -> FindingComparison:
    """Compares what two reports say about each observation.

    A finding counts as reported when it is stated or suspected. "No Finding" has no words of its own and is left out;
    so is a negation that only one of the reports makes. Sides are compared where both reports name one: they are wrong
    when they share none.
    """
    expected, stated = labeler.read(reference), labeler.read(hypothesis)
    verdicts = {}
    for name in OBSERVATIONS:
        verdict = _verdict(expected.labels[name], stated.labels[name])
        if verdict in (Verdict.FOUND, Verdict.CERTAINTY):
            sides = [_sides(reading.mentions, name) for reading in (expected, stated)]
            verdict = Verdict.WRONG_SIDE if all(sides) and sides[0].isdisjoint(sides[1]) else verdict
        if verdict is not None and name != "No Finding":
            verdicts[name] = verdict
    in_reference = [m for m in expected.mentions if _shown_in_reference(m, verdicts)]
    in_hypothesis = [m for m in stated.mentions if _shown_in_hypothesis(m, verdicts)]
    return FindingComparison(verdicts, _marks(in_reference, verdicts), _marks(in_hypothesis, verdicts))


def marked_pieces(text: str, marks: Sequence[Mark]) -> list[tuple[str, Mark | None]]:
    """`text` in pieces, each with its mark or None; `marks` are in order and don't overlap, as `compare_findings` gives
    them."""
    pieces: list[tuple[str, Mark | None]] = []
    position = 0
    for mark in marks:
        pieces += [(text[position : mark.start], None), (text[mark.start : mark.end], mark)]
        position = mark.end
    return [*pieces, (text[position:], None)]


def marked_html(text: str, marks: Sequence[Mark]) -> Markup:
    """`text` as safe HTML with its marks, see `marked_pieces`."""
    return render("marked_text.html.jinja", pieces=marked_pieces(text, marks))


def _verdict(expected: int | None, stated: int | None) -> Verdict | None:
    if expected in _REPORTED and stated in _REPORTED:
        return Verdict.FOUND if expected == stated else Verdict.CERTAINTY
    if expected in _REPORTED:
        return Verdict.DENIED if stated == ABSENT else Verdict.MISSED
    if stated in _REPORTED:
        return Verdict.INVENTED
    return Verdict.RULED_OUT if expected == stated == ABSENT else None


def _sides(mentions: Sequence[Mention], observation: str) -> frozenset[str]:
    """The sides on which an observation is reported."""
    reported = (m for m in mentions if m.observation == observation and m.value in _REPORTED)
    return LocatedFinding(tuple(detail for mention in reported for detail in mention.details)).sides


def _shown_in_reference(mention: Mention, verdicts: dict[str, Verdict]) -> bool:
    verdict = verdicts.get(mention.observation)
    return verdict is not None and (mention.value in _REPORTED or verdict is Verdict.RULED_OUT)


def _shown_in_hypothesis(mention: Mention, verdicts: dict[str, Verdict]) -> bool:
    return _shown_in_reference(mention, verdicts) or verdicts.get(mention.observation) is Verdict.DENIED


def _marks(mentions: Sequence[Mention], verdicts: dict[str, Verdict]) -> tuple[Mark, ...]:
    """One mark per stretch of words; mentions that overlap share one."""
    marks: list[Mark] = []
    for mention in sorted(mentions, key=lambda m: (m.start, m.end)):
        verdict = {mention.observation: verdicts[mention.observation]}
        if marks and mention.start < marks[-1].end:
            last = marks.pop()
            marks.append(Mark(last.start, max(last.end, mention.end), last.verdicts | verdict))
        else:
            marks.append(Mark(mention.start, mention.end, verdict))
    return tuple(marks)
