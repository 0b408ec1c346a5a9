"""Located label scores: whether a report names each finding on the right side, and how large.

`clinical.label_scores` calls "large right pleural effusion" a match for "small left". Here the unit is a finding on a
side, read by `CheXpertStyleLabeler` from both texts; sizes are compared where both texts say one, and what a report
states although the reference rules it out is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data.schema import ABSENT, OBSERVATIONS, PRESENT
from .clinical import MEASURES, precision_recall_f1
from .labeler import Reading
from .labeler_detail_words import CHANGES, SEVERITIES, ZONES
from .labeler_details import Detail
from .metric_table import MetricTable, check_pairs

_TWO = ("left", "right")


@dataclass(frozen=True)
class LocatedFinding:
    """What a text says of one observation that it states as present, all its mentions together.

    Attributes:
        details: of all mentions, without those that say nothing.
    """

    details: tuple[Detail, ...]

    @cached_property
    def sides(self) -> frozenset[str]:
        """`left` and `right`, as far as they are named; empty where no side is said."""
        return frozenset(side for detail in self.details for side in _sides(detail))

    @property
    def side(self) -> str:
        """`left`, `right`, `both`, or `""` where no side is said."""
        return "both" if len(self.sides) == 2 else next(iter(self.sides), "")

    @cached_property
    def zones(self) -> tuple[str, ...]:
        """Of `ZONES`, from top to bottom."""
        return tuple(zone for zone in ZONES if any(zone in detail.zones for detail in self.details))

    @cached_property
    def lobes(self) -> tuple[str, ...]:
        """Names of lobes."""
        return tuple(sorted({lobe for detail in self.details for lobe in detail.lobes}))

    def severity(self, side: str = "") -> tuple[str, ...]:
        """The gravest size said: of `SEVERITIES` none, one, or the ends of a range.

        Args:
            side: `left` or `right`, for the size on that side where the text tells them apart; `""` for all.
        """
        there = [d.severity for d in self.details if d.severity and (not side or side in _sides(d))]
        there = there or [d.severity for d in self.details if d.severity and not (side and _sides(d))]
        return max(there, key=lambda sizes: SEVERITIES.index(sizes[-1]), default=())

    @cached_property
    def change(self) -> str:
        """The first of `CHANGES` that any mention states, or `""`."""
        return next((change for change in CHANGES if any(d.change == change for d in self.details)), "")


def _sides(detail: Detail) -> tuple[str, ...]:
    return _TWO if detail.side == "both" else (detail.side,) if detail.side else ()


@dataclass(frozen=True)
class LocatedReading:
    """What a text states, denies and leaves open, with sides.

    Attributes:
        present: the observations with label 1, "No Finding" included.
        ruled_out: the observations that the text denies, each with the sides on which it does; without any where it
            denies the observation altogether.
    """

    present: dict[str, LocatedFinding]
    ruled_out: dict[str, frozenset[str]]


def locate(reading: Reading) -> LocatedReading:
    """Puts the mentions of a text together, observation by observation.

    >>> from mambaxray.evaluation.labeler import CheXpertStyleLabeler
    >>> reading = CheXpertStyleLabeler().read("Small left effusion. Bibasilar atelectasis. No pneumothorax.")
    >>> located = locate(reading)
    >>> located.present["Pleural Effusion"].side, located.present["Pleural Effusion"].severity()
    ('left', ('small',))
    >>> located.present["Atelectasis"].side, located.present["Atelectasis"].zones, located.ruled_out
    ('both', ('basal',), {'Pneumothorax': frozenset()})
    """
    present: dict[str, LocatedFinding] = {}
    ruled_out: dict[str, frozenset[str]] = {}
    for name in OBSERVATIONS:
        value = reading.labels[name]
        mentions = [mention for mention in reading.mentions if mention.observation == name]
        if value == PRESENT:
            details = (d for m in mentions if m.value == PRESENT for d in m.details if d != Detail())
            present[name] = LocatedFinding(tuple(dict.fromkeys(details)))
        denied = [{side for d in m.details for side in _sides(d)} for m in mentions if m.value == ABSENT]
        if value == ABSENT and name != "No Finding":
            ruled_out[name] = frozenset()
        elif value == PRESENT and (sides := frozenset().union(*denied) - present[name].sides):
            ruled_out[name] = sides
    return LocatedReading(present, ruled_out)


@dataclass(frozen=True)
class LocatedCounts:
    """What a report has in common with its reference, `(14,)` each in the order of `OBSERVATIONS`.

    Attributes:
        hits, stated, true: findings on a side that both state, that the report states, that the reference states. A
            finding of which the reference says no side is one finding, whichever side the report gives it; one of
            which only the report says no side is on no right side.
        wrong_side: 1 where both name sides and share none.
        contradicted: 1 where the report states what the reference rules out.
        compared, agreed: findings on a side whose size both say; those whose sizes, or ranges of them, overlap.
    """

    hits: np.ndarray
    stated: np.ndarray
    true: np.ndarray
    wrong_side: np.ndarray
    contradicted: np.ndarray
    compared: np.ndarray
    agreed: np.ndarray


def compare_located(reference: LocatedReading, report: LocatedReading) -> LocatedCounts:
    """Counts of one study; see `LocatedCounts`."""
    counts = LocatedCounts(*(np.zeros(len(OBSERVATIONS), dtype=np.int8) for _ in range(7)))
    for index, name in enumerate(OBSERVATIONS):
        there, here = reference.present.get(name), report.present.get(name)
        if there is not None:
            counts.true[index] = len(there.sides) or 1
        if here is not None:
            counts.stated[index] = len(here.sides) or 1
            denied = reference.ruled_out.get(name)
            counts.contradicted[index] = denied is not None and (not denied or bool(denied & here.sides))
        if there is None or here is None:
            continue
        shared = there.sides & here.sides
        if there.sides:
            counts.hits[index] = len(shared)
            counts.wrong_side[index] = bool(here.sides) and not shared
        else:
            counts.hits[index] = counts.stated[index] = 1
        for side in shared if there.sides else ("",):
            sizes = [_levels(finding.severity(side)) for finding in (there, here)]
            counts.compared[index] += all(sizes)
            counts.agreed[index] += not sizes[0].isdisjoint(sizes[1])
    return counts


def _levels(severity: tuple[str, ...]) -> set[int]:
    """The levels of a size or range, its ends included."""
    places = [SEVERITIES.index(name) for name in severity]
    return set(range(min(places), max(places) + 1)) if places else set()


_AVERAGES = tuple(
    f"located_{measure}_{averaging}_14_uncertain-negative"
    for averaging in ("micro", "macro", "example")
    for measure in MEASURES
)
COUNT_NAMES = ("severity_compared", "wrong_sides", "contradictions")
"""Numbers of findings, not scores."""
LOCATED_NAMES = (*_AVERAGES, "severity_agreement", "wrong_side_rate", "contradiction_rate", *COUNT_NAMES)
"""The names of `located_table`, in its order."""


def located_table(references: Sequence[LocatedReading], reports: Sequence[LocatedReading]) -> MetricTable:
    """Located scores, one reading per study in each, in a form that can be resampled.

    Names and values:

    - `located_{precision,recall,F1}_{micro,macro,example}_14_uncertain-negative`: as in `clinical.label_scores`, over
      findings on a side; uncertain counts as negative.
    - `severity_agreement`: of the findings on a side whose size both texts say, the share whose sizes or ranges
      overlap; `severity_compared` is their number. 0 where there are none.
    - `wrong_side_rate`, `contradiction_rate`: findings per report that are on no right side although both name one, and
      that the reference rules out; `wrong_sides` and `contradictions` are their numbers.

    Raises:
        ValueError: no studies, or different numbers of references and reports.
    """
    check_pairs(references, reports)
    counts = [compare_located(*pair) for pair in zip(references, reports, strict=True)]
    hits, stated, true, wrong, contradicted, compared, agreed = (
        np.stack([getattr(each, name) for each in counts]).astype(np.float64) for name in LocatedCounts.__annotations__
    )
    example = dict(
        zip(
            _AVERAGES[-len(MEASURES) :],
            (values for _, values in precision_recall_f1(*(cells.sum(axis=1) for cells in (hits, stated, true)))),
            strict=True,
        )
    )
    totals = [cells.sum(axis=1, keepdims=True) for cells in (agreed, compared, wrong, contradicted)]
    ones = np.ones((len(counts), 1))
    statistics = np.concatenate([hits, stated, true, np.stack([*example.values()], axis=1), *totals, ones], axis=1)
    rates = {"wrong_side_rate": totals[2][:, 0], "contradiction_rate": totals[3][:, 0]}
    return MetricTable(LOCATED_NAMES, statistics, _corpus_scores, example | rates)


def _corpus_scores(sums: np.ndarray) -> np.ndarray:
    """Scores `(..., 15)` from summed statistics `(..., 50)`."""
    width = len(OBSERVATIONS)
    cells = [sums[..., start : start + width] for start in range(0, 3 * width, width)]
    examples, (agreed, compared, wrong, contradicted, studies) = (
        sums[..., 3 * width : -5],
        np.moveaxis(sums, -1, 0)[-5:],
    )
    scores = [values for _, values in precision_recall_f1(*(cell.sum(axis=-1) for cell in cells))]
    scores += [values.mean(axis=-1) for _, values in precision_recall_f1(*cells)]
    scores += [examples[..., column] / studies for column in range(len(MEASURES))]
    scores += [agreed / np.maximum(compared, 1), wrong / studies, contradicted / studies]
    return np.stack([*scores, compared, wrong, contradicted], axis=-1)


__all__ = [
    "COUNT_NAMES",
    "LOCATED_NAMES",
    "LocatedCounts",
    "LocatedFinding",
    "LocatedReading",
    "compare_located",
    "locate",
    "located_table",
]
