"""The selective scan behind one function, with its backends."""

import os
from collections.abc import Callable

import torch
from torch import Tensor

from .selective_scan_native import native_problem, selective_scan_native
from .selective_scan_reference import selective_scan_reference
from .selective_scan_torch import selective_scan_torch

BACKENDS: dict[str, Callable[..., Tensor]] = {
    "native": selective_scan_native,
    "torch": selective_scan_torch,
    "reference": selective_scan_reference,
}
"""Implementations by name, the preferred one first."""


def scan_backend(device: str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """Name of the backend that scans tensors of such a device and type.

    It is `$MAMBAXRAY_SCAN` when set, else the preferred one that can be used here. `native` scans float32 on the CPU;
    whatever else there is, `torch` scans in its place.

    Raises:
        ValueError: the variable names no backend, or one that can't be used here.
    """
    name = os.environ.get("MAMBAXRAY_SCAN")
    if name and name not in BACKENDS:
        raise ValueError(f"MAMBAXRAY_SCAN={name!r} is not a scan backend; choose from {', '.join(BACKENDS)}")
    if name == "native" and native_problem():
        raise ValueError(
            f"MAMBAXRAY_SCAN={name!r} can't be used: {native_problem()}. Install it with "
            "`pip install 'mambaxray[native]'`, or unset the variable"
        )
    if name and name != "native":
        return name
    fits = device == "cpu" and dtype == torch.float32
    return "native" if fits and not native_problem() else "torch"


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor | None = None,
) -> Tensor:
    """Scans sequences with input-dependent decay, all directions of a block in one call.

    For each direction, sample and channel, with `s_t = softplus(delta_t + delta_bias)`:

        h_t = exp(s_t A) h_{t-1} + s_t B_t u_t,    y_t = C_t h_t + D u_t,    h_0 = 0.

    Args:
        u: input `(directions, batch, length, channels)`.
        delta: step sizes before the softplus, shaped as `u`.
        A: decay rates `(directions, channels, state)`, negative.
        B: input weights `(directions, batch, length, state)`.
        C: output weights, shaped as `B`.
        D: skip weights `(directions, channels)`.
        delta_bias: added to `delta`, `(directions, channels)`.

    Returns:
        `y`, shaped and typed as `u`. The state is float32, or float64 for float64 input.

    Raises:
        ValueError: a shape does not fit the others.

    Source: Mamba (Gu & Dao, 2023), equation 2 and algorithm 2.
    """
    _check_shapes(u, delta, A, B, C, D, delta_bias)
    dtype = torch.promote_types(u.dtype, torch.float32)
    tensors = [x if x is None else x.to(dtype) for x in (u, delta, A, B, C, D, delta_bias)]
    with torch.autocast(u.device.type, enabled=False):
        return BACKENDS[scan_backend(u.device.type, dtype)](*tensors).to(u.dtype)


def _check_shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor | None
) -> None:
    if u.ndim != 4:
        raise ValueError(f"u must be (directions, batch, length, channels), got shape {tuple(u.shape)}")
    directions, batch, length, channels = u.shape
    state = A.shape[-1]
    expected = {
        "delta": (delta, (directions, batch, length, channels)),
        "A": (A, (directions, channels, state)),
        "B": (B, (directions, batch, length, state)),
        "C": (C, (directions, batch, length, state)),
        "D": (D, (directions, channels)),
        "delta_bias": (delta_bias, (directions, channels)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape} to fit u {tuple(u.shape)}, got {tuple(tensor.shape)}")


__all__ = ["BACKENDS", "scan_backend", "selective_scan"]
