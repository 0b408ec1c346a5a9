"""What every metric returns: sums per study from which the score of any selection of studies follows at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class MetricUnavailableError(RuntimeError):
    """A metric that can't be computed here; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class MetricTable:
    """One or more metrics of one system in the form of sufficient statistics.

    A corpus score such as BLEU is not a mean over studies, but a function of sums over studies. With the sums'
    terms at hand, a bootstrap is a matrix product and needs neither the reports nor the metric's program again.

    Attributes:
        names: names of the scores.
        statistics: `(studies, columns)` float64, the terms of the sums.
        corpus: turns sums `(..., columns)` into scores `(..., len(names))`.
        per_sample: for the metrics that a single study has, its `(studies,)` values.
    """

    names: tuple[str, ...]
    statistics: np.ndarray
    corpus: Callable[[np.ndarray], np.ndarray]
    per_sample: Mapping[str, np.ndarray] = field(default_factory=dict)

    def scores(self) -> dict[str, float]:
        """The scores of the whole corpus."""
        return dict(zip(self.names, self.corpus(self.statistics.sum(axis=0)).tolist(), strict=True))


def mean_table(values: Mapping[str, np.ndarray]) -> MetricTable:
    """The table of metrics whose corpus score is the mean of the studies' `(studies,)` values."""
    columns = [np.asarray(column, dtype=np.float64) for column in values.values()]
    statistics = np.stack([*columns, np.ones_like(columns[0])], axis=1)
    return MetricTable(tuple(values), statistics, _mean, dict(zip(values, columns, strict=True)))


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., :-1] / sums[..., -1:]


def check_pairs(references: Sequence[Any], hypotheses: Sequence[Any]) -> None:
    """Raises ValueError unless there is one hypothesis for each of at least one reference."""
    if len(references) != len(hypotheses):
        raise ValueError(
            f"{len(references)} references but {len(hypotheses)} hypotheses: give one of each per study, in one order"
        )
    if not references:
        raise ValueError("no studies to score: references and hypotheses are empty")
