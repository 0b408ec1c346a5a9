"""Work on a second CUDA stream, beside the work in hand."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, cuda
from transformers import PreTrainedModel


def side_stream_for(model: PreTrainedModel) -> "SideStream | None":
    """A second stream on the GPU on which a model lies; None where it lies elsewhere, or on several devices."""
    devices = {parameter.device for parameter in model.parameters()}
    device = devices.pop()
    return SideStream(device) if device.type == "cuda" and not devices else None


class SideStream:
    """Launches work on a second CUDA stream, which the GPU computes while the current stream goes on.

    Streams wait for each other by events; the processor waits for neither. In this order:

        side.follow(inputs)      # what the current stream was given so far comes before the work beside
        ...                      # launches the work in hand
        with side.beside():      # launches work beside it, and after all earlier work beside
            results = ...
        ...                      # more work in hand
        side.join(results)       # the current stream waits for what was launched beside
    """

    def __init__(self, device: torch.device):
        self._stream = cuda.Stream(device)
        self._before = self._after = self._stream.record_event()

    def follow(self, inputs: Iterable[Tensor]) -> None:
        """Orders the next work beside after all that the current stream was given so far.

        Args:
            inputs: tensors that the work beside reads and that may be freed before it is done.
        """
        self._before = cuda.current_stream(self._stream.device).record_event()
        _keep(inputs, self._stream)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Makes the second stream the current one."""
        with cuda.stream(self._stream):
            self._stream.wait_event(self._before)
            try:
                yield
            finally:
                self._after = self._stream.record_event()

    def join(self, results: Iterable[Tensor] = ()) -> None:
        """Lets the current stream wait for all work beside.

        Args:
            results: tensors made beside that the current stream goes on with.
        """
        current = cuda.current_stream(self._stream.device)
        current.wait_event(self._after)
        _keep(results, current)


def _keep(tensors: Iterable[Tensor], stream: "torch.cuda.Stream") -> None:
    """Keeps the memory of tensors from being used again before a stream that did not allocate it is done with it."""
    for tensor in tensors:
        if tensor.device == stream.device:
            tensor.record_stream(stream)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the processor to a GPU without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


__all__ = ["SideStream", "side_stream_for", "to_device"]
