"""CIDEr-D of single reports with the document frequencies of another corpus, as rewards need it.

`caption_metrics.cider_tables` takes the frequencies from the references that are scored; a batch of a few, each of
them several times, has none to speak of.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import exp, log, sqrt

from .caption_metrics import CIDER_SIGMA
from .ngram_counts import ORDERS

Ngram = tuple[str, ...]


class CiderScorer:
    """CIDEr-D (Vedantam et al., CVPR 2015; the COCO caption server's form), times 10 as usual.

    Equal to `cider_tables` where the corpus is the references that are scored.

    Args:
        corpus: reports in which n-grams are counted, a text each; at least two.

    Raises:
        ValueError: fewer than two reports.
    """

    def __init__(self, corpus: Sequence[str]):
        if len(corpus) < 2:
            raise ValueError(f"CIDEr needs a corpus for its document frequencies, got {len(corpus)} reports")
        frequencies = Counter(ngram for text in corpus for ngram in set(_ngrams(text)))
        size = log(len(corpus))
        self._weights = {ngram: size - log(count) for ngram, count in frequencies.items()}
        self._rarest = size
        self._vector = lru_cache(maxsize=20_000)(self._weighted)

    def __call__(self, reports: Iterable[str], references: Iterable[str]) -> list[float]:
        """The score of each report, 0 to 10."""
        return [self._score(*pair) for pair in zip(reports, references, strict=True)]

    def _weighted(self, text: str) -> list[tuple[dict[Ngram, float], float]]:
        """For each order the weights of a text's n-grams and their norm."""
        counts = Counter(_ngrams(text))
        vectors: list[dict[Ngram, float]] = [{} for _ in ORDERS]
        for ngram, count in counts.items():
            vectors[len(ngram) - 1][ngram] = count * self._weights.get(ngram, self._rarest)
        return [(vector, sqrt(sum(value**2 for value in vector.values()))) for vector in vectors]

    def _score(self, report: str, reference: str) -> float:
        total = 0.0
        for (mine, norm), (theirs, other_norm) in zip(self._vector(report), self._vector(reference), strict=True):
            if norm and other_norm:
                product = sum(
                    min(value, theirs[ngram]) * theirs[ngram] for ngram, value in mine.items() if ngram in theirs
                )
                total += product / (norm * other_norm)
        # The difference in length is counted in bigrams, as in the released code.
        difference = max(len(report.split()) - 1, 0) - max(len(reference.split()) - 1, 0)
        return 10 * exp(-(difference**2) / (2 * CIDER_SIGMA**2)) * total / len(ORDERS)


def _ngrams(text: str) -> Iterable[Ngram]:
    words = text.split()
    for order in ORDERS:
        yield from zip(*(words[start:] for start in range(order)), strict=False)


__all__ = ["CiderScorer"]
