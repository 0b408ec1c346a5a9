"""Which words of a language model lie nearest to embeddings in its space."""

import torch
from torch import Tensor

_WORDS_AT_ONCE = 4096


@torch.no_grad()
def nearest_words(embeddings: Tensor, words: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The nearest word embeddings by Euclidean distance, in float32.

    Args:
        embeddings: `(embeddings, width)`.
        words: `(vocabulary, width)`, the language model's. They are taken part by part: beside them, some
            `4,096 x (width + embeddings)` numbers are in memory.
        count: how many of them.

    Returns:
        The distances, the smallest first, and the words' ids, each `(embeddings, count)`.
    """
    embeddings = embeddings.float()
    best = embeddings.new_empty(len(embeddings), 0)
    ids = best.long()
    for start in range(0, len(words), _WORDS_AT_ONCE):
        part = words[start : start + _WORDS_AT_ONCE].to(embeddings.device, torch.float32)
        distances = torch.cdist(embeddings, part, compute_mode="donot_use_mm_for_euclid_dist")
        numbers = torch.arange(start, start + len(part), device=ids.device).expand(len(embeddings), -1)
        best, ids = torch.cat([best, distances], dim=1), torch.cat([ids, numbers], dim=1)
        best, order = best.topk(min(count, best.shape[1]), dim=1, largest=False)
        ids = ids.gather(1, order)
    return best, ids


__all__ = ["nearest_words"]
