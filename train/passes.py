"""A stream of images that does not end: one pass over them behind the other, each in another order."""

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset

if TYPE_CHECKING:
    import datasets


class Passes(IterableDataset):
    """Rows pass by pass, so that the place in the stream follows from the number of rows alone. A Trainer that counts
    the passes over a stream itself begins the second one wherever it resumes beyond the first (transformers 5.24).

    Args:
        rows: in any order.
        seed: the order of a pass follows from the seed and its number.
        window: rows that are held at a time to be drawn from, since a stream can't be shuffled whole.
    """

    def __init__(self, rows: "datasets.IterableDataset", seed: int, window: int = 1000):
        self._rows, self._seed, self._window = rows, seed, window

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in count():
            # And not by `set_epoch`, which worker processes share: one that is ahead would change the others' pass.
            generator = np.random.default_rng([self._seed, number])
            is_empty = True
            for row in self._rows.shuffle(generator=generator, buffer_size=self._window):
                is_empty = False
                yield row
            if is_empty:  # as of a worker process more than there are parts
                return


__all__ = ["Passes"]
