"""The GPU kernels of the `triton` selective scan. Importing this module needs triton.

A program works on one direction, one sample and a block of neighbouring channels, and walks over chunks of time. It
loads a chunk's `u` and `delta` at once, so that many loads are under way while it computes; channels lie side by side,
so a warp's loads are whole cache lines. Time lies within a thread, so that a scan over it needs no exchange between
threads. It takes the states one after the other, which keeps the registers few whatever the state's size, and carries
each from chunk to chunk through `starts`, which the second-level cache holds.

Shapes: K directions, B batch, L length, D channels, N state, T chunk length. All tensors are contiguous.
"""

import math

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _compose(decay, added, next_decay, next_added):
    """Two steps `h -> decay h + added` as one."""
    return decay * next_decay, next_decay * added + next_added


@triton.jit
def _softplus_and_slope(x):
    """`log(1 + e^x)` and its derivative, without overflow."""
    z = tl.exp2(-tl.abs(x) * _LOG2_E)
    # log(1 + z) = 2 atanh(z / (2 + z)) by a polynomial of relative error 5e-9, so that small steps keep their digits.
    s = z / (2.0 + z)
    q = s * s
    log1p = 2.0 * s * (1.0 + q * (0.333332092 + q * (0.200107634 + q * (0.140009016 + q * 0.140059963))))
    return tl.maximum(x, 0.0) + log1p, tl.where(x > 0, 1.0, z) / (1.0 + z)


@triton.jit
def _load_steps(delta_ptr, bias, rows, columns, length, channels):
    """Step sizes of some time steps and their slopes, `(T, channels)`; beyond the end no time passes."""
    inside = (rows < length)[:, None] & (columns < channels)[None, :]
    raw = tl.load(delta_ptr + rows[:, None] * channels + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    step, slope = _softplus_and_slope(raw + bias[None, :])
    return tl.where(inside, step, 0.0), slope


@triton.jit
def forward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr, y_ptr, starts_ptr,
    batch, length, channels, starts_stride,
    N: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fills `y (K, B, L, D)` and the states before each chunk, `starts (chunks, K, B, N, D)`.

    `starts_stride` is the distance between the states of two chunks; when it is 0, only the present ones are kept. The
    first chunk's are zero on entry.
    """
    pair = tl.program_id(0).to(tl.int64)
    k = pair // batch
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    present = columns < channels
    bias = tl.load(bias_ptr + k * channels + columns, mask=present, other=0.0)
    skip = tl.load(D_ptr + k * channels + columns, mask=present, other=0.0)
    u_ptr += pair * length * channels
    delta_ptr += pair * length * channels
    y_ptr += pair * length * channels
    B_ptr += pair * length * N
    C_ptr += pair * length * N
    A_ptr += k * channels * N + columns * N
    starts_ptr += pair * N * channels + columns
    times = tl.arange(0, T)
    for first in range(0, length, T):
        rows = first + times
        here = rows < length
        inside = here[:, None] & present[None, :]
        cells = rows[:, None] * channels + columns[None, :]
        step, _ = _load_steps(delta_ptr, bias, rows, columns, length, channels)
        u = tl.load(u_ptr + cells, mask=inside, other=0.0).to(tl.float32)
        v = step * u
        y = skip[None, :] * u
        for n in range(N):
            rate = tl.load(A_ptr + n, mask=present, other=0.0) * _LOG2_E
            B_n = tl.load(B_ptr + rows * N + n, mask=here, other=0.0).to(tl.float32)
            C_n = tl.load(C_ptr + rows * N + n, mask=here, other=0.0).to(tl.float32)
            start = tl.load(starts_ptr + n * channels, mask=present, other=0.0)
            decay = tl.exp2(step * rate[None, :])
            added = v * B_n[:, None]
            added = tl.where((times == 0)[:, None], added + decay * start[None, :], added)
            _, states = tl.associative_scan((decay, added), 0, _compose)
            y += states * C_n[:, None]
            last = tl.sum(tl.where((times == T - 1)[:, None], states, 0.0), 0)
            if first + T < length:
                tl.store(starts_ptr + starts_stride + n * channels, last, mask=present)
        tl.store(y_ptr + cells, y.to(y_ptr.dtype.element_ty), mask=inside)
        starts_ptr += starts_stride
        # What a thread has stored is read by others: wait for all.
        tl.debug_barrier()


@triton.jit
def backward(
    grad_y_ptr, starts_ptr, u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr,
    grad_u_ptr, grad_delta_ptr, grad_A_ptr, grad_B_ptr, grad_C_ptr, grad_D_ptr, carry_ptr,
    batch, length, channels, starts_stride, parts_stride,
    N: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fills the gradients of `u` and `delta`, and those of the others in float32 parts that remain to be summed.

    The parts are one per sample, `grad_A (K, B, N, D)` and `grad_D (K, B, D)`, or one per block of channels, `grad_B`
    and `grad_C` (blocks, K, B, L, N), `parts_stride` apart. `carry (K, B, N, D)` holds the state's gradient between
    chunks; it and `grad_A` are zero on entry.
    """
    pair = tl.program_id(0).to(tl.int64)
    k = pair // batch
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    present = columns < channels
    bias = tl.load(bias_ptr + k * channels + columns, mask=present, other=0.0)
    skip = tl.load(D_ptr + k * channels + columns, mask=present, other=0.0)
    grad_y_ptr += pair * length * channels
    u_ptr += pair * length * channels
    delta_ptr += pair * length * channels
    grad_u_ptr += pair * length * channels
    grad_delta_ptr += pair * length * channels
    B_ptr += pair * length * N
    C_ptr += pair * length * N
    grad_B_ptr += tl.program_id(1).to(tl.int64) * parts_stride + pair * length * N
    grad_C_ptr += tl.program_id(1).to(tl.int64) * parts_stride + pair * length * N
    A_ptr += k * channels * N + columns * N
    grad_A_ptr += pair * N * channels + columns
    carry_ptr += pair * N * channels + columns
    chunks = tl.cdiv(length, T)
    starts_ptr += (chunks - 1) * starts_stride + pair * N * channels + columns
    times = tl.arange(0, T)
    grad_D = tl.zeros([BLOCK], tl.float32)
    for index in range(chunks):
        first = (chunks - 1 - index) * T
        rows = first + times
        here = rows < length
        inside = here[:, None] & present[None, :]
        cells = rows[:, None] * channels + columns[None, :]
        step, slope = _load_steps(delta_ptr, bias, rows, columns, length, channels)
        next_step, _ = _load_steps(delta_ptr, bias, rows + 1, columns, length, channels)
        u = tl.load(u_ptr + cells, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(grad_y_ptr + cells, mask=inside, other=0.0).to(tl.float32)
        v = step * u
        grad_D += tl.sum(dy * u, 0)
        grad_v = tl.zeros([T, BLOCK], tl.float32)
        grad_step = tl.zeros([T, BLOCK], tl.float32)
        for n in range(N):
            rate = tl.load(A_ptr + n, mask=present, other=0.0)
            B_n = tl.load(B_ptr + rows * N + n, mask=here, other=0.0).to(tl.float32)
            C_n = tl.load(C_ptr + rows * N + n, mask=here, other=0.0).to(tl.float32)
            start = tl.load(starts_ptr + n * channels, mask=present, other=0.0)
            carry = tl.load(carry_ptr + n * channels, mask=present, other=0.0)
            decay = tl.exp2(step * (rate * _LOG2_E)[None, :])
            added = v * B_n[:, None]
            first_added = tl.where((times == 0)[:, None], added + decay * start[None, :], added)
            _, states = tl.associative_scan((decay, first_added), 0, _compose)
            tl.store(grad_C_ptr + rows * N + n, tl.sum(dy * states, 1), mask=here)
            # Backwards in time: e_t = C_t dy_t + decay_{t+1} e_{t+1}.
            next_decay = tl.exp2(next_step * (rate * _LOG2_E)[None, :])
            pushed = dy * C_n[:, None]
            pushed = tl.where((times == T - 1)[:, None], pushed + next_decay * carry[None, :], pushed)
            _, adjoint = tl.associative_scan((next_decay, pushed), 0, _compose, reverse=True)
            tl.store(carry_ptr + n * channels, tl.sum(tl.where((times == 0)[:, None], adjoint, 0.0), 0), mask=present)
            tl.store(grad_B_ptr + rows * N + n, tl.sum(adjoint * v, 1), mask=here)
            # decay_t h_{t-1} is what was not added.
            exponent = adjoint * (states - added)
            grad_v += adjoint * B_n[:, None]
            grad_step += exponent * rate[None, :]
            grad_A = tl.load(grad_A_ptr + n * channels, mask=present, other=0.0)
            tl.store(grad_A_ptr + n * channels, grad_A + tl.sum(exponent * step, 0), mask=present)
        grad_u = grad_v * step + skip[None, :] * dy
        grad_delta = (grad_step + grad_v * u) * slope
        tl.store(grad_u_ptr + cells, grad_u.to(grad_u_ptr.dtype.element_ty), mask=inside)
        tl.store(grad_delta_ptr + cells, grad_delta.to(grad_delta_ptr.dtype.element_ty), mask=inside)
        starts_ptr -= starts_stride
        tl.debug_barrier()
    tl.store(grad_D_ptr + pair * channels + columns, grad_D, mask=present)
