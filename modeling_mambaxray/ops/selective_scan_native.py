"""The selective scan as compiled loops, for float32 on the CPU. Needs numba, which brings its own compiler.

The loops are shared out over as many threads as PyTorch uses. The threads are Python's, not numba's, whose OpenMP layer
ends a process that forks (as data loaders do) and whose work queue ends one that scans from two threads at once.

Shapes: K directions, B batch, L length, D channels, N state, G groups of channels.
"""

import functools
import importlib.util
import logging
import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import torch
from torch import Tensor

from .scan_operator import scan_operator

logger = logging.getLogger(__name__)

_LOG2_E = math.log2(math.e)
# Time steps between the states that are kept for the backward pass.
_CHUNK = 32
# With fewer pairs of direction and sample than this, the channels are split as well, in groups of a multiple of these.
# Backward passes sum over the groups, so there they depend on the shape only and results don't on the threads.
_ENOUGH_TASKS = 4
_GROUP = 128
# Pieces per thread: several, so that a thread on a busy core leaves work to the others.
_PIECES = 4


@functools.cache
def _load_kernels() -> tuple[ModuleType | None, str]:
    """The compiled kernels, or `None` and the reason why there are none.

    Compiling takes seconds, the first time on a machine; afterwards numba finds its cached result.
    """
    if importlib.util.find_spec("numba") is None:
        return None, "numba is not installed (`pip install 'mambaxray[native]'` brings it)"
    try:
        from numba.core.errors import NumbaError
    except (ImportError, AttributeError, OSError) as error:
        return None, _warn(error)
    try:
        from . import selective_scan_kernels
    except (NumbaError, ImportError, AttributeError, OSError, RuntimeError) as error:
        return None, _warn(error)
    return selective_scan_kernels, ""


def _warn(error: Exception) -> str:
    reason = f"numba can't compile it here ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
    logger.warning("The native selective scan is off, the slower one in PyTorch is used: %s", reason)
    return reason


def native_problem() -> str:
    """Why the compiled scan can't be used here; empty when it can. Compiles it when that was not done before."""
    return _load_kernels()[1]


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    """Threads beside the calling one; they are started when needed and then wait for work."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="selective-scan")


if hasattr(os, "register_at_fork"):
    # A forked process has the pool but none of its threads.
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def run_kernel(kernel: Callable[..., None], tasks: int, *arguments: Tensor | int) -> None:
    """Runs `kernel(first, last, *arguments)` over all tasks, on as many threads as PyTorch may use."""
    arrays = [x.detach().numpy() if isinstance(x, Tensor) else x for x in arguments]
    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1:
        kernel(0, tasks, *arrays)
        return
    size = -(-tasks // (threads * _PIECES))
    firsts = deque(range(0, tasks, size))

    def work() -> None:
        while True:
            try:
                first = firsts.popleft()
            except IndexError:
                return
            kernel(first, min(first + size, tasks), *arrays)

    helpers = [_helpers().submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():  # one that has not begun finds nothing left to do
            helper.result()


def channel_groups(tasks: int, channels: int, enough_tasks: int) -> tuple[int, int]:
    """Number and size of the groups of channels, so that there are enough tasks."""
    wanted = -(-enough_tasks // max(1, tasks))
    size = _GROUP * max(1, -(-channels // (_GROUP * wanted)))
    return -(-channels // size), size


def _kernels() -> ModuleType:
    kernels, problem = _load_kernels()
    if kernels is None:
        raise RuntimeError(f"the native selective scan can't be used: {problem}")
    return kernels


def _count_chunks(directions: int, batch: int, length: int, channels: int, state: int) -> int:
    return -(-length // _CHUNK)


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    """Output `(K, B, L, D)` and the states before each chunk `(chunks, K, B, N, D)`."""
    directions, batch, _, channels = u.shape
    u, delta, B, C, D, bias = (x.contiguous() for x in (u, delta, B, C, D, delta_bias))
    decay_rate = (A * _LOG2_E).transpose(1, 2).contiguous()
    y = torch.empty_like(u)
    chunks = _count_chunks(*u.shape, A.shape[-1]) if keep_states else 0
    starts = u.new_empty(chunks, directions, batch, A.shape[-1], channels)
    groups, group_size = channel_groups(directions * batch, channels, torch.get_num_threads())
    tasks = directions * batch * groups
    run_kernel(_kernels().forward, tasks, group_size, _CHUNK, u, delta, decay_rate, B, C, D, bias, y, starts)
    return y, starts


def _backward(
    grad_y: Tensor,
    starts: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D."""
    directions, batch, _, channels = u.shape
    grad_y, u, delta, B, C, D, bias = (x.contiguous() for x in (grad_y, u, delta, B, C, D, delta_bias))
    rate = A.transpose(1, 2).contiguous()
    groups, group_size = channel_groups(directions * batch, channels, _ENOUGH_TASKS)
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(u)
    # Summed below: A and D over the samples, B and C over the groups of channels.
    grad_rate = u.new_empty(directions, batch, *rate.shape[1:])
    grad_D = u.new_empty(directions, batch, channels)
    grad_B, grad_C = (u.new_empty(groups, *B.shape) for _ in range(2))
    inputs = (grad_y, starts, u, delta, rate, rate * _LOG2_E, B, C, D, bias)
    gradients = (grad_u, grad_delta, grad_rate, grad_B, grad_C, grad_D)
    run_kernel(_kernels().backward, directions * batch * groups, group_size, _CHUNK, *inputs, *gradients)
    grad_A = grad_rate.sum(1).transpose(1, 2).contiguous()
    return grad_u, grad_delta, grad_A, grad_B.sum(0), grad_C.sum(0), grad_D.sum(1)


selective_scan_native = scan_operator("selective_scan_native", _forward, _backward, _count_chunks, device_types="cpu")
"""`selective_scan` in compiled loops. Shapes and meaning as there; all tensors float32 and on the CPU.

It raises a `RuntimeError` when there are no compiled kernels (`native_problem` says why).
"""
