"""The compiled loops of the `native` directional convolution. Importing this module needs numba and compiles them.

A task is one sample and one group of `group_size` channels; its directions are done one after another, so that the
gradient of the tokens, which all directions share, is summed in a fixed order.

Shapes: K directions, B batch, L length, D channels, W kernel width.
"""

import numpy as np
from numba import njit, types

from .compiled_vectors import LANES, OPTIONS, load_first, store_first
from .selective_scan_kernels import compile_kernel, sigmoid

_ZERO, _ONE = np.float32(0), np.float32(1)
_int = types.intp
_i2 = types.Array(types.int64, 2, "C")
_f2, _f3, _f4 = (types.Array(types.float32, ndim, "C") for ndim in (2, 3, 4))


@njit(**OPTIONS)
def _convolve(x, orders, weight, bias, k, b, t, c, end):
    """Channels from `c` to `end`, at most a vector, of the convolution at one direction, sample and time step."""
    length, channels, kernel = orders.shape[1], x.shape[2], weight.shape[1]
    total = load_first(bias, k * channels + c, end - c)
    for j in range(min(kernel, t + 1)):
        tap = load_first(weight, (k * kernel + kernel - 1 - j) * channels + c, end - c)
        token = load_first(x, (b * length + orders[k, t - j]) * channels + c, end - c)
        total = total + tap * token
    return total


@compile_kernel(types.void(_int, _int, _int, _f3, _i2, _f3, _f2, _f4))
def forward(first, last, group_size, x, orders, weight, bias, u):
    """Fills `u (K, B, L, D)` from `x (B, L, D)`, `orders (K, L)`, `weight (K, W, D)` and `bias (K, D)`."""
    directions, length = orders.shape
    batch, _, channels = x.shape
    groups = (channels + group_size - 1) // group_size
    for task in range(first, last):
        b = task // groups
        begin, end = task % groups * group_size, min(channels, (task % groups + 1) * group_size)
        for k in range(directions):
            for t in range(length):
                for c in range(begin, end, LANES):
                    total = _convolve(x, orders, weight, bias, k, b, t, c, end)
                    store_first(u, ((k * batch + b) * length + t) * channels + c, total * sigmoid(total), end - c)


@compile_kernel(types.void(_int, _int, _int, _f4, _f3, _i2, _f3, _f2, _f3, _f4, _f3))
def backward(first, last, group_size, grad_u, x, orders, weight, bias, grad_x, grad_weight, grad_bias):
    """Fills `grad_x (B, L, D)`, and the gradients of weight and bias in parts per sample that remain to be summed:
    `grad_weight (B, K, W, D)`, `grad_bias (B, K, D)`."""
    directions, length = orders.shape
    batch, _, channels = x.shape
    kernel = weight.shape[1]
    groups = (channels + group_size - 1) // group_size
    for task in range(first, last):
        b = task // groups
        begin, end = task % groups * group_size, min(channels, (task % groups + 1) * group_size)
        for t in range(length):
            grad_x[b, t][begin:end] = _ZERO
        for k in range(directions):
            grad_bias[b, k][begin:end] = _ZERO
            for j in range(kernel):
                grad_weight[b, k, j][begin:end] = _ZERO
            for t in range(length):
                for c in range(begin, end, LANES):
                    total = _convolve(x, orders, weight, bias, k, b, t, c, end)
                    s = sigmoid(total)
                    grad = load_first(grad_u, ((k * batch + b) * length + t) * channels + c, end - c)
                    grad = grad * s * (_ONE + total * (_ONE - s))
                    of_bias = (b * directions + k) * channels + c
                    store_first(grad_bias, of_bias, load_first(grad_bias, of_bias, end - c) + grad, end - c)
                    for j in range(min(kernel, t + 1)):
                        of_tap = kernel - 1 - j
                        tap = load_first(weight, (k * kernel + of_tap) * channels + c, end - c)
                        token = (b * length + orders[k, t - j]) * channels + c
                        grad_token = load_first(grad_x, token, end - c) + grad * tap
                        store_first(grad_x, token, grad_token, end - c)
                        of_tap = ((b * directions + k) * kernel + of_tap) * channels + c
                        grad_tap = load_first(grad_weight, of_tap, end - c) + grad * load_first(x, token, end - c)
                        store_first(grad_weight, of_tap, grad_tap, end - c)
