"""The selective scan behind one function, with its backends."""

import torch
from torch import Tensor

from .scan_backends import LONG, ScanBackend
from .scan_choice import BACKENDS, choose_backend, scan_problems, use_scan_backend
from .scan_operator import state_dtype

# A constant for the compiler, which can't look into the trials of the backends.
_choose_backend = torch.compiler.assume_constant_result(choose_backend)


def scan_backend(device_type: str = "cpu", dtype: torch.dtype = torch.float32, length: int = 0) -> str:
    """Name of the backend that scans tensors of such a device and type.

    It is the one of `use_scan_backend`, else of `MAMBAXRAY_SCAN`, else the preferred one that can be used here. What
    the wanted backend does not take is scanned by `torch`: all but `torch` and `reference` are for one kind of device
    and keep the state in float32.

    Args:
        device_type: `cpu`, `cuda`, …
        dtype: type of the state.
        length: time steps; some backends are preferred for long sequences only.

    Raises:
        ValueError: the variable names no backend, or one that can't be used here.
    """
    # A branch, of which a compiler that does not know the length takes note.
    if length >= LONG:
        return _choose_backend(device_type, dtype, True)
    return _choose_backend(device_type, dtype, False)


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
        ValueError: a shape does not fit the others, or a backend is asked for that can't be used.

    Source: Mamba (Gu & Dao, 2023), equation 2 and algorithm 2.
    """
    _check_shapes(u, delta, A, B, C, D, delta_bias)
    dtype = state_dtype(u)
    backend = BACKENDS[scan_backend(u.device.type, dtype, u.shape[2])]
    A, D, delta_bias = (x if x is None else x.to(dtype) for x in (A, D, delta_bias))
    sequences = (u, delta, B, C)
    if not backend.reads_half:
        sequences = (x.to(dtype) for x in sequences)
    u_in, delta, B, C = sequences
    with torch.autocast(u.device.type, enabled=False):
        return backend.scan(u_in, delta, A, B, C, D, delta_bias).to(u.dtype)


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


__all__ = ["BACKENDS", "ScanBackend", "scan_backend", "scan_problems", "selective_scan", "use_scan_backend"]
