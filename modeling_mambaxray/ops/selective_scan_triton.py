"""The selective scan as a Triton kernel, for float32, bfloat16 and float16 on a GPU. Needs triton, which PyTorch's
builds for CUDA bring along.

With `TRITON_INTERPRET=1` in the environment before triton is imported, the kernel runs on the CPU, slowly, for tests.

Shapes: K directions, B batch, L length, D channels, N state.
"""

import functools
import importlib.util
import logging
import os
import subprocess

import torch
from torch import Tensor

from .scan_operator import scan_operator
from .selective_scan_reference import selective_scan_reference

logger = logging.getLogger(__name__)

# Time steps whose states a thread works on at a time; the states between chunks are kept for the backward pass.
_CHUNK = 16
# Most channels of a program, one per thread of two warps.
_BLOCK = 64
_WARPS = 2


def is_interpreting() -> bool:
    """Whether Triton's kernels run on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@torch.compiler.assume_constant_result
@functools.cache
def triton_problem() -> str:
    """Why the kernel can't be used here; empty when it can.

    Where there is a GPU, the first call compiles the kernel and compares a small scan with the reference: Triton needs
    a C compiler and a GPU that it knows, and both fail only when used.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (PyTorch's builds for CUDA bring it)"
    if is_interpreting():
        return ""
    if not torch.cuda.is_available():
        return "there is no GPU"
    try:
        worst = _difference_from_reference()
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    else:
        if worst < 1e-4:
            return ""
        reason = f"it differs from the reference by {worst:.1g}"
    logger.warning("The Triton selective scan is off: its trial failed (%s)", reason)
    return f"its trial on this GPU failed ({reason})"


def _difference_from_reference() -> float:
    """Greatest difference in a small scan's output and gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 2, 33, 48), (1, 2, 33, 48), (1, 48, 4), (1, 2, 33, 4), (1, 2, 33, 4), (1, 48), (1, 48)]
    tensors = [torch.randn(shape, generator=generator).cuda() for shape in shapes]
    tensors[2] = -tensors[2].exp()
    results = []
    for scan in (selective_scan_triton, selective_scan_reference):
        inputs = [x.clone().requires_grad_() for x in tensors]
        with torch.enable_grad():
            y = scan(*inputs)
            results.append([y.detach(), *torch.autograd.grad(y.sum(), inputs)])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))


def _count_chunks(directions: int, batch: int, length: int, channels: int, state: int) -> int:
    return -(-length // _CHUNK)


def _block(channels: int) -> int:
    """Channels of a program, a power of two."""
    return min(_BLOCK, 1 << max(0, channels - 1).bit_length())


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [x.contiguous() for x in tensors]


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
    from . import selective_scan_triton_kernels as kernels

    directions, batch, length, channels = u.shape
    state = A.shape[-1]
    tensors = _contiguous(u, delta, A, B, C, D, delta_bias)
    y = torch.empty_like(tensors[0])
    chunks = _count_chunks(directions, batch, length, channels, state) if keep_states else 0
    starts = u.new_empty(chunks, directions, batch, state, channels, dtype=torch.float32)
    # Without a backward pass one place for each state is enough.
    carry = starts if chunks else starts.new_empty(1, directions, batch, state, channels)
    carry[:1].zero_()
    stride = carry[0].numel() if chunks else 0
    block = _block(channels)
    if y.numel():
        with torch.cuda.device_of(u):
            kernels.forward[directions * batch, -(-channels // block)](
                *tensors, y, carry, batch, length, channels, stride, N=state, T=_CHUNK, BLOCK=block, num_warps=_WARPS
            )
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
    from . import selective_scan_triton_kernels as kernels

    directions, batch, length, channels = u.shape
    state = A.shape[-1]
    grad_y, starts, *tensors = _contiguous(grad_y, starts, u, delta, A, B, C, D, delta_bias)
    block = _block(channels)
    blocks = -(-channels // block)
    grad_u, grad_delta = torch.empty_like(tensors[0]), torch.empty_like(tensors[1])
    # Summed below: A and D over the samples, B and C over the blocks of channels.
    grad_A = starts.new_zeros(directions, batch, state, channels)
    grad_D = starts.new_zeros(directions, batch, channels)
    grad_B, grad_C = (starts.new_zeros(blocks, directions, batch, length, state) for _ in range(2))
    carry = torch.zeros_like(grad_A)
    gradients = (grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, carry)
    if grad_u.numel():
        with torch.cuda.device_of(u):
            kernels.backward[directions * batch, blocks](
                grad_y, starts, *tensors, *gradients,
                batch, length, channels, starts[0].numel(), grad_B[0].numel(),
                N=state, T=_CHUNK, BLOCK=block, num_warps=_WARPS,
            )  # fmt: skip
    grad_A = grad_A.sum(1).transpose(1, 2).contiguous()
    return grad_u, grad_delta, grad_A, grad_B.sum(0).to(B.dtype), grad_C.sum(0).to(C.dtype), grad_D.sum(1)


selective_scan_triton = scan_operator("selective_scan_triton", _forward, _backward, _count_chunks)
"""`selective_scan` as a Triton kernel. Shapes and meaning as there.

`A`, `D` and `delta_bias` are float32, the others may each be float32, bfloat16 or float16; the state is float32.
"""
