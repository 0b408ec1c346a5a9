"""The GPU kernels around the scan: tokens are convolved in the order of each direction, and the directions' results are
summed in raster order under the gate. Importing this module needs triton.

Both read rows of channels by the index that an order gives, so nothing is copied into another order or layout. A
program works on a tile of tokens and neighbouring channels.

Shapes: K directions, B batch, L length, D channels, W kernel width. Strides are in elements; the last axis of every
tensor has stride 1, and tensors without strides are contiguous.
"""

import math

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * _LOG2_E))


@triton.jit
def _load_token(x_ptr, orders_ptr, times, columns, inside, length, x_t):
    """The tokens that a direction reads at some times; zeros before the first one."""
    there = (times >= 0) & (times < length)
    rows = tl.load(orders_ptr + times, mask=there, other=0)
    return tl.load(x_ptr + rows[:, None] * x_t + columns[None, :], mask=inside & there[:, None], other=0.0).to(
        tl.float32
    )


@triton.jit
def convolve(
    x_ptr, orders_ptr, weight_ptr, bias_ptr, u_ptr,
    batch, length, channels, x_b, x_t,
    W: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fills `u (K, B, L, D)` from `x (B, L, D)`, `orders (K, L)`, `weight (K, W, D)` and `bias (K, D)`."""
    pair = tl.program_id(2).to(tl.int64)
    k, b = pair // batch, pair % batch
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    times = tl.program_id(1) * T + tl.arange(0, T)
    present = columns < channels
    inside = (times < length)[:, None] & present[None, :]
    bias = tl.load(bias_ptr + k * channels + columns, mask=present, other=0.0).to(tl.float32)
    total = tl.zeros([T, BLOCK], tl.float32) + bias[None, :]
    for j in tl.static_range(W):
        tap = tl.load(weight_ptr + (k * W + W - 1 - j) * channels + columns, mask=present, other=0.0).to(tl.float32)
        token = _load_token(x_ptr + b * x_b, orders_ptr + k * length, times - j, columns, inside, length, x_t)
        total += tap[None, :] * token
    cells = (pair * length + times[:, None]) * channels + columns[None, :]
    tl.store(u_ptr + cells, (total * _sigmoid(total)).to(u_ptr.dtype.element_ty), mask=inside)


@triton.jit
def convolve_backward_weights(
    grad_u_ptr, x_ptr, orders_ptr, weight_ptr, bias_ptr, grad_total_ptr, grad_weight_ptr, grad_bias_ptr,
    batch, length, channels, grad_u_k, grad_u_b, grad_u_t, x_b, x_t,
    W: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fills the gradient before the activation, `grad_total (K, B, L, D)`, and those of weight and bias in parts per
    sample that remain to be summed, float32: `grad_weight (K, B, W, D)` and `grad_bias (K, B, D)`."""
    pair = tl.program_id(1).to(tl.int64)
    k, b = pair // batch, pair % batch
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    present = columns < channels
    x_ptr += b * x_b
    orders_ptr += k * length
    bias = tl.load(bias_ptr + k * channels + columns, mask=present, other=0.0).to(tl.float32)
    sums = ()
    for _ in tl.static_range(W + 1):
        sums = sums + (tl.zeros([T, BLOCK], tl.float32),)
    for first in range(0, length, T):
        times = first + tl.arange(0, T)
        inside = (times < length)[:, None] & present[None, :]
        total = tl.zeros([T, BLOCK], tl.float32) + bias[None, :]
        tokens = ()
        for j in tl.static_range(W):
            tap = tl.load(weight_ptr + (k * W + W - 1 - j) * channels + columns, mask=present, other=0.0)
            token = _load_token(x_ptr, orders_ptr, times - j, columns, inside, length, x_t)
            total += tap.to(tl.float32)[None, :] * token
            tokens = tokens + (token,)
        place = grad_u_ptr + k * grad_u_k + b * grad_u_b + times[:, None] * grad_u_t + columns[None, :]
        grad = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        s = _sigmoid(total)
        grad = grad * s * (1.0 + total * (1.0 - s))
        cells = (pair * length + times[:, None]) * channels + columns[None, :]
        tl.store(grad_total_ptr + cells, grad.to(grad_total_ptr.dtype.element_ty), mask=inside)
        added = ()
        for j in tl.static_range(W):
            added = added + (sums[j] + grad * tokens[j],)
        sums = added + (sums[W] + grad,)
    for j in tl.static_range(W):
        place = grad_weight_ptr + (pair * W + W - 1 - j) * channels + columns
        tl.store(place, tl.sum(sums[j], 0), mask=present)
    tl.store(grad_bias_ptr + pair * channels + columns, tl.sum(sums[W], 0), mask=present)


@triton.jit
def convolve_backward_tokens(
    grad_total_ptr, inverse_ptr, weight_ptr, grad_x_ptr,
    directions, batch, length, channels,
    W: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fills `grad_x (B, L, D)` from what `convolve_backward_weights` left, `inverse (K, L)` and `weight (K, W, D)`."""
    b = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tokens = tl.program_id(1) * T + tl.arange(0, T)
    present, here = columns < channels, tokens < length
    total = tl.zeros([T, BLOCK], tl.float32)
    for k in range(directions):
        times = tl.load(inverse_ptr + k * length + tokens, mask=here, other=length)
        for j in tl.static_range(W):
            tap = tl.load(weight_ptr + (k * W + W - 1 - j) * channels + columns, mask=present, other=0.0)
            inside = (times + j < length)[:, None] & present[None, :]
            cells = ((k * batch + b) * length + times[:, None] + j) * channels + columns[None, :]
            grad = tl.load(grad_total_ptr + cells, mask=inside, other=0.0)
            total += tap.to(tl.float32)[None, :] * grad.to(tl.float32)
    cells = (b * length + tokens[:, None]) * channels + columns[None, :]
    tl.store(grad_x_ptr + cells, total.to(grad_x_ptr.dtype.element_ty), mask=here[:, None] & present[None, :])


@triton.jit
def merge(
    y_ptr, gate_ptr, inverse_ptr, out_ptr,
    directions, length, channels, scale, y_k, y_b, y_t, gate_b, gate_t,
    T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fills `out (B, L, D)`: the sum over the directions of `y (K, B, L, D)`, in raster order, times `silu(gate)` and
    `scale`."""
    b = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tokens = tl.program_id(1) * T + tl.arange(0, T)
    here = tokens < length
    inside = here[:, None] & (columns < channels)[None, :]
    y_ptr += b * y_b
    total = tl.zeros([T, BLOCK], tl.float32)
    for _ in range(directions):
        times = tl.load(inverse_ptr + tokens, mask=here, other=0)
        total += tl.load(y_ptr + times[:, None] * y_t + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        inverse_ptr += length
        y_ptr += y_k
    place = gate_ptr + b * gate_b + tokens[:, None] * gate_t + columns[None, :]
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    out = total * gate * _sigmoid(gate) * scale
    cells = (b * length + tokens[:, None]) * channels + columns[None, :]
    tl.store(out_ptr + cells, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def merge_backward(
    grad_ptr, y_ptr, gate_ptr, inverse_ptr, grad_y_ptr, grad_gate_ptr,
    directions, length, channels, scale, grad_b, grad_t, y_k, y_b, y_t, gate_b, gate_t,
    T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fills `grad_y (K, B, L, D)`, in the directions' orders, and `grad_gate (B, L, D)`."""
    b = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tokens = tl.program_id(1) * T + tl.arange(0, T)
    here = tokens < length
    inside = here[:, None] & (columns < channels)[None, :]
    place = grad_ptr + b * grad_b + tokens[:, None] * grad_t + columns[None, :]
    grad = tl.load(place, mask=inside, other=0.0).to(tl.float32) * scale
    place = gate_ptr + b * gate_b + tokens[:, None] * gate_t + columns[None, :]
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    s = _sigmoid(gate)
    grad_y = (grad * gate * s).to(grad_y_ptr.dtype.element_ty)
    y_ptr += b * y_b
    grad_y_ptr += b * length * channels
    direction = tl.num_programs(2).to(tl.int64) * length * channels
    total = tl.zeros([T, BLOCK], tl.float32)
    for _ in range(directions):
        times = tl.load(inverse_ptr + tokens, mask=here, other=0)
        total += tl.load(y_ptr + times[:, None] * y_t + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_y_ptr + times[:, None] * channels + columns[None, :], grad_y, mask=inside)
        inverse_ptr += length
        y_ptr += y_k
        grad_y_ptr += direction
    grad_gate = grad * total * s * (1.0 + gate * (1.0 - s))
    cells = (b * length + tokens[:, None]) * channels + columns[None, :]
    tl.store(grad_gate_ptr + cells, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=inside)
