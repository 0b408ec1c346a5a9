"""Finding by finding: what a generated report makes of what its reference says.

The entities are the 14 observations without "No Finding", as `CheXpertStyleLabeler` reads them in both texts:
*reported* when stated (present) or suspected (uncertain), *ruled out* when absent. Every observation that needs one
gets a `Verdict`, and `EntityCounts` counts these verdicts: the numbers behind a figure of reports side by side, such as
figure 5 of AM-MRG, which marks hits, near hits, misses, inventions and normal findings left out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum

import numpy as np

from ..data.schema import ABSENT, NOT_MENTIONED, OBSERVATIONS, PRESENT, UNCERTAIN
from .labeler import Mention, Reading
from .located_labels import LocatedFinding
from .metric_table import MetricTable, check_pairs

ENTITIES: tuple[str, ...] = tuple(name for name in OBSERVATIONS if name != "No Finding")
"""The observations that have words of their own."""

KIND_OF = {
    "Cardiomegaly": "Enlarged Cardiomediastinum",
    "Lung Lesion": "Lung Opacity",
    "Edema": "Lung Opacity",
    "Consolidation": "Lung Opacity",
    "Atelectasis": "Lung Opacity",
    "Pneumonia": "Consolidation",
}
"""The hierarchy of CheXpert's observations (Irvin et al., AAAI 2019, figure 1): what is a kind of what."""

ENTITY_SCORES = ("entities_hit", "entities_near", "entities_missed", "entities_invented", "normal_left_out")
"""Names of the scores of `entity_table`."""

_REPORTED = (PRESENT, UNCERTAIN)


class Verdict(Enum):
    """What a generated report does with one observation: an identifier, a sign, its name and its meaning.

    The order is that of precedence where the words of two observations overlap.
    """

    DENIED = ("denied", "⊘", "Wrongly ruled out", "the reference reports it")
    INVENTED = ("invented", "✗", "Invented", "the reference does not report it")
    WRONG_SIDE = ("wrong-side", "⇄", "Wrong side", "both report it, on different sides")
    MISSED = ("missed", "○", "Missed", "only the reference reports it")
    RELATED = ("related", "↕", "Related finding", "the other report has a kind of it, or what it is a kind of")
    CERTAINTY = ("certainty", "≈", "Certainty differs", "stated in one report, suspected in the other")
    FOUND = ("found", "✓", "Found", "both report it")
    LEFT_OUT = ("left-out", "◌", "Left out", "normal, and only the reference says so")
    RULED_OUT = ("ruled-out", "", "Ruled out", "in both reports")

    def __init__(self, identifier: str, sign: str, title: str, meaning: str) -> None:
        self.identifier = identifier
        self.sign = sign
        self.title = title
        self.meaning = meaning


def judge(expected: Reading, stated: Reading) -> dict[str, Verdict]:
    """The verdict on each observation that needs one, in the order of `ENTITIES`.

    Args:
        expected: what the reference says.
        stated: what the generated report says.

    Sides are compared where both reports name one: they are wrong when they share none.

    An observation that one report has and the other does not mention is `RELATED` when the other report has, likewise
    alone, an observation of the same branch of `KIND_OF`: "opacity" for "pneumonia". Each observation serves one
    partner at most, so of "opacity" for "pneumonia and edema" one remains missed; as many as possible find a partner.
    """
    verdicts = {name: _verdict(name, expected, stated) for name in ENTITIES}
    alone = [name for name in ENTITIES if verdicts[name] in (Verdict.MISSED, Verdict.INVENTED)]
    # What the other report rules out is a contradiction, not nearly the same.
    ours = [name for name in alone if verdicts[name] is Verdict.MISSED and stated.labels[name] is NOT_MENTIONED]
    theirs = [name for name in alone if verdicts[name] is Verdict.INVENTED and expected.labels[name] is NOT_MENTIONED]
    for pair in _partners(ours, theirs):
        verdicts |= dict.fromkeys(pair, Verdict.RELATED)
    return {name: verdict for name, verdict in verdicts.items() if verdict is not None}


def _verdict(name: str, reference: Reading, report: Reading) -> Verdict | None:
    expected, stated = reference.labels[name], report.labels[name]
    if expected in _REPORTED and stated in _REPORTED:
        sides = [_sides(reading.mentions, name) for reading in (reference, report)]
        if all(sides) and sides[0].isdisjoint(sides[1]):
            return Verdict.WRONG_SIDE
        return Verdict.FOUND if expected == stated else Verdict.CERTAINTY
    if expected in _REPORTED:
        return Verdict.DENIED if stated == ABSENT else Verdict.MISSED
    if stated in _REPORTED:
        return Verdict.INVENTED
    if expected == ABSENT:
        return Verdict.RULED_OUT if stated == ABSENT else Verdict.LEFT_OUT
    return None


def _sides(mentions: Sequence[Mention], observation: str) -> frozenset[str]:
    """The sides on which an observation is reported."""
    reported = (m for m in mentions if m.observation == observation and m.value in _REPORTED)
    return LocatedFinding(tuple(detail for mention in reported for detail in mention.details)).sides


def _partners(first: Sequence[str], second: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The most pairs of observations of one branch, one from each side."""
    if not first or not second:
        return
    from scipy.optimize import linear_sum_assignment

    related = np.array([[_are_related(one, other) for other in second] for one in first], dtype=int)
    for row, column in zip(*linear_sum_assignment(related, maximize=True), strict=True):
        if related[row, column]:
            yield first[row], second[column]


def _are_related(one: str, other: str) -> bool:
    return other in _above(one) or one in _above(other)


def _above(name: str) -> Iterator[str]:
    while name in KIND_OF:
        name = KIND_OF[name]
        yield name


@dataclass(frozen=True)
class EntityCounts:
    """What a generated report, or several, make of their references; see `judge`.

    Attributes:
        hit: observations that both report, with the same certainty, and not on different sides.
        near: reported in the reference, and with other certainty, on another side, or as a related observation, in the
            generated report.
        missed: reported in the reference, and not at all in the generated report.
        denied: those of the missed that the generated report rules out.
        invented: reported in the generated report alone, without a related observation in the reference.
        stated: all that the generated report reports.
        normal_kept: ruled out in both.
        normal_left_out: ruled out in the reference, not mentioned in the generated report.
        normal: all that the reference rules out; what the generated report reports of it is among the invented.
    """

    hit: int = 0
    near: int = 0
    missed: int = 0
    denied: int = 0
    invented: int = 0
    stated: int = 0
    normal_kept: int = 0
    normal_left_out: int = 0
    normal: int = 0

    def __add__(self, other: "EntityCounts") -> "EntityCounts":
        return EntityCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def to_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def count_entities(expected: Reading, stated: Reading) -> EntityCounts:
    """The counts of one study; arguments as for `judge`."""
    verdicts = judge(expected, stated)

    def among(names: Iterable[str], *wanted: Verdict) -> int:
        return sum(verdicts.get(name) in wanted for name in names)

    reported = [name for name in ENTITIES if expected.labels[name] in _REPORTED]
    normal = [name for name in ENTITIES if expected.labels[name] == ABSENT]
    return EntityCounts(
        hit=among(reported, Verdict.FOUND),
        near=among(reported, Verdict.CERTAINTY, Verdict.WRONG_SIDE, Verdict.RELATED),
        missed=among(reported, Verdict.MISSED, Verdict.DENIED),
        denied=among(reported, Verdict.DENIED),
        invented=among(ENTITIES, Verdict.INVENTED),
        stated=sum(stated.labels[name] in _REPORTED for name in ENTITIES),
        normal_kept=among(normal, Verdict.RULED_OUT),
        normal_left_out=among(normal, Verdict.LEFT_OUT),
        normal=len(normal),
    )


def entity_table(references: Sequence[Reading], hypotheses: Sequence[Reading]) -> MetricTable:
    """The counts of all studies as shares, in a form that can be resampled.

    - `entities_hit`, `entities_near`, `entities_missed`: of the observations that the references report; sum 1.
    - `entities_invented`: of the observations that the generated reports report.
    - `normal_left_out`: of the observations that the references rule out.

    A share of nothing is 0.

    Args:
        references, hypotheses: what the texts say, one reading per study in each.

    Raises:
        ValueError: no studies, or different numbers of references and hypotheses.
    """
    check_pairs(references, hypotheses)
    counts = [count_entities(expected, stated) for expected, stated in zip(references, hypotheses, strict=True)]
    columns = [
        [each.hit, each.near, each.missed, each.invented, each.normal_left_out, each.stated, each.normal]
        for each in counts
    ]
    return MetricTable(ENTITY_SCORES, np.array(columns, dtype=np.float64), _shares)


def _shares(sums: np.ndarray) -> np.ndarray:
    reported = sums[..., :3].sum(axis=-1, keepdims=True)
    wholes = np.concatenate([*[reported] * 3, sums[..., 5:7]], axis=-1)
    return np.divide(sums[..., :5], wholes, out=np.zeros_like(wholes), where=wholes > 0)


__all__ = [
    "ENTITIES",
    "ENTITY_SCORES",
    "KIND_OF",
    "EntityCounts",
    "Verdict",
    "count_entities",
    "entity_table",
    "judge",
]
