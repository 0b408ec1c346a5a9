"""The compiled loops of the `native` directional convolution. Importing this module needs numba and compiles them.

A task is one sample and one block of channels; its directions are done one after another, so that the gradient of the
tokens, which all directions share, is summed in a fixed order.

Shapes: K directions, B batch, L length, D channels, W kernel width.
"""

import numpy as np
from numba import types

from .selective_scan_kernels import compile_kernel, sigmoid

BLOCK = 128
"""Channels of a task."""

_ZERO, _ONE = np.float32(0), np.float32(1)
_int = types.intp
_i2 = types.Array(types.int64, 2, "C")
_f2, _f3, _f4 = (types.Array(types.float32, ndim, "C") for ndim in (2, 3, 4))


@compile_kernel(types.void(_int, _int, _f3, _i2, _f3, _f2, _f4))
def forward(first, last, x, orders, weight, bias, u):
    """Fills `u (K, B, L, D)` from `x (B, L, D)`, `orders (K, L)`, `weight (K, W, D)` and `bias (K, D)`."""
    directions, length = orders.shape
    channels = x.shape[2]
    kernel = weight.shape[1]
    blocks = (channels + BLOCK - 1) // BLOCK
    total = np.empty(BLOCK, np.float32)
    for task in range(first, last):
        b = task // blocks
        start = task % blocks * BLOCK
        end = min(channels, start + BLOCK)
        width = end - start
        for k in range(directions):
            bias_k = bias[k][start:end]
            for t in range(length):
                for c in range(width):
                    total[c] = bias_k[c]
                for j in range(min(kernel, t + 1)):
                    tap, token = weight[k, kernel - 1 - j][start:end], x[b, orders[k, t - j]][start:end]
                    for c in range(width):
                        total[c] += tap[c] * token[c]
                out = u[k, b, t][start:end]
                for c in range(width):
                    out[c] = total[c] * sigmoid(total[c])


@compile_kernel(types.void(_int, _int, _f4, _f3, _i2, _f3, _f2, _f3, _f4, _f3))
def backward(first, last, grad_u, x, orders, weight, bias, grad_x, grad_weight, grad_bias):
    """Fills `grad_x (B, L, D)`, and the gradients of weight and bias in parts per sample that remain to be summed:
    `grad_weight (B, K, W, D)`, `grad_bias (B, K, D)`."""
    directions, length = orders.shape
    channels = x.shape[2]
    kernel = weight.shape[1]
    blocks = (channels + BLOCK - 1) // BLOCK
    total = np.empty(BLOCK, np.float32)
    for task in range(first, last):
        b = task // blocks
        start = task % blocks * BLOCK
        end = min(channels, start + BLOCK)
        width = end - start
        for t in range(length):
            grad_x[b, t][start:end] = _ZERO
        for k in range(directions):
            bias_k, sum_bias = bias[k][start:end], grad_bias[b, k][start:end]
            sum_bias[:] = _ZERO
            for j in range(kernel):
                grad_weight[b, k, j][start:end] = _ZERO
            for t in range(length):
                for c in range(width):
                    total[c] = bias_k[c]
                for j in range(min(kernel, t + 1)):
                    tap, token = weight[k, kernel - 1 - j][start:end], x[b, orders[k, t - j]][start:end]
                    for c in range(width):
                        total[c] += tap[c] * token[c]
                grad_out = grad_u[k, b, t][start:end]
                for c in range(width):
                    s = sigmoid(total[c])
                    total[c] = grad_out[c] * s * (_ONE + total[c] * (_ONE - s))
                for c in range(width):
                    sum_bias[c] += total[c]
                for j in range(min(kernel, t + 1)):
                    source = orders[k, t - j]
                    tap, sum_tap = weight[k, kernel - 1 - j][start:end], grad_weight[b, k, kernel - 1 - j][start:end]
                    token, grad_token = x[b, source][start:end], grad_x[b, source][start:end]
                    for c in range(width):
                        grad_token[c] += total[c] * tap[c]
                    for c in range(width):
                        sum_tap[c] += total[c] * token[c]
