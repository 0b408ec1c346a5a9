"""Retrieval between studies and reports: is a study's own report among the nearest ones, and the other way round?"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Rows of the similarity matrix that are held at a time.
_CHUNK = 1024


def recall_at(
    queries: ArrayLike,
    candidates: ArrayLike,
    ks: Sequence[int] = (1, 5, 10),
    groups: ArrayLike | None = None,
) -> dict[int, float]:
    """The share of queries whose partner is among the k most similar candidates.

    Candidates that are equally similar come in random order; the recall is the mean over these orders, so that
    embeddings that all coincide score what chance does.

    Args:
        queries: `(pairs, width)`; similarity is the dot product.
        candidates: `(pairs, width)`, row by row the partners of the queries.
        ks: the numbers of candidates that are looked at.
        groups: `(pairs,)`; every candidate with the query's number counts as a partner, such as the same report
            written for another study. Each row is a group of its own when not given.

    Returns:
        The recall, 0 to 1, for every k.

    Raises:
        ValueError: there are no pairs, the shapes do not fit, or a k is not positive.
    """
    queries, candidates = np.asarray(queries, dtype=np.float32), np.asarray(candidates, dtype=np.float32)
    if queries.ndim != 2 or queries.shape != candidates.shape or not len(queries):
        raise ValueError(
            f"queries and candidates must both be (pairs, width), got {queries.shape} and {candidates.shape}"
        )
    if any(k < 1 for k in ks):
        raise ValueError(f"every k must be positive, got {list(ks)}")
    groups = np.arange(len(queries)) if groups is None else np.asarray(groups).reshape(-1)
    if len(groups) != len(queries):
        raise ValueError(f"{len(groups)} groups for {len(queries)} pairs")
    hits = dict.fromkeys(ks, 0.0)
    for start in range(0, len(queries), _CHUNK):
        rows = slice(start, start + _CHUNK)
        similarity = queries[rows] @ candidates.T
        is_partner = groups[rows, None] == groups[None]
        best = np.where(is_partner, similarity, -np.inf).max(axis=1, keepdims=True)
        ahead = (similarity > best).sum(axis=1)
        tied = similarity == best
        partners = (tied & is_partner).sum(axis=1)
        for k in ks:
            hits[k] += sum(
                _chance_of_a_partner(k - int(a), int(t), int(p))
                for a, t, p in zip(ahead, tied.sum(axis=1), partners, strict=True)
            )
    return {k: hit / len(queries) for k, hit in hits.items()}


def _chance_of_a_partner(places: int, tied: int, partners: int) -> float:
    """That one of `partners` among `tied` candidates in random order lies in the first places."""
    if places <= 0:
        return 0.0
    others = tied - partners
    return 1.0 - math.comb(others, min(places, tied)) / math.comb(tied, min(places, tied))


def retrieval_metrics(
    image_embeds: ArrayLike, text_embeds: ArrayLike, groups: ArrayLike | None = None, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """`image_to_text_recall@k` and `text_to_image_recall@k`; arguments as in `recall_at`."""
    both: tuple[tuple[str, NDArray[Any], NDArray[Any]], ...] = (
        ("image_to_text", np.asarray(image_embeds), np.asarray(text_embeds)),
        ("text_to_image", np.asarray(text_embeds), np.asarray(image_embeds)),
    )
    return {
        f"{direction}_recall@{k}": recall
        for direction, queries, candidates in both
        for k, recall in recall_at(queries, candidates, ks, groups).items()
    }


def compute_retrieval_metrics(prediction: Any) -> dict[str, float]:
    """The Trainer's `compute_metrics` for a `MambaXrayDualEncoder`, over the whole data set.

    A report that occurs word by word for several studies counts as found at any of them (see the labels of
    `ContrastiveCollator`).

    Args:
        prediction: an `EvalPrediction` of image and text embeddings.
    """
    image_embeds, text_embeds = prediction.predictions
    return retrieval_metrics(image_embeds, text_embeds, prediction.label_ids)


__all__ = ["compute_retrieval_metrics", "recall_at", "retrieval_metrics"]
