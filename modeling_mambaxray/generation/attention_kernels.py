"""Which of PyTorch's attention kernels generation uses."""

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel


def attention_for_changing_shapes() -> AbstractContextManager[None]:
    """Inside a `with` block of its own calls, PyTorch's attention does without cuDNN's kernels.

    On Hopper GPUs PyTorch prefers cuDNN's, which plan anew for every shape that they have not seen: with a cache that
    grows by a token a step, that took 250 ms of processor time a step of a 7B decoder. The memory-efficient kernel
    needs no plan. What other threads and later calls use stays as it was.
    """
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


__all__ = ["attention_for_changing_shapes"]
