"""Confidence intervals and paired tests from sufficient statistics, with patients as the unit.

Studies of one patient are alike, so they are drawn, and exchanged, together. A draw is a vector of weights; the
scores of a thousand draws are one matrix product and one call of each metric's formula.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from .metric_table import MetricTable

_DRAWS_AT_A_TIME = 250


def bootstrap_intervals(
    tables: Sequence[MetricTable],
    patients: np.ndarray,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals (Efron and Tibshirani, 1993, chapter 13) of every score.

    Args:
        tables: the metrics of one system.
        patients: `(studies,)` numbers from 0; equal ones are resampled together.
        resamples: how many corpora to draw.
        confidence: share of them inside the interval.
        seed: of the draws; all metrics see the same ones.

    Raises:
        ValueError: a confidence outside (0, 1) or no resamples.
    """
    _check(resamples, confidence)
    drawn = _bootstrap(tables, patients, resamples, seed)
    names = [name for table in tables for name in table.names]
    return _percentiles(names, drawn, confidence)


def paired_differences(
    first: Sequence[MetricTable],
    second: Sequence[MetricTable],
    patients: np.ndarray,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of `first - second`, both on the same drawn patients; see `bootstrap_intervals`."""
    _check(resamples, confidence)
    names = [name for table in first for name in table.names]
    draws = [_bootstrap(tables, patients, resamples, seed) for tables in (first, second)]
    return _percentiles(names, draws[0] - draws[1], confidence)


def randomization_test(
    first: Sequence[MetricTable],
    second: Sequence[MetricTable],
    patients: np.ndarray,
    *,
    exchanges: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Two-sided p-values of the paired approximate randomization test (Noreen, 1989; Riezler and Maxwell, 2005).

    If the systems were alike, it would not matter which wrote which report: for every patient they are exchanged by
    the toss of a coin, and p is the share of exchanges (the real one included) with a difference as large.

    Args:
        first, second: the same metrics of two systems on the same studies.
        patients: `(studies,)` numbers from 0; equal ones are exchanged together.
        exchanges: how many random exchanges; the smallest possible p is `1 / (exchanges + 1)`.
        seed: of the exchanges.
    """
    _check(exchanges)
    sums = [_by_patient(tables, patients) for tables in (first, second)]
    change = sums[0] - sums[1]
    totals = [part.sum(axis=0) for part in sums]
    observed = np.abs(_scores(first, totals[0]) - _scores(second, totals[1]))
    generator = np.random.default_rng(seed)
    as_large = np.zeros(len(observed))
    for size in _batches(exchanges):
        moved = generator.integers(0, 2, size=(size, len(change))).astype(np.float64) @ change
        differences = np.abs(_scores(first, totals[0] - moved) - _scores(second, totals[1] + moved))
        # Sums of the same terms in another order differ by rounding; that is not a smaller difference.
        as_large += (differences >= observed * (1 - 1e-9) - 1e-12).sum(axis=0)
    names = [name for table in first for name in table.names]
    return dict(zip(names, ((as_large + 1) / (exchanges + 1)).tolist(), strict=True))


def _check(draws: int, confidence: float = 0.5) -> None:
    if draws < 1:
        raise ValueError(f"{draws} resamples: at least one is needed")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1, e.g. 0.95")


def _bootstrap(tables: Sequence[MetricTable], patients: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Scores `(resamples, scores)`."""
    sums = _by_patient(tables, patients)
    generator = np.random.default_rng(seed)
    drawn = []
    for size in _batches(resamples):
        chosen = generator.integers(len(sums), size=(size, len(sums)))
        weights = np.stack([np.bincount(row, minlength=len(sums)) for row in chosen]).astype(np.float64)
        drawn.append(_scores(tables, weights @ sums))
    return np.concatenate(drawn)


def _by_patient(tables: Sequence[MetricTable], patients: np.ndarray) -> np.ndarray:
    """The statistics of all tables side by side, summed over each patient's studies: `(patients, columns)`."""
    statistics = np.concatenate([table.statistics for table in tables], axis=1)
    sums = np.zeros((int(patients.max()) + 1, statistics.shape[1]))
    np.add.at(sums, patients, statistics)
    return sums


def _scores(tables: Sequence[MetricTable], sums: np.ndarray) -> np.ndarray:
    ends = np.cumsum([table.statistics.shape[1] for table in tables])
    parts = np.split(sums, ends[:-1], axis=-1)
    return np.concatenate([table.corpus(part) for table, part in zip(tables, parts, strict=True)], axis=-1)


def _batches(total: int) -> Iterator[int]:
    for start in range(0, total, _DRAWS_AT_A_TIME):
        yield min(_DRAWS_AT_A_TIME, total - start)


def _percentiles(names: Sequence[str], drawn: np.ndarray, confidence: float) -> dict[str, tuple[float, float]]:
    tail = (1 - confidence) / 2
    lows, highs = np.quantile(drawn, [tail, 1 - tail], axis=0).tolist()
    return {name: (low, high) for name, low, high in zip(names, lows, highs, strict=True)}
