"""The compiled loops of the `native` selective scan. Importing this module needs numba and compiles them.

Each kernel works on a range of tasks; a task is one direction, one sample and one group of channels. Within it, time
is the outer loop, the state the middle one and up to `_BLOCK` neighbouring channels the inner one, which the compiler
turns into SIMD instructions. The states of a block of channels stay in a core's cache. The inner loops go over rows
cut out before, as numba takes an index like `c0 + c` for one that may be negative, and such a loop stays scalar.

The kernels hold no lock and Python's own lock is released while they run, so any number of threads may run them.

Shapes: K directions, B batch, L length, D channels, N state, G groups of channels.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

# Channels in the inner loop, the most: long loops outweigh the check of their arrays for overlaps before each.
_BLOCK = 768

_LOG2_E = np.float32(math.log2(math.e))
_ZERO, _ONE, _TWO = (np.float32(x) for x in (0, 1, 2))
_MIN_EXPONENT, _MAX_EXPONENT = np.float32(-127), np.float32(128)
# Adding it rounds to a whole number, which then stands in the last bits, plus the bias of a float32's exponent.
_ROUNDING = np.float32(1.5 * 2**23 + 127)
_EXPONENT_BITS = np.int32(23)
# 2^x on [-1/2, 1/2] with relative error 1e-7, exact at 0; own least-maximum fits, as the next.
_E1, _E2, _E3, _E4, _E5 = (np.float32(x) for x in (0.69314698, 0.24022242, 0.05550734, 0.00967151, 0.00132647))
# atanh(s) / s as a polynomial in s^2 <= 1/9, relative error 5e-9.
_L1, _L2, _L3, _L4 = (np.float32(x) for x in (0.333332092, 0.200107634, 0.140009016, 0.140059963))

# Infinities and NaN keep their meaning: a diverged training run has to show.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}
_OPTIONS = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}


def compile_kernel(signature: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compiles for one signature and keeps the result on disk, where there is a place for it."""

    def decorate(function):
        try:
            return njit(signature, cache=True, **_OPTIONS)(function)
        except (OSError, RuntimeError):
            return njit(signature, **_OPTIONS)(function)

    return decorate


_inline = njit(**_OPTIONS)


# Without permission to reorder: (x + r) - r would become x.
@njit(**_OPTIONS | {"fastmath": {"contract", "nsz"}})
def _exp2(x):
    """2^x within 2 units in the last place; at and below 2^-127 it is 0."""
    x = _MIN_EXPONENT if x < _MIN_EXPONENT else x
    x = _MAX_EXPONENT if x > _MAX_EXPONENT else x
    shifted = np.float32(x + _ROUNDING)
    f = x - (shifted - _ROUNDING)
    scale = np.int32(shifted.view(np.int32) << _EXPONENT_BITS).view(np.float32)
    return scale * (_ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * _E5)))))


@_inline
def _softplus(x):
    z = _exp2(-abs(x) * _LOG2_E)
    # log(1 + z) = 2 atanh(z / (2 + z)), which keeps its relative precision for small z.
    s = z / (_TWO + z)
    q = s * s
    log1p = _TWO * s * (_ONE + q * (_L1 + q * (_L2 + q * (_L3 + q * _L4))))
    return log1p + (x if x > _ZERO else _ZERO)


@_inline
def sigmoid(x: float) -> float:
    """1 / (1 + e^-x), for the loops of the kernels."""
    z = _exp2(-abs(x) * _LOG2_E)
    return (_ONE if x > _ZERO else z) / (_ONE + z)


_int = types.intp
_f2, _f3, _f4, _f5 = (types.Array(types.float32, ndim, "C") for ndim in (2, 3, 4, 5))


@compile_kernel(types.void(_int, _int, _int, _int, _f4, _f4, _f3, _f4, _f4, _f2, _f2, _f4, _f5))
def forward(first, last, group_size, chunk, u, delta, decay_rate, B, C, D, bias, y, starts):
    """Fills `y (K, B, L, D)` and the states before each chunk, `starts (chunks, K, B, N, D)`, when it has any.

    `decay_rate = A log2(e)` is `(K, N, D)`; the other inputs are shaped as in `selective_scan`, where `bias` is
    called `delta_bias`. A chunk has `chunk` time steps, a group `group_size` channels.
    """
    _, batch, length, channels = u.shape
    size = B.shape[3]
    block = min(_BLOCK, group_size)
    keep_states = starts.shape[0] > 0
    groups = (channels + group_size - 1) // group_size
    state = np.empty((size, block), np.float32)
    block_rate = np.empty((size, block), np.float32)
    step = np.empty(block, np.float32)
    v = np.empty(block, np.float32)
    out = np.empty(block, np.float32)
    for task in range(first, last):
        k = task // (batch * groups)
        b = task // groups % batch
        end = min(channels, (task % groups + 1) * group_size)
        for c0 in range(task % groups * group_size, end, block):
            c1 = min(c0 + block, end)
            width = c1 - c0
            state[:] = _ZERO
            D_block, bias_block = D[k][c0:c1], bias[k][c0:c1]
            for n in range(size):
                block_rate[n, :width] = decay_rate[k, n][c0:c1]
            for t in range(length):
                if keep_states and t % chunk == 0:
                    for n in range(size):
                        starts[t // chunk, k, b, n][c0:c1] = state[n, :width]
                delta_t, u_t, y_t = delta[k, b, t][c0:c1], u[k, b, t][c0:c1], y[k, b, t][c0:c1]
                for c in range(width):
                    step[c] = _softplus(delta_t[c] + bias_block[c])
                for c in range(width):
                    v[c] = step[c] * u_t[c]
                    out[c] = D_block[c] * u_t[c]
                for n in range(size):
                    B_n = B[k, b, t, n]
                    C_n = C[k, b, t, n]
                    for c in range(width):
                        h = _exp2(step[c] * block_rate[n, c]) * state[n, c] + v[c] * B_n
                        state[n, c] = h
                        out[c] += h * C_n
                for c in range(width):
                    y_t[c] = out[c]


@compile_kernel(
    types.void(
        _int, _int, _int, _int, _f4, _f5, _f4, _f4, _f3, _f3, _f4, _f4, _f2, _f2,  # inputs
        _f4, _f4, _f4, _f5, _f5, _f3,  # gradients
    )
)  # fmt: skip
def backward(
    first, last, group_size, chunk, grad_y, starts, u, delta, rate, decay_rate, B, C, D, bias,
    grad_u, grad_delta, grad_rate, grad_B, grad_C, grad_D,
):  # fmt: skip
    """Fills the gradients of `u` and `delta`, and those of the others in parts that remain to be summed.

    The parts are one per sample, `grad_rate (K, B, N, D)` and `grad_D (K, B, D)`, or one per group of channels,
    `grad_B` and `grad_C (G, K, B, L, N)`. `rate` is `A` as `(K, N, D)`; the other inputs are as in `forward`.
    """
    _, batch, length, channels = u.shape
    size = B.shape[3]
    block = min(_BLOCK, group_size)
    groups = (channels + group_size - 1) // group_size
    # Index t + 1 holds the state after time step t of the chunk, index 0 the state before it.
    states = np.empty((chunk + 1, size, block), np.float32)
    decays = np.empty((chunk, size, block), np.float32)
    steps = np.empty((chunk, block), np.float32)
    vs = np.empty((chunk, block), np.float32)
    carry = np.empty((size, block), np.float32)
    block_rate = np.empty((size, block), np.float32)
    block_decay_rate = np.empty((size, block), np.float32)
    sum_rate = np.empty((size, block), np.float32)
    sum_D = np.empty(block, np.float32)
    grad_v = np.empty(block, np.float32)
    grad_step = np.empty(block, np.float32)
    for task in range(first, last):
        k = task // (batch * groups)
        b = task // groups % batch
        g = task % groups
        end = min(channels, (g + 1) * group_size)
        for t in range(length):
            for n in range(size):
                grad_B[g, k, b, t, n] = _ZERO
                grad_C[g, k, b, t, n] = _ZERO
        for c0 in range(g * group_size, end, block):
            c1 = min(c0 + block, end)
            width = c1 - c0
            carry[:] = _ZERO
            sum_rate[:] = _ZERO
            sum_D[:] = _ZERO
            D_block, bias_block = D[k][c0:c1], bias[k][c0:c1]
            for n in range(size):
                block_rate[n, :width] = rate[k, n][c0:c1]
                block_decay_rate[n, :width] = decay_rate[k, n][c0:c1]
            for index in range((length + chunk - 1) // chunk - 1, -1, -1):
                t0 = index * chunk
                count = min(chunk, length - t0)
                for n in range(size):
                    states[0, n, :width] = starts[index, k, b, n][c0:c1]
                for i in range(count):
                    t = t0 + i
                    delta_t, u_t, grad_y_t = delta[k, b, t][c0:c1], u[k, b, t][c0:c1], grad_y[k, b, t][c0:c1]
                    for c in range(width):
                        steps[i, c] = _softplus(delta_t[c] + bias_block[c])
                    for c in range(width):
                        vs[i, c] = steps[i, c] * u_t[c]
                    for n in range(size):
                        B_n = B[k, b, t, n]
                        total = _ZERO
                        for c in range(width):
                            decay = _exp2(steps[i, c] * block_decay_rate[n, c])
                            h = decay * states[i, n, c] + vs[i, c] * B_n
                            decays[i, n, c] = decay
                            states[i + 1, n, c] = h
                            total += h * grad_y_t[c]
                        grad_C[g, k, b, t, n] += total
                for i in range(count - 1, -1, -1):
                    t = t0 + i
                    delta_t, u_t, grad_y_t = delta[k, b, t][c0:c1], u[k, b, t][c0:c1], grad_y[k, b, t][c0:c1]
                    grad_u_t, grad_delta_t = grad_u[k, b, t][c0:c1], grad_delta[k, b, t][c0:c1]
                    for c in range(width):
                        grad_v[c] = _ZERO
                        grad_step[c] = _ZERO
                        sum_D[c] += grad_y_t[c] * u_t[c]
                    for n in range(size):
                        B_n = B[k, b, t, n]
                        C_n = C[k, b, t, n]
                        total = _ZERO
                        for c in range(width):
                            # The adjoint of the recurrence, and the gradient of the exponent step * A.
                            adjoint = C_n * grad_y_t[c] + carry[n, c]
                            previous = decays[i, n, c] * adjoint
                            exponent = previous * states[i, n, c]
                            carry[n, c] = previous
                            total += adjoint * vs[i, c]
                            grad_v[c] += adjoint * B_n
                            grad_step[c] += exponent * block_rate[n, c]
                            sum_rate[n, c] += exponent * steps[i, c]
                        grad_B[g, k, b, t, n] += total
                    for c in range(width):
                        grad_u_t[c] = grad_v[c] * steps[i, c] + D_block[c] * grad_y_t[c]
                    for c in range(width):
                        total_step = grad_step[c] + grad_v[c] * u_t[c]
                        grad_delta_t[c] = total_step * sigmoid(delta_t[c] + bias_block[c])
            for n in range(size):
                grad_rate[k, b, n][c0:c1] = sum_rate[n, :width]
            grad_D[k, b][c0:c1] = sum_D[:width]
