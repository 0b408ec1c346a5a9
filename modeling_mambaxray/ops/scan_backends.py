"""What the selective scan has to know of each of its implementations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LONG = 2048
"""Time steps of what counts as a long sequence."""


def _no_problem() -> str:
    return ""


@dataclass(frozen=True)
class ScanBackend:
    """One implementation of the selective scan.

    Args:
        scan: takes and gives what `selective_scan` does, all tensors in the type of the state.
        problem: says why it can't be used on this machine and how to mend that; empty when it can.
        device_type: the kind of device it scans on; any when empty. Then it scans in float32 and float64, else in
            float32 only.
        reads_half: whether sequences may be in half precision, with a state in float32.
        automatic: whether it is used without being asked for by name.
        convolve: `directional_convolution` as it is done for this scan, with the inverse orders third; PyTorch's when
            not given.
        merge: the same of `merge_directions`.
        for_long_only: whether that is so for sequences of `LONG` and more steps only.
    """

    scan: Callable[..., Tensor]
    problem: Callable[[], str] = _no_problem
    device_type: str = ""
    reads_half: bool = False
    automatic: bool = True
    for_long_only: bool = False
    convolve: Callable[..., Tensor] | None = None
    merge: Callable[..., Tensor] | None = None

    def takes(self, device_type: str, dtype: torch.dtype) -> bool:
        """Whether it scans on such a device with a state of such a type, where it can be used at all."""
        return not self.device_type or (self.device_type == device_type and dtype == torch.float32)


__all__ = ["LONG", "ScanBackend"]
