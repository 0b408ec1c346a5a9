"""How well a model tells which observations an X-ray shows: AUROC and F1 of each, with confidence intervals."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data.schema import OBSERVATIONS

if TYPE_CHECKING:
    from transformers import EvalPrediction

Interval = tuple[float, float]
_DRAWS_AT_A_TIME = 100


@dataclass(frozen=True)
class ObservationScores:
    """One observation over the studies whose label is known.

    Attributes:
        positives: studies that show it.
        negatives: studies that don't.
        auroc: area under the ROC curve; None where there is no positive or no negative study.
        auroc_interval: its bootstrap interval.
        f1: harmonic mean of precision and recall at `threshold`; None where there is no positive study.
        f1_interval: its bootstrap interval.
        threshold: probability from which on the observation counts as found.
    """

    positives: int
    negatives: int
    auroc: float | None
    auroc_interval: Interval | None
    f1: float | None
    f1_interval: Interval | None
    threshold: float


@dataclass(frozen=True)
class ClassificationScores:
    """What `classification_scores` returns.

    Attributes:
        observations: the scores of each observation by its name.
        auroc_macro: mean over the observations that have an AUROC; None when none has.
        auroc_macro_interval: its bootstrap interval.
        f1_macro: mean over the observations that have an F1; None when none has.
        f1_macro_interval: its bootstrap interval.
        studies: how many.
        patients: how many, the units of the bootstrap.
        resamples: how many bootstrap samples.
        confidence: share of the bootstrap samples within an interval.
        seed: of the bootstrap samples.
    """

    observations: Mapping[str, ObservationScores]
    auroc_macro: float | None
    auroc_macro_interval: Interval | None
    f1_macro: float | None
    f1_macro_interval: Interval | None
    studies: int
    patients: int
    resamples: int
    confidence: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A table for people, "-" where a number does not exist."""
        rows = [
            f"| observation | positive | negative | AUROC | {self.confidence:.0%} interval | F1 | "
            f"{self.confidence:.0%} interval | threshold |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, each in self.observations.items():
            cells = (_cell(each.auroc), _range(each.auroc_interval), _cell(each.f1), _range(each.f1_interval))
            rows.append(
                f"| {name} | {each.positives} | {each.negatives} | {' | '.join(cells)} | {each.threshold:.3f} |"
            )
        cells = (
            *(_cell(self.auroc_macro), _range(self.auroc_macro_interval)),
            *(_cell(self.f1_macro), _range(self.f1_macro_interval)),
        )
        rows.append(f"| mean of those with a number | | | {' | '.join(cells)} | |")
        note = (
            f"{self.studies} studies of {self.patients} patients; intervals from {self.resamples} bootstrap samples of "
            f"patients (seed {self.seed}). -: no study with, or none without, the observation."
        )
        return "\n".join([*rows, "", note, ""])


def auroc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the share of pairs of a positive and a negative study in which the positive one has the
    higher probability, ties counting half.

    Args:
        probabilities: `(studies,)`, or anything in the same order.
        labels: `(studies,)`: 1 positive, 0 negative, NaN left out.

    Returns:
        NaN where there is no positive or no negative study.

    Source: Mann and Whitney (1947); Hanley and McNeil (1982).
    """
    ranked, positive = _known(np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64))[:2]
    return float(_weighted_auroc(ranked, positive, np.ones((1, len(ranked))))[0])


def best_thresholds(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """For each observation the probability from which on to count it as found for the highest F1, 0.5 where no study is
    positive.

    Args:
        probabilities: `(studies, observations)`.
        labels: `(studies, observations)`: 1 positive, 0 negative, NaN left out. Of other studies than those that are
            scored with the thresholds.
    """
    probabilities, labels = _checked(probabilities, labels)
    thresholds = np.full(probabilities.shape[1], 0.5)
    for column in range(probabilities.shape[1]):
        ranked, positive, _ = _known(probabilities[:, column], labels[:, column])
        if not positive.any():
            continue
        # From the highest probability down: what is found when the threshold lies at each.
        hits, found = np.cumsum(positive[::-1])[::-1], np.arange(len(ranked), 0, -1)
        f1 = 2 * hits / (found + positive.sum())
        # Studies of equal probability are found together: the first of them has them all.
        first = np.searchsorted(ranked, ranked, side="left")
        thresholds[column] = ranked[int(np.argmax(f1[first]))]
    return thresholds


def classification_scores(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    names: Sequence[str] = OBSERVATIONS,
    patients: Sequence[str] | None = None,
    thresholds: ArrayLike | float = 0.5,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ClassificationScores:
    """AUROC and F1 of each observation, their means, and percentile bootstrap intervals (Efron and Tibshirani, 1993,
    chapter 13). Studies of a patient are drawn together; samples in which a score does not exist are left out of its
    interval.

    Args:
        probabilities: `(studies, observations)`, between 0 and 1.
        labels: `(studies, observations)`: 1 positive, 0 negative, NaN left out.
        names: of the observations.
        patients: of the studies; each study is a patient's own when not given.
        thresholds: from which probability on an observation counts as found: one for all, or `(observations,)`.
        resamples: bootstrap samples; 0 for no intervals.
        confidence: share of the samples within an interval.
        seed: of the samples.

    Raises:
        ValueError: the shapes do not fit, there are no studies, a value is out of range.
    """
    probabilities, labels = _checked(probabilities, labels)
    if probabilities.shape[1] != len(names):
        raise ValueError(f"{len(names)} names for {probabilities.shape[1]} observations")
    if patients is not None and len(patients) != len(labels):
        raise ValueError(f"{len(patients)} patients for {len(labels)} studies")
    if resamples < 0:
        raise ValueError(f"resamples must not be negative, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1, e.g. 0.95")
    at = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), (len(names),))
    unit = np.arange(len(labels)) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    whole = _scores(probabilities, labels, at, np.ones((1, len(labels))))[0]
    weights = _draws(unit, resamples, seed)
    drawn = [_scores(probabilities, labels, at, part) for part in weights]
    draws = np.concatenate(drawn) if drawn else np.empty((0, 2, len(names)))
    observations = {}
    for column, name in enumerate(names):
        observations[name] = ObservationScores(
            int((labels[:, column] == 1).sum()),
            int((labels[:, column] == 0).sum()),
            _number(whole[0, column]),
            _interval(whole[0, column], draws[:, 0, column], confidence),
            _number(whole[1, column]),
            _interval(whole[1, column], draws[:, 1, column], confidence),
            float(at[column]),
        )
    means, mean_draws = _mean(whole[None])[0], _mean(draws)
    return ClassificationScores(
        observations,
        _number(means[0]),
        _interval(means[0], mean_draws[:, 0], confidence),
        _number(means[1]),
        _interval(means[1], mean_draws[:, 1], confidence),
        len(labels),
        int(unit.max()) + 1,
        resamples,
        confidence,
        seed,
    )


def classification_metrics(prediction: "EvalPrediction") -> dict[str, float]:
    """The `compute_metrics` of a Trainer for models that tell observations: `AUROC_macro` and, at a probability of 0.5,
    `F1_macro`, each the mean over the observations that have one; absent when none has.

    Args:
        prediction: `predictions` are logits, `(studies, observations)`, `label_ids` the labels, NaN left out.
    """
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    probabilities, labels = _checked(sigmoid(logits), prediction.label_ids)
    at = np.full(labels.shape[1], 0.5)
    means = _mean(_scores(probabilities, labels, at, np.ones((1, len(labels)))))[0]
    found = {"AUROC_macro": _number(means[0]), "F1_macro": _number(means[1])}
    return {name: value for name, value in found.items() if value is not None}


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """Probabilities of logits."""
    return 1 / (1 + np.exp(-np.clip(np.asarray(logits, dtype=np.float64), -500, 500)))


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape != labels.shape or not len(labels):
        raise ValueError(
            "probabilities and labels must both be (studies, observations) with at least one study, got "
            f"{probabilities.shape} and {labels.shape}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must lie between 0 and 1; of logits, give sigmoid(logits)")
    if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 1 (positive), 0 (negative) or NaN (left out)")
    return probabilities, labels


def _known(
    probabilities: NDArray[np.float64], labels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.intp]]:
    """Of one observation the studies with a known label by rising probability: their probabilities, whether they are
    positive, and which studies they are."""
    studies = np.flatnonzero(~np.isnan(labels))
    studies = studies[np.argsort(probabilities[studies], kind="stable")]
    return probabilities[studies], labels[studies] == 1, studies


def _weighted_auroc(
    ranked: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The AUROC of studies by rising probability, under each row of weights `(draws, studies)`; NaN without both
    kinds."""
    if not len(ranked):
        return np.full(len(weights), np.nan)
    negatives = np.cumsum(weights * ~positive, axis=1)
    # Below a study are the negatives before the first one of its probability; half of those that tie with it.
    padded = np.concatenate([np.zeros((len(weights), 1)), negatives], axis=1)
    below = padded[:, np.searchsorted(ranked, ranked, side="left")]
    not_above = padded[:, np.searchsorted(ranked, ranked, side="right")]
    wins = (weights * positive * (below + not_above) / 2).sum(axis=1)
    pairs = (weights * positive).sum(axis=1) * negatives[:, -1]
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def _scores(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.float64],
    thresholds: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """AUROC and F1 `(draws, 2, observations)` under each row of weights `(draws, studies)`; NaN where there is none."""
    scores = np.full((len(weights), 2, labels.shape[1]), np.nan)
    for column in range(labels.shape[1]):
        ranked, positive, studies = _known(probabilities[:, column], labels[:, column])
        of_known = weights[:, studies]
        scores[:, 0, column] = _weighted_auroc(ranked, positive, of_known)
        found = ranked >= thresholds[column]
        hits, positives = of_known @ (positive & found), of_known @ positive
        both = of_known @ found.astype(np.float64) + positives
        np.divide(2 * hits, both, out=scores[:, 1, column], where=positives > 0)
    return scores


def _draws(unit: NDArray[np.intp], resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each study is drawn, `(draws, studies)`, in parts that memory holds easily."""
    generator = np.random.default_rng(seed)
    units = int(unit.max()) + 1
    for start in range(0, resamples, _DRAWS_AT_A_TIME):
        chosen = generator.integers(units, size=(min(_DRAWS_AT_A_TIME, resamples - start), units))
        counts = np.stack([np.bincount(row, minlength=units) for row in chosen])
        yield counts[:, unit].astype(np.float64)


def _mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the observations that have a score, NaN when none has: `(draws, 2)`."""
    exists = ~np.isnan(scores)
    counts = exists.sum(axis=2)
    totals = np.where(exists, scores, 0).sum(axis=2)
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _interval(value: float, draws: NDArray[np.float64], confidence: float) -> Interval | None:
    known = draws[~np.isnan(draws)]
    if math.isnan(value) or not len(known):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail]).tolist()
    return (low, high)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


__all__ = [
    "ClassificationScores",
    "ObservationScores",
    "auroc",
    "best_thresholds",
    "classification_metrics",
    "classification_scores",
    "sigmoid",
]
