"""The scores that a page shows, in tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...data.schema import OBSERVATIONS
from ..clinical import Uncertain


@dataclass(frozen=True)
class ScoreRow:
    """One metric with a value per system (None: not available) and a few words on what it measures.

    `interval` is the confidence interval of the first system's value, `identifier` the metric's name in files, which is
    shown as a tooltip.
    """

    metric: str
    values: Sequence[float | None]
    explanation: str = ""
    interval: tuple[float, float] | None = None
    identifier: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """Metrics of several systems; the first system is the one the page is about, the others are baselines.

    Raises:
        ValueError: a row whose values and systems differ in number.
    """

    systems: Sequence[str]
    rows: Sequence[ScoreRow]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.values) != len(self.systems):
                raise ValueError(
                    f"score row {row.metric!r} has {len(row.values)} values for {len(self.systems)} systems; "
                    "give one value (or None) per system"
                )


@dataclass(frozen=True)
class ObservationScore:
    """How well one observation is reported; `support` counts the references that report it, and without any there is
    nothing to measure (None)."""

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


def observation_scores(scores: Mapping[str, float], *, uncertain: Uncertain = "negative") -> list[ObservationScore]:
    """The 14 rows of the page's table out of what `clinical.label_scores` returns for the same `uncertain`."""
    rows = []
    for name in OBSERVATIONS:
        support = int(scores[f"support_{name}_uncertain-{uncertain}"])
        measures = ("precision", "recall", "F1")
        values = [scores[f"{measure}_{name}_uncertain-{uncertain}"] if support else None for measure in measures]
        rows.append(ObservationScore(name, support, *values))
    return rows
