"""Steps of the same shape as CUDA graphs: one launch in place of a thousand."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Calls of a shape before it is captured; a graph is not worth it for a shape that does not come back.
_CALLS_BEFORE = 3


@dataclass
class _Graph:
    graph: "torch.cuda.CUDAGraph"
    inputs: tuple[Tensor, ...]
    output: Tensor


class StepGraphs:
    """Calls a function of tensors; on a GPU, from the fourth call of a shape on, by replaying what it launched.

    Everything else that the function reads or writes must stay where it is in memory from call to call, else `forget`
    has to be called. Where capturing fails, the function is called as it is, with one warning.

    Args:
        function: takes tensors and gives a tensor. It must not wait for the device.
    """

    def __init__(self, function: Callable[..., Tensor]):
        self._function = function
        self._graphs: dict[Hashable, _Graph] = {}
        self._calls: Counter[Hashable] = Counter()
        self._enabled = True

    def forget(self) -> None:
        """Drops all graphs, since memory that they use has moved."""
        self._graphs.clear()
        self._calls.clear()

    def __call__(self, shape: Hashable, *inputs: Tensor) -> Tensor:
        """The function's output, which the next call of the same shape overwrites."""
        if not (self._enabled and inputs[0].is_cuda):
            return self._function(*inputs)
        if shape not in self._graphs:
            self._calls[shape] += 1
            if self._calls[shape] <= _CALLS_BEFORE:
                return self._function(*inputs)
            try:
                self._graphs[shape] = self._capture(inputs)
            except RuntimeError as error:
                self._enabled = False
                self.forget()
                logger.warning("steps are not captured as CUDA graphs: %s", str(error).partition("\n")[0])
                torch.cuda.synchronize()
                return self._function(*inputs)
        known = self._graphs[shape]
        for held, given in zip(known.inputs, inputs, strict=True):
            held.copy_(given)
        known.graph.replay()
        return known.output

    def _capture(self, inputs: tuple[Tensor, ...]) -> _Graph:
        held = tuple(tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those that pin a data loader's memory, may go on.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self._function(*held)
        return _Graph(graph, held, output)


__all__ = ["StepGraphs"]
