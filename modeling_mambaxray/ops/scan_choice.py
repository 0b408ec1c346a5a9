"""Which backend scans: those there are, what the caller and the environment ask for, and what this machine can do.

`torch.compile` is not named here, which takes as long to load as torch itself: `mambaxray info` reads this module.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from .scan_backends import ScanBackend
from .selective_scan_reference import selective_scan_reference
from .selective_scan_torch import selective_scan_torch

try:
    from .accelerated_scans import ACCELERATED_SCANS
except ImportError:  # a model's repository carries the scans in PyTorch only
    ACCELERATED_SCANS = {}


BACKENDS = ACCELERATED_SCANS | {
    "torch": ScanBackend(selective_scan_torch),
    "reference": ScanBackend(selective_scan_reference),
}
"""Implementations by name, the preferred one first. `torch` takes whatever there is."""

_override: ContextVar[str | None] = ContextVar("scan backend", default=None)


@contextmanager
def use_scan_backend(name: str) -> Iterator[None]:
    """Scans with one backend inside a `with` block, whatever `MAMBAXRAY_SCAN` says.

    Holds for the current thread. A compiled model keeps the backend that it was compiled with.

    Raises:
        ValueError: there is no such backend, or it can't be used here.
    """
    _check_backend(name, "use_scan_backend")
    token = _override.set(name)
    try:
        yield
    finally:
        _override.reset(token)


def scan_problems() -> dict[str, str]:
    """Why each backend can't be used on this machine, by name; empty for those that can. `mambaxray info` shows it."""
    return {name: backend.problem() for name, backend in BACKENDS.items()}


def _wanted_backend() -> str | None:
    """The backend that the caller or the environment asks for."""
    name = _override.get()
    if name is None and (name := os.environ.get("MAMBAXRAY_SCAN") or None):
        _check_backend(name, "MAMBAXRAY_SCAN")
    return name


def _check_backend(name: str, source: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{source}={name!r} is not a scan backend; choose from {', '.join(BACKENDS)}")
    if problem := BACKENDS[name].problem():
        raise ValueError(f"{source}={name!r} can't be used: {problem}")


def choose_backend(device_type: str, dtype: torch.dtype = torch.float32, is_long: bool = False) -> str:
    """Name of the backend that scans tensors of a device and of a type of the state, long sequences or others; see
    `selective_scan.scan_backend`."""
    wanted = _wanted_backend()
    for name, backend in BACKENDS.items():
        chosen = name == wanted if wanted else backend.automatic and (is_long or not backend.for_long_only)
        if chosen and backend.takes(device_type, dtype) and not backend.problem():
            return name
    return "torch"


__all__ = ["BACKENDS", "choose_backend", "scan_problems", "use_scan_backend"]
