"""BLEU-1 to 4, ROUGE-L and CIDEr with the numbers of pycocoevalcap, which the papers use, and much faster.

The three are written anew because pycocoevalcap's take 15 s for 11,562 pairs of reports, and a bootstrap needs
their sufficient statistics; `benchmarks/bench_metrics.py` times both and the tests hold them together. METEOR is
pycocoevalcap's own program, see `meteor`.
"""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import LCSseq

from .metric_table import MetricTable, mean_table
from .ngram_counts import ORDERS, NgramCounts

BLEU_NAMES = tuple(f"Bleu_{order}" for order in ORDERS)
_ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0
# pycocoevalcap's guards against division by zero; they are visible at 1e-9.
_TINY, _SMALL = 1e-15, 1e-9


def bleu_tables(counts: NgramCounts) -> list[MetricTable]:
    """BLEU-1 to BLEU-4 (Papineni et al., ACL 2002, section 2.3) of every system.

    Statistics per study: hypothesis words, reference words, then for each order the n-grams of the hypothesis and
    those of them that the reference has (clipped).
    """
    return [
        _bleu_table(
            words, counts.reference_words, [_clipped(*pair) for pair in zip(system, counts.references, strict=True)]
        )
        for words, system in zip(counts.system_words, counts.systems, strict=True)
    ]


def _clipped(hypotheses, references) -> np.ndarray:
    return np.asarray(hypotheses.minimum(references).sum(axis=1)).ravel()


def _bleu_table(words: np.ndarray, reference_words: np.ndarray, correct: Sequence[np.ndarray]) -> MetricTable:
    guessed = [np.maximum(words - order + 1, 0) for order in ORDERS]
    statistics = np.stack([words, reference_words, *guessed, *correct], axis=1).astype(np.float64)
    per_sample = dict(zip(BLEU_NAMES, bleu_scores(statistics).T, strict=True))
    return MetricTable(BLEU_NAMES, statistics, bleu_scores, per_sample)


def bleu_scores(sums: np.ndarray) -> np.ndarray:
    """BLEU-1 to 4 `(..., 4)` of the summed statistics `(..., 10)`."""
    words, reference_words = sums[..., 0], sums[..., 1]
    guessed, correct = sums[..., 2:6], sums[..., 6:10]
    precision = (correct + _TINY) / (guessed + _SMALL)
    scores = np.cumprod(precision, axis=-1) ** (1 / np.asarray(ORDERS))
    ratio = (words + _TINY) / (reference_words + _SMALL)
    brevity = np.exp(np.minimum(1 - 1 / ratio, 0))
    return scores * brevity[..., None]


def rouge_l_table(references: Sequence[str], hypotheses: Sequence[str]) -> MetricTable:
    """ROUGE-L (Lin, 2004, section 3.1; beta 1.2): the F-measure of the longest common subsequence of words.

    As in pycocoevalcap, words are what lies between single blanks, so that a second blank in a row, or a text
    without words, has one empty word.
    """
    numbers: dict[str, int] = {}
    values = np.empty(len(references))
    for index, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        reference_words = [numbers.setdefault(word, len(numbers)) for word in reference.split(" ")]
        words = [numbers.setdefault(word, len(numbers)) for word in hypothesis.split(" ")]
        common = LCSseq.similarity(reference_words, words)
        precision, recall = common / len(words), common / len(reference_words)
        weight = _ROUGE_BETA**2
        values[index] = (1 + weight) * precision * recall / (recall + weight * precision) if common else 0.0
    return mean_table({"ROUGE_L": values})


def cider_tables(counts: NgramCounts) -> list[MetricTable]:
    """CIDEr (Vedantam et al., CVPR 2015) in the form of the COCO caption server, "CIDEr-D", of every system.

    Cosine similarity of tf-idf weighted n-grams with clipping, times a Gaussian penalty of the difference in length
    (in bigrams, as the released code has it), mean over the orders, times 10. Document frequencies come from the
    references; a bootstrap keeps them.
    """
    studies = len(counts.reference_words)
    weights = [np.log(studies) - np.log(np.maximum(frequency, 1)) for frequency in counts.document_frequencies]
    references = [_weighted(matrix, weight) for matrix, weight in zip(counts.references, weights, strict=True)]
    tables = []
    for system in counts.systems:
        hypotheses = [_weighted(matrix, weight) for matrix, weight in zip(system, weights, strict=True)]
        difference = np.asarray(system[1].sum(axis=1) - counts.references[1].sum(axis=1)).ravel()
        penalty = np.exp(-(difference**2) / (2 * CIDER_SIGMA**2))
        similarity = np.mean([_cosine(*pair) for pair in zip(hypotheses, references, strict=True)], axis=0)
        tables.append(mean_table({"CIDEr": 10 * penalty * similarity}))
    return tables


def _weighted(matrix, weight: np.ndarray):
    weighted = matrix.copy()
    weighted.data = weighted.data * weight[weighted.indices]
    return weighted


def _cosine(hypotheses, references) -> np.ndarray:
    """Row by row, where the hypothesis' weights are clipped to the reference's; 0 where either is empty."""
    product = np.asarray(hypotheses.minimum(references).multiply(references).sum(axis=1)).ravel()
    norms = np.sqrt(_squares(hypotheses) * _squares(references))
    return np.divide(product, norms, out=np.zeros_like(product), where=norms > 0)


def _squares(matrix) -> np.ndarray:
    return np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
