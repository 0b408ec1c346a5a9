"""Which of PyTorch's attention kernels generation uses."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import cuda


class _CudnnAttention:
    """PyTorch's switch for cuDNN's attention, of which there is one in a process, for calls that may overlap."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._before = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Off from the first of overlapping calls to the last, then as it was."""
        with self._lock:
            if self._calls == 0:
                self._before = cuda.cudnn_sdp_enabled()
                cuda.enable_cudnn_sdp(False)
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                if self._calls == 0:
                    cuda.enable_cudnn_sdp(self._before)


attention_for_changing_shapes = _CudnnAttention().off
"""Inside a `with` block of its own calls, PyTorch's attention does without cuDNN's kernels.

On Hopper GPUs PyTorch prefers cuDNN's, which plan anew for every shape that they have not seen: with a cache that grows
by a token a step, that took 250 ms of processor time a step of a 7B decoder. The memory-efficient kernel needs no plan.
PyTorch has one switch for all threads: what others compute meanwhile does without cuDNN's attention as well, and what
comes behind the last of such blocks finds the switch as it was before the first.
"""

__all__ = ["attention_for_changing_shapes"]
