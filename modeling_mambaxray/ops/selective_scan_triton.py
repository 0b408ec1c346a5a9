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
from dataclasses import dataclass

import torch
from torch import Tensor

from .scan_operator import scan_operator
from .selective_scan_reference import selective_scan_reference

logger = logging.getLogger(__name__)

# Time steps between the states that are kept for the backward pass.
_CHUNK = 16
# Time steps whose states the backward pass has in registers at once.
_PART = 2
# Most states in a lane's registers; channels with more are shared by several lanes.
_STATES = 16
_LANES = 32
# Programs that keep a large GPU busy. With fewer, long sequences are cut into segments; since these are scanned twice,
# at least `_FEWEST_SEGMENTS` have to come out of it.
_ENOUGH_PROGRAMS = 3072
_SHORTEST_SEGMENT = 128
_FEWEST_SEGMENTS = 4


def is_interpreting() -> bool:
    """Whether Triton's kernels run on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


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
    from triton.errors import TritonError

    try:
        worst = _difference_from_reference()
    except (TritonError, RuntimeError, OSError, ImportError, AttributeError, subprocess.SubprocessError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    else:
        if worst < 1e-4:
            return ""
        reason = f"it differs from the reference by {worst:.1g}"
    logger.warning("The Triton selective scan is off: its trial failed (%s)", reason)
    return f"its trial on this GPU failed ({reason})"


@torch.inference_mode(False)  # it needs gradients, wherever the first scan is
def _difference_from_reference() -> float:
    """Greatest difference in output and gradients of a small scan and of what stands before and behind it."""
    from .directional_convolution import directional_convolution_torch, merge_directions_torch
    from .directions_triton import directional_convolution_triton, merge_directions_triton

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).cuda()

    orders = torch.stack([torch.arange(33), torch.randperm(33, generator=generator)]).cuda()
    inverse_orders = orders.argsort(dim=-1)
    x, gate, weight, bias = normal(2, 33, 48), normal(2, 33, 48), normal(2, 48, 4), normal(2, 48)
    scan_inputs = [normal(2, 2, 33, 48), -normal(2, 48, 4).exp(), normal(2, 2, 33, 4), normal(2, 2, 33, 4)]
    scan_inputs += [normal(2, 48), normal(2, 48)]

    def run(dtype: torch.dtype, convolve, scan, merge) -> list[Tensor]:
        inputs = [t.to(dtype, copy=True).requires_grad_() for t in (x, gate, weight, bias, *scan_inputs)]
        with torch.enable_grad():
            u = convolve(inputs[0], orders, inverse_orders, *inputs[2:4])
            out = merge(scan(u, *inputs[4:]), inputs[1])
            return [out.detach(), *torch.autograd.grad(out.sum(), inputs)]

    results = (
        run(
            torch.float32,
            directional_convolution_triton,
            selective_scan_triton,
            lambda y, gate: merge_directions_triton(y, gate, orders, inverse_orders),
        ),
        run(
            torch.float64,  # PyTorch's float32 convolutions may use TF32
            directional_convolution_torch,
            selective_scan_reference,
            lambda y, gate: merge_directions_torch(y, gate, orders, inverse_orders),
        ),
    )
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))


def _count_chunks(directions: int, batch: int, length: int, channels: int, state: int) -> int:
    return -(-length // _CHUNK)


@dataclass(frozen=True)
class _Plan:
    """How a scan is shared out: states per lane, lanes per channel, blocks of channels, pairs of direction and sample,
    and segments of time, each `segment` steps long (the last one may be shorter)."""

    states: int
    groups: int
    blocks: int
    pairs: int
    segments: int
    segment: int

    @classmethod
    def of(cls, directions: int, batch: int, length: int, channels: int, state: int) -> "_Plan":
        # It depends on the sizes only, so that results don't depend on the GPU.
        states = _power_of_two(min(state, _STATES))
        groups = _power_of_two(-(-state // states))
        if groups > _LANES:
            raise ValueError(
                f"the triton scan takes at most {_LANES * _STATES} states, got {state}; choose MAMBAXRAY_SCAN=torch"
            )
        blocks, pairs = -(-channels * groups // _LANES), directions * batch
        segments = min(_ENOUGH_PROGRAMS // max(1, blocks * pairs), length // _SHORTEST_SEGMENT)
        if segments < _FEWEST_SEGMENTS:
            segments = 1
        segment = max(1, -(-length // (segments * _CHUNK))) * _CHUNK
        return cls(states, groups, blocks, pairs, max(1, -(-length // segment)), segment)

    def sizes(self, state: int) -> dict[str, int]:
        """The constants that every kernel is compiled for."""
        return {"N": state, "STATES": self.states, "GROUPS": self.groups}

    def grid(self, segments: int | None = None) -> tuple[int, int, int]:
        return self.blocks, self.pairs, self.segments if segments is None else segments


def _power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << max(0, number - 1).bit_length()


def _rows(x: Tensor) -> Tensor:
    """The tensor itself where its last axis lies together in memory, else a copy of which that is true."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _weights(x: Tensor) -> Tensor:
    """`B` or `C` in float32. Every lane reads all of them, and would have to convert each in every step; they are small
    beside `u`."""
    return _rows(x.float())


def _strides(*tensors: Tensor) -> list[int]:
    """Strides of sequences along direction, sample and time."""
    return [stride for x in tensors for stride in x.stride()[:3]]


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
    u, delta, B, C = _rows(u), _rows(delta), _weights(B), _weights(C)
    A, D, bias = (x.contiguous() for x in (A, D, delta_bias))
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    chunks = _count_chunks(directions, batch, length, channels, state) if keep_states else 0
    starts = u.new_empty(chunks, directions, batch, state, channels, dtype=torch.float32)
    if not y.numel():
        return y, starts
    plan = _Plan.of(directions, batch, length, channels, state)
    sizes = plan.sizes(state)
    first, first_stride = starts, 0
    with torch.cuda.device_of(u):
        if plan.segments > 1:
            if keep_states:  # the states before the segments are among those before the chunks
                first_stride = plan.segment // _CHUNK * starts[0].numel()
            else:
                first = starts.new_empty(plan.segments, directions, batch, state, channels)
                first_stride = first[0].numel()
            elapsed = starts.new_empty(plan.segments, directions, batch, channels)
            kernels.summarize[plan.grid(plan.segments - 1)](
                u, delta, A, B, bias, first, elapsed,
                batch, length, channels, plan.segment, *_strides(u, delta, B), first_stride,
                **sizes, num_warps=1,
            )  # fmt: skip
            _carry(plan, first, first_stride, elapsed, A, backward=False)
        kernels.forward[plan.grid()](
            u, delta, A, B, C, D, bias, y, starts, first,
            batch, length, channels, plan.segment, *_strides(u, delta, B, C), first_stride,
            **sizes, CHUNK=_CHUNK, KEEP=keep_states, SEGMENTED=plan.segments > 1, num_warps=1,
        )  # fmt: skip
    return y, starts


def _carry(plan: _Plan, states: Tensor, stride: int, elapsed: Tensor, A: Tensor, *, backward: bool) -> None:
    """Makes, in place, the states at the borders of segments out of what each segment adds."""
    from . import selective_scan_triton_kernels as kernels

    _, batch, state, channels = states.shape[1:]
    kernels.carry[-(-state * channels // _LANES), plan.pairs](
        states, elapsed, A, batch, channels, plan.segments, stride, N=state, BACKWARD=backward, num_warps=1
    )


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
    dtypes = B.dtype, C.dtype
    grad_y, u, delta, B, C = _rows(grad_y), _rows(u), _rows(delta), _weights(B), _weights(C)
    starts, A, D, bias = (x.contiguous() for x in (starts, A, D, delta_bias))
    grad_u, grad_delta = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta))
    if not grad_u.numel():
        grad_A, grad_D = torch.zeros_like(A), torch.zeros_like(D)
        grad_B, grad_C = (x.new_zeros(x.shape, dtype=dtype) for x, dtype in zip((B, C), dtypes, strict=True))
        return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D
    plan = _Plan.of(directions, batch, length, channels, state)
    sizes = plan.sizes(state)
    # Summed below: A and D over segments and samples, B and C over the blocks of channels.
    grad_A = starts.new_empty(plan.segments, directions, batch, state, channels)
    grad_D = starts.new_empty(plan.segments, directions, batch, channels)
    grad_B, grad_C = (starts.new_empty(plan.blocks, directions, batch, length, state) for _ in range(2))
    scratch = starts.new_empty(plan.segments, plan.pairs, plan.blocks, _CHUNK // _PART, plan.states, _LANES)
    behind = starts
    with torch.cuda.device_of(u):
        if plan.segments > 1:
            behind, elapsed = torch.empty_like(grad_A), torch.empty_like(grad_D)
            kernels.summarize_backward[plan.grid(plan.segments - 1)](
                grad_y, delta, A, C, bias, behind, elapsed,
                batch, length, channels, plan.segment, *_strides(grad_y, delta, C), behind[0].numel(),
                **sizes, num_warps=1,
            )  # fmt: skip
            _carry(plan, behind, behind[0].numel(), elapsed, A, backward=True)
        kernels.backward[plan.grid()](
            grad_y, starts, u, delta, A, B, C, D, bias,
            grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, scratch, behind,
            batch, length, channels, plan.segment, *_strides(grad_y, u, delta, B, C),
            **sizes, CHUNK=_CHUNK, PART=_PART, SEGMENTED=plan.segments > 1, num_warps=1,
        )  # fmt: skip
    grad_A = grad_A.sum((0, 2)).transpose(1, 2).contiguous()
    return grad_u, grad_delta, grad_A, grad_B.sum(0).to(dtypes[0]), grad_C.sum(0).to(dtypes[1]), grad_D.sum((0, 2))


selective_scan_triton = scan_operator("selective_scan_triton", _forward, _backward, _count_chunks)
"""`selective_scan` as a Triton kernel. Shapes and meaning as there.

`A`, `D` and `delta_bias` are float32, the others may each be float32, bfloat16 or float16; the state is float32.
"""
