"""Which words of a language model lie nearest to embeddings in its space."""

import torch
from torch import Tensor

_WORDS_AT_ONCE = 4096
_EMBEDDINGS_AT_ONCE = 512
# Candidates beyond those that are wanted: products of float32 can mistake the order of distances that are nearly equal.
_SPARE = 4


@torch.no_grad()
def nearest_words(embeddings: Tensor, words: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The nearest word embeddings by Euclidean distance, in float32.

    Candidates are found by a matrix product, and their distances computed anew from the differences.

    Args:
        embeddings: `(embeddings, width)`.
        words: `(vocabulary, width)`, the language model's. Both are taken part by part: beside them, some
            `5,000 x width` numbers are in memory.
        count: how many of them.

    Returns:
        The distances, the smallest first, and the words' ids, each `(embeddings, count)`.
    """
    parts = [_nearest(part, words, count) for part in embeddings.split(_EMBEDDINGS_AT_ONCE)]
    distances, ids = zip(*parts, strict=True)
    return torch.cat(distances), torch.cat(ids)


def _nearest(embeddings: Tensor, words: Tensor, count: int) -> tuple[Tensor, Tensor]:
    embeddings = embeddings.float()
    best = embeddings.new_empty(len(embeddings), 0)
    ids = best.long()
    for start in range(0, len(words), _WORDS_AT_ONCE):
        part = words[start : start + _WORDS_AT_ONCE].to(embeddings.device, torch.float32)
        # The squared distance, without the part that is the same for all words.
        scores = torch.addmm(part.square().sum(dim=1), embeddings, part.T, alpha=-2)
        scores, places = scores.topk(min(count + _SPARE, len(part)), dim=1, largest=False)
        best, ids = torch.cat([best, scores], dim=1), torch.cat([ids, places + start], dim=1)
        best, order = best.topk(min(count + _SPARE, best.shape[1]), dim=1, largest=False)
        ids = ids.gather(1, order)
    found = [words[column].to(embeddings.device, torch.float32) for column in ids.to(words.device).T]
    distances = torch.stack([(embeddings - each).norm(dim=1) for each in found], dim=1)
    distances, order = distances.topk(min(count, distances.shape[1]), dim=1, largest=False)
    return distances, ids.gather(1, order)


__all__ = ["nearest_words"]
