"""A cache of keys and values in which studies come and go, and the beams of a study share what they have in common.

One row of the cache is one study, whatever its number of beams. A row is a set of slots; each holds the keys and values
of one token, in no particular order, since positions are in the keys or the embeddings already. `visible` says which
slots each beam sees. Following another beam therefore changes a few bits and copies no keys, the prompt with its image
lies in the cache once, and the slots of words that no beam sees any more are used again.

The decoder is called with `(studies, beams)` tokens: the beams are the query positions of one row, and the mask keeps
them from seeing each other. Decoders of transformers take such a mask as it is when it has four dimensions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, CacheLayerMixin

from .side_stream import to_device

# Slots are added, and seen by a step, in multiples of this: the cache is seldom copied while it grows, and the shapes
# of steps repeat.
SLOT_MULTIPLE = 64


def index_on(device: torch.device, numbers: Sequence[int]) -> Tensor:
    """Indices as a tensor on a device, without waiting for it."""
    return to_device(torch.tensor(numbers, dtype=torch.long), device)


class SlotCache(Cache):
    """Keys and values of up to `rows` studies. Rows 0 to n - 1 are in use.

    Args:
        num_layers: of the decoder.
        rows: most studies at a time.
        num_beams: beams of each study.
        device: where the decoder is.

    Attributes:
        visible: `(rows, beams, slots)` bool, the slots that each beam sees.
        slots: `(rows, beams)`, where the next token of each beam goes.
        generation: how often the cache has grown, and its tensors have moved in memory.
        length: slots that the present step sees, a multiple of `SLOT_MULTIPLE`.
    """

    def __init__(self, num_layers: int, rows: int, num_beams: int, device: torch.device):
        super().__init__(layers=[_SlotLayer(self) for _ in range(num_layers)])
        self.visible = torch.zeros(rows, num_beams, 0, dtype=torch.bool, device=device)
        self.slots = torch.zeros(rows, num_beams, dtype=torch.long, device=device)
        # Known without asking the device: all slots of a row that are in use lie below its extent.
        self._extents = [0] * rows
        self.generation = 0
        self.length = 0
        self._numbers = torch.arange(rows, device=device).unsqueeze(1)
        self._step_rows = 0

    def put_prompts(self, start: int, prompts: Cache) -> None:
        """Fills the rows from `start` on with the keys and values `(studies, heads, tokens, head_dim)` of prompts.

        `prompts` is emptied layer by layer, so that few of them lie in the memory twice.
        """
        studies, _, length, _ = prompts.layers[0].keys.shape
        self._grow(length)
        for layer in self.layers:
            prompt = prompts.layers.pop(0)
            layer.put(start, prompt.keys, prompt.values)
        self.visible[start : start + studies] = False
        self.visible[start : start + studies, :, :length] = True
        self._extents[start : start + studies] = [length] * studies

    def follow(self, rows: slice, parents: Tensor) -> None:
        """Lets each beam of these rows go on from another: `parents` is `(studies, beams)`."""
        visible = self.visible[rows]
        self.visible[rows] = visible.gather(1, parents.unsqueeze(-1).expand_as(visible))

    def reserve(self, rows: slice) -> Tensor:
        """Gives each beam of these rows a slot of its own for its next token.

        Returns:
            `(studies,)`, the highest slot of each row, which `set_extents` wants to know.
        """
        beams = self.visible.shape[1]
        self._grow(max(self._extents[rows], default=0) + beams)
        visible = self.visible[rows]
        numbers = torch.arange(visible.shape[-1], device=visible.device)
        # The lowest free ones, so that attention goes over few slots.
        taken = numbers + visible.any(dim=1) * len(numbers)
        slots = taken.topk(beams, largest=False).values
        self.slots[rows] = slots
        self.visible[rows] = visible.scatter(2, slots.unsqueeze(-1), True)
        return slots.amax(dim=1)

    def set_extents(self, start: int, highest: Sequence[int]) -> None:
        """Takes note of what `reserve` returned for the rows from `start` on."""
        for row, slot in enumerate(highest, start):
            self._extents[row] = max(self._extents[row], slot + 1)

    def begin_step(self, count: int, rows: int | None = None) -> None:
        """Prepares a forward pass over the first `count` rows.

        Args:
            count: rows in use.
            rows: rows that the pass computes, at least `count`; what it makes of the others does not matter.
        """
        self.length = -(-max(self._extents[:count]) // SLOT_MULTIPLE) * SLOT_MULTIPLE
        self._step_rows = count if rows is None else rows

    @property
    def mask(self) -> Tensor:
        """The mask of the step's forward pass, `(rows, 1, beams, slots)`, True where a beam sees a slot."""
        return self.visible[: self._step_rows, :, : self.length].unsqueeze(1)

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Row and slot of each token of the step, `(rows, 1)` and `(rows, beams)`."""
        return self._numbers[: self._step_rows], self.slots[: self._step_rows]

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies rows over others, all at once."""
        device = self.visible.device
        source, target = index_on(device, sources), index_on(device, targets)
        self.visible[target] = self.visible[source]
        self.slots[target] = self.slots[source]
        for old, new in zip(sources, targets, strict=True):
            self._extents[new] = self._extents[old]
        for layer in self.layers:
            old, new = (index.to(layer.keys.device) for index in (source, target))
            layer.keys[new] = layer.keys[old]
            layer.values[new] = layer.values[old]

    def _grow(self, slots: int) -> None:
        missing = slots - self.visible.shape[-1]
        if missing <= 0:
            return
        extra = -(-missing // SLOT_MULTIPLE) * SLOT_MULTIPLE
        self.generation += 1
        self.visible = functional.pad(self.visible, (0, extra))
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys, layer.values = (
                    functional.pad(states, (0, 0, 0, extra)) for states in (layer.keys, layer.values)
                )


class _SlotLayer(CacheLayerMixin):
    """One decoder layer's keys and values, each `(rows, heads, slots, head_dim)`, as attention reads them fastest."""

    def __init__(self, cache: SlotCache):
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, _, slots = self._cache.visible.shape
        # Zeros, since a mask can't keep out what is not a number.
        self.keys, self.values = (
            states.new_zeros(rows, states.shape[1], slots, states.shape[3]) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def put(self, start: int, key_states: Tensor, value_states: Tensor) -> None:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        studies, _, length, _ = key_states.shape
        self.keys[start : start + studies, :, :length] = key_states
        self.values[start : start + studies, :, :length] = value_states

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Stores the new token of each beam; returns all that the row holds, `(studies, heads, slots, head_dim)`."""
        studies, length = key_states.shape[0], self._cache.length
        rows, slots = (index.to(key_states.device) for index in self._cache.places)
        for stored, states in ((self.keys, key_states), (self.values, value_states)):
            stored[rows, :, slots] = states.transpose(1, 2)
        return self.keys[:studies, :, :length], self.values[:studies, :, :length]

    def get_seq_length(self) -> int:
        return self._cache.length if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.length, 0

    def get_max_length(self) -> int:
        return -1


__all__ = ["SLOT_MULTIPLE", "SlotCache", "index_on"]
