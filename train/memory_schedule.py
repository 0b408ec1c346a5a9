"""Which studies are worked on next when a memory is built, and which of what came out counts."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Track:
    """Studies that are worked through in order.

    Attributes:
        name: of the observation that their rows stand for; "" for none.
        rows: their positions in the training split.
        most: rows of the memory, after which the others are not needed; None for all of them.
    """

    name: str
    rows: Sequence[int]
    most: int | None = None


class Batch(NamedTuple):
    """Some studies of a track.

    Attributes:
        track: number of the track.
        number: of the batch on its track.
        rows: positions of its studies in the training split.
    """

    track: int
    number: int
    rows: Sequence[int]


class Schedule:
    """Hands out the batches of tracks in turn, and none of a track that has enough rows.

    Only a track's batches up to the first that fills it count, in their order, so it does not matter which others were
    worked on beside them.
    """

    def __init__(self, tracks: Sequence[Track], batch_size: int):
        self._tracks = [_TrackState(track, batch_size) for track in tracks]
        self._turns = deque(range(len(tracks)))

    def next(self) -> Batch | None:
        """The next batch; None when there is none, for now or for good."""
        for _ in range(len(self._turns)):
            number = self._turns[0]
            self._turns.rotate(-1)
            track = self._tracks[number]
            if track.given < len(track.batches) and not track.is_full:
                track.given += 1
                return Batch(number, track.given - 1, track.batches[track.given - 1])
        return None

    def finish(self, batch: Batch, rows: int) -> None:
        """Notes how many rows came of a batch."""
        self._tracks[batch.track].finish(batch.number, rows)

    def counting(self) -> Iterator[Batch]:
        """The finished batches that count, track by track."""
        for number, track in enumerate(self._tracks):
            for index in range(track.counted):
                yield Batch(number, index, track.batches[index])

    def progress(self) -> tuple[int, int]:
        """Finished and all: rows of tracks that take a number of them, studies of the others."""
        done, total = zip(*(track.progress() for track in self._tracks), strict=True)
        return sum(done), sum(total)


class _TrackState:
    def __init__(self, track: Track, batch_size: int):
        self.most = track.most
        self.batches = [track.rows[start : start + batch_size] for start in range(0, len(track.rows), batch_size)]
        self.given = 0
        # Batches from the first on that count, and the rows and studies of them.
        self.counted = self._rows = self._studies = 0
        self._finished: dict[int, int] = {}

    @property
    def is_full(self) -> bool:
        return self.most is not None and self._rows >= self.most

    def finish(self, number: int, rows: int) -> None:
        self._finished[number] = rows
        while not self.is_full and self.counted in self._finished:
            self._rows += self._finished.pop(self.counted)
            self._studies += len(self.batches[self.counted])
            self.counted += 1

    def progress(self) -> tuple[int, int]:
        if self.most is None:
            return self._studies, sum(map(len, self.batches))
        done = min(self._rows, self.most)
        return done, done if self.counted == len(self.batches) else self.most


__all__ = ["Batch", "Schedule", "Track"]
