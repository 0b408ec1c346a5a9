"""The selective scan in pure PyTorch: fast on the CPU, runs on any device, needs no compiler.

The states `(directions, batch, length, state, channels)` never exist as a whole. Directions and samples are cut into
tiles, and time into chunks, whose decays and states fit a processor's caches; one Python loop over time moves a tile's
directions and samples at once, in place; the contraction over the state is a batched matrix product. Only the state at
the start of each chunk is kept for the backward pass, which computes the rest again.

Shapes: K directions, B batch, L length, D channels, N state, T chunk length; time leads inside a chunk:
`(T, K, B, N, D)`.
"""

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from .scan_operator import scan_operator

# Elements of one time step of a tile: enough to outweigh the calls, few enough to be in a cache at the next step.
_STEP_ELEMENTS = 65_536
# Elements of a work buffer (decays, states) of a chunk. Longer chunks keep fewer states for the backward pass.
_CHUNK_ELEMENTS = 786_432


def _tile_sizes(directions: int, batch: int, length: int, channels: int, state: int) -> tuple[int, int, int]:
    """How many directions, samples and time steps to work on at a time, the most."""
    sequence = max(1, channels * state)
    tile_directions = _equal_part(directions, _STEP_ELEMENTS // sequence)
    tile_samples = _equal_part(batch, _STEP_ELEMENTS // (sequence * tile_directions))
    steps = _CHUNK_ELEMENTS // (sequence * tile_directions * tile_samples)
    return tile_directions, tile_samples, max(1, min(length, max(8, min(64, steps))))


def _equal_part(total: int, most: int) -> int:
    """Size of the parts when `total` is cut into as few as possible of `most` or less, as equal as can be."""
    parts = math.ceil(total / max(1, most))
    return math.ceil(total / max(1, parts)) or 1


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _tiles(directions: int, batch: int, tile_directions: int, tile_samples: int) -> list[tuple[slice, slice]]:
    """Indices of each tile into tensors that begin with directions and samples."""
    return list(product(_slices(directions, tile_directions), _slices(batch, tile_samples)))


def _time_first(x: Tensor) -> Tensor:
    """`(K, B, T, X)` to `(T, K, B, X)`, a view."""
    return x.permute(2, 0, 1, 3)


def _run_chunk(step: Tensor, v: Tensor, B: Tensor, rate: Tensor, state: Tensor, decays: Tensor, states: Tensor) -> None:
    """Writes decays and states of one chunk, `h_t = exp(step_t A) h_{t-1} + v_t B_t`, each `(T, K, B, N, D)`.

    Takes `step` and `v = step * u` as `(T, K, B, D)`, `B` as `(T, K, B, N)`, `rate = A` as `(K, 1, N, D)` and the
    state before the chunk as `(K, B, N, D)`.
    """
    torch.mul(step.unsqueeze(-2), rate, out=decays)
    torch.exp(decays, out=decays)
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


def _fit(work: list[Tensor], steps: int, directions: int, samples: int) -> list[Tensor]:
    """The part of each work buffer that a chunk of the given time steps, directions and samples needs."""
    return [buffer[:steps, :directions, :samples] for buffer in work]


def _count_chunks(directions: int, batch: int, length: int, channels: int, state: int) -> int:
    *_, steps = _tile_sizes(directions, batch, length, channels, state)
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
    *tile_sizes, steps = _tile_sizes(directions, batch, length, channels, state_size)
    chunks = _slices(length, steps)
    rate = A.transpose(1, 2).contiguous().unsqueeze(1)
    bias, skip = delta_bias.unsqueeze(1), D.unsqueeze(1)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    starts = u.new_empty(len(chunks) if keep_states else 0, directions, batch, state_size, channels)
    work = [u.new_empty(steps, *tile_sizes, state_size, channels) for _ in range(2)]
    for tile in _tiles(directions, batch, *tile_sizes):
        some = tile[0]
        state = u.new_zeros(*u[tile].shape[:2], state_size, channels)
        for index, chunk in enumerate(chunks):
            if keep_states:
                starts[index, *tile] = state
            u_t, delta_t, B_t, C_t = (_time_first(x[*tile, chunk]) for x in (u, delta, B, C))
            step = F.softplus(delta_t + bias[some])
            decays, states = _fit(work, *u_t.shape[:3])
            _run_chunk(step, step * u_t, B_t, rate[some], state, decays, states)
            # A copy: the next chunk overwrites the work buffer.
            state.copy_(states[-1])
            output = _contract_state(C_t, states).addcmul_(u_t, skip[some])
            y[*tile, chunk] = output.permute(1, 2, 0, 3)
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
    *tile_sizes, steps = _tile_sizes(directions, batch, length, channels, state_size)
    chunks = _slices(length, steps)
    rate = A.transpose(1, 2).contiguous().unsqueeze(1)
    bias, skip = delta_bias.unsqueeze(1), D.unsqueeze(1)
    grad_u, grad_delta, grad_B, grad_C = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta, B, C)
    )
    grad_rate = u.new_zeros(directions, state_size, channels)
    grad_D = u.new_zeros(directions, channels)
    work = [u.new_empty(steps, *tile_sizes, state_size, channels) for _ in range(3)]
    for tile in _tiles(directions, batch, *tile_sizes):
        some = tile[0]
        carry = u.new_zeros(*u[tile].shape[:2], state_size, channels)
        for index, chunk in reversed(list(enumerate(chunks))):
            u_t, delta_t, B_t, C_t, dy = (_time_first(x[*tile, chunk]) for x in (u, delta, B, C, grad_y))
            start = starts[index, *tile]
            shifted = delta_t + bias[some]
            step = F.softplus(shifted)
            v = step * u_t
            decays, states, adjoint = _fit(work, *u_t.shape[:3])
            _run_chunk(step, v, B_t, rate[some], start, decays, states)
            grad_C[*tile, chunk] = _contract_channels(dy, states).permute(1, 2, 0, 3)
            # Adjoint of the recurrence, backwards in time: e_t = C_t dy_t + decay_{t+1} e_{t+1}.
            torch.mul(C_t.unsqueeze(-1), dy.unsqueeze(-2), out=adjoint)
            adjoint[-1] += carry
            later, *earlier = reversed(adjoint.unbind(0))
            for decay_t, adjoint_t in zip(reversed(decays.unbind(0)), earlier, strict=False):
                later = adjoint_t.addcmul_(decay_t, later)
            torch.mul(decays[0], later, out=carry)
            grad_B[*tile, chunk] = _contract_channels(v, adjoint).permute(1, 2, 0, 3)
            grad_v = _contract_state(B_t, adjoint)
            # decays becomes the gradient of the exponent step * A.
            decays.mul_(adjoint)
            decays[1:].mul_(states[:-1])
            decays[0].mul_(start)
            torch.mul(decays, rate[some], out=adjoint)
            grad_step = adjoint.sum(-2).addcmul_(grad_v, u_t)
            grad_rate[some] += decays.mul_(step.unsqueeze(-2)).sum(0).sum(1)
            grad_delta[*tile, chunk] = grad_step.mul_(torch.sigmoid(shifted)).permute(1, 2, 0, 3)
            grad_u[*tile, chunk] = grad_v.mul_(step).addcmul_(dy, skip[some]).permute(1, 2, 0, 3)
            grad_D[some] += torch.mul(dy, u_t).sum((0, 2))
    return grad_u, grad_delta, grad_rate.transpose(1, 2).contiguous(), grad_B, grad_C, grad_D


selective_scan_torch = scan_operator("selective_scan", _forward, _backward, _count_chunks)
"""`selective_scan` in chunks. Shapes and meaning as there; all tensors of one floating dtype."""
