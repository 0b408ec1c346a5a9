"""What a score is worth: reports that were written without understanding the image, scored on the same references."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from .clinical import Labels, positives


def best_constant_report(candidates: Mapping[str, Labels], references: Sequence[Labels]) -> tuple[str, float]:
    """The one report that, given for every study, has the highest `F1_micro_14_uncertain-negative`.

    It is chosen with the references in sight, so no constant report among the candidates does better.

    Args:
        candidates: reports, usually those of the training split, with their labels.
        references: labels of the studies to score on.

    Returns:
        The report and its score.

    Raises:
        ValueError: there are no candidates.
    """
    if not candidates:
        raise ValueError("there are no candidate reports")
    stated = positives([*candidates.values()])
    true = positives(references)
    hits = stated @ true.sum(axis=0)
    scores = 2 * hits / np.maximum(len(references) * stated.sum(axis=1) + true.sum(), 1)
    best = int(scores.argmax())
    return [*candidates][best], float(scores[best])


def best_constant_caption(candidates: Sequence[str], references: Sequence[str]) -> tuple[str, float]:
    """The one report that, given for every study, has the highest BLEU-4; chosen with the references in sight.

    Args:
        candidates: reports, usually those of the training split.
        references: reports of the studies to score on.

    Returns:
        The report and its BLEU-4.

    Raises:
        ValueError: there are no candidates.
    """
    if not candidates:
        raise ValueError("there are no candidate reports")
    # These need the extra [eval]; the rest of this file doesn't.
    from .caption_metrics import bleu_scores
    from .ngram_counts import ORDERS, NgramCounts

    counts = NgramCounts(references, [candidates])
    words = counts.system_words[0] * len(references)
    reference_words = np.full(len(candidates), counts.reference_words.sum())
    guessed = [np.maximum(counts.system_words[0] - order + 1, 0) * len(references) for order in ORDERS]
    correct = [_clipped_sums(*pair) for pair in zip(counts.systems[0], counts.references, strict=True)]
    sums = np.stack([words, reference_words, *guessed, *correct], axis=1).astype(np.float64)
    scores = bleu_scores(sums)[:, -1]
    best = int(scores.argmax())
    return candidates[best], float(scores[best])


def _clipped_sums(candidates, references) -> np.ndarray:
    """For each candidate the n-grams it shares with the references, clipped in each and summed over all.

    A candidate that has an n-gram k times shares it once with every reference that has it at least once, and once
    more with every one that has it at least twice, up to k.
    """
    total = np.zeros(candidates.shape[0])
    for times in range(1, int(candidates.max() if candidates.nnz else 0) + 1):
        frequencies = np.asarray((references >= times).sum(axis=0)).ravel()
        total += (candidates >= times) @ frequencies
    return total


def random_reports(pool: Sequence[str], *, studies: int, seed: int = 0) -> list[str]:
    """A report of the pool for each study, drawn with replacement."""
    return [pool[index] for index in np.random.default_rng(seed).integers(len(pool), size=studies)]


def random_reports_of_others(
    reports: Sequence[str], patients: Sequence[Hashable] | np.ndarray, *, seed: int = 0
) -> list[str]:
    """For each study the report of a random study of another patient.

    Raises:
        ValueError: all studies are of one patient.
    """
    numbers = patient_numbers(patients)
    if numbers.max(initial=0) == 0:
        raise ValueError("all studies are of one patient, so there is no report of another one")
    generator = np.random.default_rng(seed)
    drawn = np.arange(len(reports))
    while (same := numbers[drawn] == numbers).any():
        drawn[same] = generator.integers(len(reports), size=int(same.sum()))
    return [reports[index] for index in drawn.tolist()]


def nearest_reports(
    features: np.ndarray,
    pool_features: np.ndarray,
    pool: Sequence[str],
    *,
    patients: tuple[Sequence[Hashable] | np.ndarray, Sequence[Hashable] | np.ndarray] | None = None,
) -> list[str]:
    """For each study the report of the pool's study with the most similar image (cosine).

    Args:
        features: image features of the studies, `(studies, features)`.
        pool_features: of the pool, `(reports, features)`.
        pool: its reports.
        patients: of the studies and of the pool; a report of the same patient is then never taken.

    Raises:
        ValueError: shapes that don't fit.
    """
    features, pool_features = _unit_rows(features, "features"), _unit_rows(pool_features, "pool_features")
    if features.shape[1] != pool_features.shape[1] or len(pool_features) != len(pool):
        raise ValueError(
            f"features {features.shape}, pool_features {pool_features.shape} and {len(pool)} reports of the pool do "
            "not fit: the second numbers must be equal, and the pool needs one row per report"
        )
    numbers = None if patients is None else patient_numbers([*patients[0], *patients[1]])
    chosen = []
    for start in range(0, len(features), 1024):
        similarity = features[start : start + 1024] @ pool_features.T
        if patients is not None and numbers is not None:
            own = numbers[start : start + 1024][: len(similarity)]
            similarity[own[:, None] == numbers[None, len(patients[0]) :]] = -np.inf
        chosen += [pool[index] for index in similarity.argmax(axis=1)]
    return chosen


def patient_numbers(patients: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """The patients as numbers from 0, in the order in which they first occur."""
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(patient, len(numbers)) for patient in patients], dtype=np.int64)


def _unit_rows(features: np.ndarray, name: str) -> np.ndarray:
    features = np.asarray(features, dtype=np.float32)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ValueError(f"{name} of shape {features.shape}: must be (studies, features) of finite numbers")
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
