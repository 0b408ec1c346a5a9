"""Compares the findings of a generated report with those of its reference, and marks them in both texts.

Each observation that a `CheXpertStyleLabeler` reads in either text gets one verdict; each mention of it is marked in
HTML by a tint, an underline style and a sign, so that colour is never the only mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ...data.schema import ABSENT
from ..findings import Verdict, judge
from ..labeler import CheXpertStyleLabeler, Mention
from .rendering import render


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
    """Compares what two reports say about each observation, see `judge`, and marks where they say it.

    "No Finding" has no words of its own and is left out; so is a negation that only the generated report makes.
    """
    expected, stated = labeler.read(reference), labeler.read(hypothesis)
    verdicts = judge(expected, stated)
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


def _shown_in_reference(mention: Mention, verdicts: dict[str, Verdict]) -> bool:
    verdict = verdicts.get(mention.observation)
    return verdict is not None and (mention.value != ABSENT or verdict in (Verdict.RULED_OUT, Verdict.LEFT_OUT))


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
