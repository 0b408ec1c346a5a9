"""The compiled loops of the `native` selective scan. Importing this module needs numba and compiles them.

Each kernel works on a range of tasks; a task is one direction, one sample and one group of channels. Time is cut in
chunks, channels in tiles of whole vectors. What a tile's rows hold for a chunk is first copied, `[vector][step][lane]`,
into buffers that lie in a core's cache, and its step sizes are computed; then each vector and state goes through the
chunk's steps in registers; then rows are written. Rows are read and written as they lie in memory, one after another:
a processor foresees that, and does not foresee short pieces with gaps between.

The kernels hold no lock and Python's own lock is released while they run, so any number of threads may run them.

Shapes: K directions, B batch, L length, D channels, N state, G groups of channels.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

from .compiled_vectors import (
    LANES,
    OPTIONS,
    buffer,
    in_all_lanes,
    load,
    load_first,
    number_at,
    power_of_two,
    store,
    store_first,
    total,
    where_positive,
)

# Channels that are prepared together, the most: whole rows of the base encoder.
_TILE = 24 * LANES

_LOG2_E = np.float32(math.log2(math.e))
_ZERO, _ONE, _TWO = (np.float32(x) for x in (0, 1, 2))
_MIN_EXPONENT, _MAX_EXPONENT = np.float32(-127), np.float32(128)
# Adding it rounds to a whole number, which then stands in the last bits, plus the bias of a float32's exponent.
_ROUNDING = np.float32(1.5 * 2**23 + 127)
# 2^x on [-1/2, 1/2] with relative error 1e-7, exact at 0; own least-maximum fits, as the next.
_E1, _E2, _E3, _E4, _E5 = (np.float32(x) for x in (0.69314698, 0.24022242, 0.05550734, 0.00967151, 0.00132647))
# atanh(s) / s as a polynomial in s^2 <= 1/9, relative error 5e-9.
_L1, _L2, _L3, _L4 = (np.float32(x) for x in (0.333332092, 0.200107634, 0.140009016, 0.140059963))


def compile_kernel(signature: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compiles for one signature and keeps the result on disk, where there is a place for it."""

    def decorate(function):
        try:
            return njit(signature, cache=True, **OPTIONS)(function)
        except (OSError, RuntimeError):
            return njit(signature, **OPTIONS)(function)

    return decorate


_inline = njit(**OPTIONS)


@_inline
def exp2(x: Any) -> Any:
    """2^x in each lane, within 2 units in the last place; at and below 2^-127 it is 0."""
    x = min(max(x, _MIN_EXPONENT), _MAX_EXPONENT)
    shifted = x + _ROUNDING
    f = x - (shifted - _ROUNDING)
    return power_of_two(shifted) * (_ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * _E5)))))


@_inline
def _softplus(x):
    z = exp2(min(x, _ZERO - x) * _LOG2_E)
    # log(1 + z) = 2 atanh(z / (2 + z)), which keeps its relative precision for small z.
    s = z / (_TWO + z)
    q = s * s
    return _TWO * s * (_ONE + q * (_L1 + q * (_L2 + q * (_L3 + q * _L4)))) + max(x, _ZERO)


@_inline
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) in each lane."""
    z = exp2(min(x, _ZERO - x) * _LOG2_E)
    return where_positive(x, _ONE, z) / (_ONE + z)


_int = types.intp
_f2, _f3, _f4, _f5 = (types.Array(types.float32, ndim, "C") for ndim in (2, 3, 4, 5))


@compile_kernel(types.void(_int, _int, _int, _int, _f4, _f4, _f3, _f4, _f4, _f2, _f2, _f4, _f5))
def forward(first, last, group_size, chunk, u, delta, decay_rate, B, C, D, bias, y, starts):
    """Fills `y (K, B, L, D)` and the states before each chunk, `starts (chunks, K, B, N, D)`, when it has any.

    `decay_rate = A log2(e)` is `(K, N, D)`; the other inputs are shaped as in `selective_scan`, where `bias` is
    called `delta_bias`. A chunk has `chunk` time steps, a group `group_size` channels.
    """
    directions, batch, length, channels = u.shape
    size = B.shape[3]
    groups = (channels + group_size - 1) // group_size
    tile = min(_TILE, (group_size + LANES - 1) // LANES * LANES)
    states, rates = buffer(size * tile), buffer(size * tile)
    steps, vs, sums = buffer(chunk * tile), buffer(chunk * tile), buffer(chunk * tile)
    for task in range(first, last):
        sample = task // groups  # of all directions
        k = sample // batch
        end = min(channels, (task % groups + 1) * group_size)
        for c0 in range(task % groups * group_size, end, tile):
            width = min(tile, end - c0)
            for c in range(0, width, LANES):
                for n in range(size):
                    store(states, c * size + n * LANES, in_all_lanes(_ZERO))
                    rate = load_first(decay_rate, (k * size + n) * channels + c0 + c, width - c)
                    store(rates, c * size + n * LANES, rate)
            for t0 in range(0, length, chunk):
                count = min(chunk, length - t0)
                if starts.shape[0] > 0:
                    for n in range(size):
                        row = ((t0 // chunk * directions * batch + sample) * size + n) * channels + c0
                        for c in range(0, width, LANES):
                            store_first(starts, row + c, load(states, c * size + n * LANES), width - c)
                for t in range(count):
                    row = (sample * length + t0 + t) * channels + c0
                    for c in range(0, width, LANES):
                        at, of_channel = c * chunk + t * LANES, k * channels + c0 + c
                        u_t = load_first(u, row + c, width - c)
                        step = _softplus(
                            load_first(delta, row + c, width - c) + load_first(bias, of_channel, width - c)
                        )
                        store(steps, at, step)
                        store(vs, at, step * u_t)
                        store(sums, at, in_all_lanes(_ZERO))
                        # Writing it here as well lets the memory fetch the row while states are computed.
                        store_first(y, row + c, load_first(D, of_channel, width - c) * u_t, width - c)
                for c in range(0, width, LANES):
                    for n in range(size):
                        h, rate = load(states, c * size + n * LANES), load(rates, c * size + n * LANES)
                        for t in range(count):
                            at, weight = c * chunk + t * LANES, (sample * length + t0 + t) * size + n
                            h = exp2(load(steps, at) * rate) * h + load(vs, at) * number_at(B, weight)
                            store(sums, at, load(sums, at) + h * number_at(C, weight))
                        store(states, c * size + n * LANES, h)
                for t in range(count):
                    row = (sample * length + t0 + t) * channels + c0
                    for c in range(0, width, LANES):
                        skip = load_first(y, row + c, width - c)
                        store_first(y, row + c, skip + load(sums, c * chunk + t * LANES), width - c)


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
    directions, batch, length, channels = u.shape
    size = B.shape[3]
    groups = (channels + group_size - 1) // group_size
    group = (min(group_size, channels) + LANES - 1) // LANES * LANES
    tile = min(_TILE, group)
    steps, vs, grad_ys = buffer(chunk * tile), buffer(chunk * tile), buffer(chunk * tile)
    grad_vs, grad_steps = buffer(chunk * tile), buffer(chunk * tile)
    # Of one vector and one state: what it is before each step, and what is left of it by the step.
    states, decays = buffer(chunk * LANES), buffer(chunk * LANES)
    # Sums over the group's vectors, whose lanes remain to be summed.
    sums_B, sums_C = buffer(size * chunk * LANES), buffer(size * chunk * LANES)
    carries, sums_rate, sums_D = buffer(size * group), buffer(size * group), buffer(group)
    for task in range(first, last):
        sample = task // groups  # of all directions
        k, b, g = sample // batch, sample % batch, task % groups
        begin, end = g * group_size, min(channels, (g + 1) * group_size)
        carries[:] = _ZERO
        sums_rate[:] = _ZERO
        sums_D[:] = _ZERO
        for index in range((length + chunk - 1) // chunk - 1, -1, -1):
            t0 = index * chunk
            count = min(chunk, length - t0)
            sums_B[:] = _ZERO
            sums_C[:] = _ZERO
            for c0 in range(begin, end, tile):
                width = min(tile, end - c0)
                for t in range(count):
                    row = (sample * length + t0 + t) * channels + c0
                    for c in range(0, width, LANES):
                        at, in_group = c * chunk + t * LANES, c0 - begin + c
                        u_t, grad_y_t = load_first(u, row + c, width - c), load_first(grad_y, row + c, width - c)
                        step = _softplus(
                            load_first(delta, row + c, width - c) + load_first(bias, k * channels + c0 + c, width - c)
                        )
                        store(steps, at, step)
                        store(vs, at, step * u_t)
                        store(grad_ys, at, grad_y_t)
                        store(grad_vs, at, in_all_lanes(_ZERO))
                        store(grad_steps, at, in_all_lanes(_ZERO))
                        store(sums_D, in_group, load(sums_D, in_group) + grad_y_t * u_t)
                for c in range(0, width, LANES):
                    for n in range(size):
                        of_state = (k * size + n) * channels + c0 + c
                        in_group = (c0 - begin + c) * size + n * LANES
                        rate_n = load_first(decay_rate, of_state, width - c)
                        h = load_first(
                            starts, ((index * directions * batch + sample) * size + n) * channels + c0 + c, width - c
                        )
                        for t in range(count):
                            at, weight = c * chunk + t * LANES, (sample * length + t0 + t) * size + n
                            over_channels = (n * chunk + t) * LANES
                            decay = exp2(load(steps, at) * rate_n)
                            store(decays, t * LANES, decay)
                            store(states, t * LANES, h)
                            h = decay * h + load(vs, at) * number_at(B, weight)
                            store(sums_C, over_channels, load(sums_C, over_channels) + h * load(grad_ys, at))
                        rate_n = load_first(rate, of_state, width - c)
                        carry, sum_rate = load(carries, in_group), load(sums_rate, in_group)
                        for t in range(count - 1, -1, -1):
                            at, weight = c * chunk + t * LANES, (sample * length + t0 + t) * size + n
                            over_channels = (n * chunk + t) * LANES
                            # The adjoint of the recurrence, and the gradient of the exponent step * A.
                            adjoint = number_at(C, weight) * load(grad_ys, at) + carry
                            carry = load(decays, t * LANES) * adjoint
                            exponent = carry * load(states, t * LANES)
                            store(sums_B, over_channels, load(sums_B, over_channels) + adjoint * load(vs, at))
                            store(grad_vs, at, load(grad_vs, at) + adjoint * number_at(B, weight))
                            store(grad_steps, at, load(grad_steps, at) + exponent * rate_n)
                            sum_rate = sum_rate + exponent * load(steps, at)
                        store(carries, in_group, carry)
                        store(sums_rate, in_group, sum_rate)
                for t in range(count):
                    row = (sample * length + t0 + t) * channels + c0
                    for c in range(0, width, LANES):
                        at, of_channel = c * chunk + t * LANES, k * channels + c0 + c
                        grad_v, grad_y_t = load(grad_vs, at), load(grad_ys, at)
                        grad_u_t = grad_v * load(steps, at) + load_first(D, of_channel, width - c) * grad_y_t
                        store_first(grad_u, row + c, grad_u_t, width - c)
                        grad_step = load(grad_steps, at) + grad_v * load_first(u, row + c, width - c)
                        slope = sigmoid(load_first(delta, row + c, width - c) + load_first(bias, of_channel, width - c))
                        store_first(grad_delta, row + c, grad_step * slope, width - c)
            for t in range(count):
                for n in range(size):
                    grad_B[g, k, b, t0 + t, n] = total(load(sums_B, (n * chunk + t) * LANES))
                    grad_C[g, k, b, t0 + t, n] = total(load(sums_C, (n * chunk + t) * LANES))
        for c in range(0, end - begin, LANES):
            for n in range(size):
                of_sample = (sample * size + n) * channels + begin + c
                store_first(grad_rate, of_sample, load(sums_rate, c * size + n * LANES), end - begin - c)
            store_first(grad_D, sample * channels + begin + c, load(sums_D, c), end - begin - c)
