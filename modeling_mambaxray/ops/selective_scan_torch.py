"""The selective scan in pure PyTorch: fast on the CPU, runs on any device, needs no compiler.

The states `(directions, batch, length, state, channels)` never exist as a whole. Time is cut into chunks whose decays
and states fit a processor's cache; one Python loop over time moves all directions at once, in place; the
contraction over the state is a batched matrix product. Only the state at the start of each chunk is kept for the
backward pass, which computes the rest again.

Shapes: K directions, B batch, L length, D channels, N state, T chunk length; time leads inside a chunk:
`(T, K, B, N, D)`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .scan_operator import scan_operator

_LOG2_E = math.log2(math.e)
# Elements of the two work buffers of one chunk (decays and states), small enough for a core's second-level cache.
_CHUNK_ELEMENTS = 262_144
# Elements of one time step, small enough that a step's operands stay in the first-level caches of a few cores.
_STEP_ELEMENTS = 65_536


def _tile_sizes(directions: int, batch: int, length: int, channels: int, state: int) -> tuple[int, int]:
    """How many samples and how many time steps to work on at a time."""
    per_sample = directions * channels * state
    samples = max(1, min(batch, _STEP_ELEMENTS // per_sample))
    steps = min(length, max(8, min(64, _CHUNK_ELEMENTS // (per_sample * samples))))
    return samples, max(1, steps)


def _time_first(x: Tensor) -> Tensor:
    """`(K, B, T, X)` to `(T, K, B, X)`, a view."""
    return x.permute(2, 0, 1, 3)


def _run_chunk(
    step: Tensor, v: Tensor, B: Tensor, decay_rate: Tensor, state: Tensor, decays: Tensor, states: Tensor
) -> None:
    """Writes decays and states of one chunk, `h_t = exp(step_t A) h_{t-1} + v_t B_t`, each `(T, K, B, N, D)`.

    Takes `step` and `v = step * u` as `(T, K, B, D)`, `B` as `(T, K, B, N)`, `decay_rate = A log2(e)` as
    `(K, 1, N, D)` and the state before the chunk as `(K, B, N, D)`.
    """
    torch.mul(step.unsqueeze(-2), decay_rate, out=decays)
    torch.exp2(decays, out=decays)
    torch.mul(v.unsqueeze(-2), B.unsqueeze(-1), out=states)
    for decay_t, state_t in zip(decays.unbind(0), states.unbind(0), strict=True):
        state = state_t.addcmul_(decay_t, state)


def _contract_state(weights: Tensor, states: Tensor) -> Tensor:
    """Sum over the state: `(T, K, B, N)` with `(T, K, B, N, D)` to `(T, K, B, D)`."""
    steps, directions, batch, n, channels = states.shape
    product = torch.bmm(weights.reshape(-1, 1, n), states.reshape(-1, n, channels))
    return product.view(steps, directions, batch, channels)


def _contract_channels(weights: Tensor, states: Tensor) -> Tensor:
    """Sum over the channels: `(T, K, B, D)` with `(T, K, B, N, D)` to `(T, K, B, N)`."""
    steps, directions, batch, n, channels = states.shape
    product = torch.bmm(weights.reshape(-1, 1, channels), states.reshape(-1, n, channels).transpose(1, 2))
    return product.view(steps, directions, batch, n)


def _fit(work: list[Tensor], steps: int, samples: int) -> list[Tensor]:
    """The part of each work buffer that a chunk of so many time steps and samples needs."""
    return [buffer[:steps, :, :samples] for buffer in work]


def _chunks(length: int, steps: int) -> list[slice]:
    return [slice(start, min(start + steps, length)) for start in range(0, length, steps)]


def _count_chunks(directions: int, batch: int, length: int, channels: int, state: int) -> int:
    _, steps = _tile_sizes(directions, batch, length, channels, state)
    return -(-length // steps)


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
    directions, batch, length, channels = u.shape
    state_size = A.shape[-1]
    samples, steps = _tile_sizes(directions, batch, length, channels, state_size)
    chunks = _chunks(length, steps)
    decay_rate = (A * _LOG2_E).transpose(1, 2).unsqueeze(1)
    bias, skip = delta_bias.unsqueeze(1), D.unsqueeze(1)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    starts = u.new_empty(len(chunks) if keep_states else 0, directions, batch, state_size, channels)
    work = [u.new_empty(steps, directions, samples, state_size, channels) for _ in range(2)]
    for first in range(0, batch, samples):
        tile = slice(first, first + samples)
        state = u.new_zeros(directions, min(samples, batch - first), state_size, channels)
        for index, chunk in enumerate(chunks):
            if keep_states:
                starts[index, :, tile] = state
            u_t, delta_t, B_t, C_t = (_time_first(x[:, tile, chunk]) for x in (u, delta, B, C))
            step = F.softplus(delta_t + bias)
            decays, states = _fit(work, *u_t.shape[:3:2])
            _run_chunk(step, step * u_t, B_t, decay_rate, state, decays, states)
            # A copy: the next chunk overwrites the work buffer.
            state.copy_(states[-1])
            output = _contract_state(C_t, states).addcmul_(u_t, skip)
            y[:, tile, chunk] = output.permute(1, 2, 0, 3)
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
    directions, batch, length, channels = u.shape
    state_size = A.shape[-1]
    samples, steps = _tile_sizes(directions, batch, length, channels, state_size)
    rate = A.transpose(1, 2).unsqueeze(1)
    decay_rate = rate * _LOG2_E
    bias = delta_bias.unsqueeze(1)
    grad_u, grad_delta, grad_B, grad_C = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta, B, C)
    )
    grad_rate = u.new_zeros(directions, state_size, channels)
    work = [u.new_empty(steps, directions, samples, state_size, channels) for _ in range(3)]
    for first in range(0, batch, samples):
        tile = slice(first, first + samples)
        carry = torch.zeros_like(starts[0, :, tile]) if length else None
        for index, chunk in reversed(list(enumerate(_chunks(length, steps)))):
            u_t, delta_t, B_t, C_t, dy = (_time_first(x[:, tile, chunk]) for x in (u, delta, B, C, grad_y))
            start = starts[index, :, tile]
            shifted = delta_t + bias
            step = F.softplus(shifted)
            v = step * u_t
            decays, states, adjoint = _fit(work, *u_t.shape[:3:2])
            _run_chunk(step, v, B_t, decay_rate, start, decays, states)
            grad_C[:, tile, chunk] = _contract_channels(dy, states).permute(1, 2, 0, 3)
            # Adjoint of the recurrence, backwards in time: e_t = C_t dy_t + decay_{t+1} e_{t+1}.
            torch.mul(C_t.unsqueeze(-1), dy.unsqueeze(-2), out=adjoint)
            adjoint[-1] += carry
            for t in range(adjoint.shape[0] - 2, -1, -1):
                adjoint[t].addcmul_(decays[t + 1], adjoint[t + 1])
            carry = decays[0] * adjoint[0]
            grad_B[:, tile, chunk] = _contract_channels(v, adjoint).permute(1, 2, 0, 3)
            grad_v = _contract_state(B_t, adjoint)
            # decays becomes the gradient of the exponent step * A.
            decays.mul_(adjoint)
            decays[1:].mul_(states[:-1])
            decays[0].mul_(start)
            torch.mul(decays, rate, out=adjoint)
            grad_step = adjoint.sum(-2).addcmul_(grad_v, u_t)
            grad_rate += decays.mul_(step.unsqueeze(-2)).sum(0).sum(1)
            grad_delta[:, tile, chunk] = (grad_step * torch.sigmoid(shifted)).permute(1, 2, 0, 3)
            grad_u[:, tile, chunk] = (grad_v * step).permute(1, 2, 0, 3)
    grad_u.addcmul_(grad_y, D[:, None, None])
    grad_D = torch.linalg.vecdot(grad_y, u, dim=2).sum(1)
    return grad_u, grad_delta, grad_rate.transpose(1, 2).contiguous(), grad_B, grad_C, grad_D


selective_scan_torch = scan_operator("selective_scan", _forward, _backward, _count_chunks)
"""`selective_scan` in chunks. Shapes and meaning as there; all tensors of one floating dtype."""
