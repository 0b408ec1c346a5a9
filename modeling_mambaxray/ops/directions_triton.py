"""The directional convolution and the merging of directions as Triton kernels, for float32, bfloat16 and float16 on a
GPU. Usable where the Triton scan is.

Shapes: K directions, B batch, L length, D channels, W kernel width.
"""

import torch
from torch import Tensor

# A tile: tokens and channels of a program, and its warps.
_TOKENS, _CHANNELS, _WARPS = 16, 128, 4


def _rows(x: Tensor) -> Tensor:
    """The tensor itself where its last axis lies together in memory, else a copy of which that is true."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _tiles(channels: int, length: int) -> tuple[int, int]:
    return -(-channels // _CHANNELS), -(-length // _TOKENS)


_TILE = {"T": _TOKENS, "BLOCK": _CHANNELS, "num_warps": _WARPS}


@torch.library.custom_op("mambaxray::directional_convolution_triton", mutates_args=())
def directional_convolution_triton(
    x: Tensor, orders: Tensor, inverse_orders: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """`directional_convolution` as a kernel. Shapes and meaning as there."""
    from . import directions_triton_kernels as kernels

    batch, length, channels = x.shape
    x, orders, bias, taps = _rows(x), orders.contiguous(), bias.contiguous(), weight.transpose(1, 2).contiguous()
    directions, width = taps.shape[:2]
    u = x.new_empty(directions, batch, length, channels)
    if u.numel():
        with torch.cuda.device_of(x):
            kernels.convolve[*_tiles(channels, length), directions * batch](
                x, orders, taps, bias, u, batch, length, channels, *x.stride()[:2], W=width, **_TILE
            )
    return u


@directional_convolution_triton.register_fake
def _(x: Tensor, orders: Tensor, inverse_orders: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(len(orders), *x.shape)


@torch.library.custom_op("mambaxray::directional_convolution_triton_backward", mutates_args=())
def _convolution_backward(
    grad_u: Tensor, x: Tensor, orders: Tensor, inverse_orders: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    from . import directions_triton_kernels as kernels

    batch, length, channels = x.shape
    grad_u, x, bias, taps = _rows(grad_u), _rows(x), bias.contiguous(), weight.transpose(1, 2).contiguous()
    orders, inverse_orders = orders.contiguous(), inverse_orders.contiguous()
    directions, width = taps.shape[:2]
    grad_x = x.new_empty(x.shape)
    if not grad_x.numel():
        return grad_x, *(torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (weight, bias))
    grad_total = grad_u.new_empty(grad_u.shape)
    # Summed below over the samples.
    grad_weight = x.new_empty(directions, batch, width, channels, dtype=torch.float32)
    grad_bias = x.new_empty(directions, batch, channels, dtype=torch.float32)
    blocks, rows = _tiles(channels, length)
    with torch.cuda.device_of(x):
        kernels.convolve_backward_weights[blocks, directions * batch](
            grad_u, x, orders, taps, bias, grad_total, grad_weight, grad_bias,
            batch, length, channels, *grad_u.stride()[:3], *x.stride()[:2],
            W=width, **_TILE | {"T": _TOKENS // 2},  # it has many sums in registers
        )  # fmt: skip
        kernels.convolve_backward_tokens[blocks, rows, batch](
            grad_total, inverse_orders, taps, grad_x, directions, batch, length, channels, W=width, **_TILE
        )
    grad_weight = grad_weight.sum(1).transpose(1, 2).contiguous().to(weight.dtype)
    return grad_x, grad_weight, grad_bias.sum(1).to(bias.dtype)


@_convolution_backward.register_fake
def _(
    grad_u: Tensor, x: Tensor, orders: Tensor, inverse_orders: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, weight, bias))


def _keep_inputs(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_convolution(ctx, grad_u: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_weight, grad_bias = _convolution_backward(grad_u, *ctx.saved_tensors)
    return grad_x, None, None, grad_weight, grad_bias


directional_convolution_triton.register_autograd(_differentiate_convolution, setup_context=_keep_inputs)


@torch.library.custom_op("mambaxray::merge_directions_triton", mutates_args=())
def merge_directions_triton(scanned: Tensor, gate: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
    """`merge_directions` as a kernel. Shapes and meaning as there."""
    from . import directions_triton_kernels as kernels

    directions, batch, length, channels = scanned.shape
    scanned, gate, inverse_orders = _rows(scanned), _rows(gate), inverse_orders.contiguous()
    out = gate.new_empty(gate.shape)
    if out.numel():
        with torch.cuda.device_of(gate):
            kernels.merge[*_tiles(channels, length), batch](
                scanned, gate, inverse_orders, out, directions, length, channels, 1.0 / directions,
                *scanned.stride()[:3], *gate.stride()[:2], **_TILE,
            )  # fmt: skip
    return out


@merge_directions_triton.register_fake
def _(scanned: Tensor, gate: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


@torch.library.custom_op("mambaxray::merge_directions_triton_backward", mutates_args=())
def _merge_backward(grad: Tensor, scanned: Tensor, gate: Tensor, inverse_orders: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of scanned and gate."""
    from . import directions_triton_kernels as kernels

    directions, batch, length, channels = scanned.shape
    grad, scanned, gate, inverse_orders = _rows(grad), _rows(scanned), _rows(gate), inverse_orders.contiguous()
    grad_scanned, grad_gate = scanned.new_empty(scanned.shape), gate.new_empty(gate.shape)
    if grad.numel():
        with torch.cuda.device_of(gate):
            kernels.merge_backward[*_tiles(channels, length), batch](
                grad, scanned, gate, inverse_orders, grad_scanned, grad_gate,
                directions, length, channels, 1.0 / directions,
                *grad.stride()[:2], *scanned.stride()[:3], *gate.stride()[:2], **_TILE,
            )  # fmt: skip
    return grad_scanned, grad_gate


@_merge_backward.register_fake
def _(grad: Tensor, scanned: Tensor, gate: Tensor, inverse_orders: Tensor) -> tuple[Tensor, Tensor]:
    return scanned.new_empty(scanned.shape), gate.new_empty(gate.shape)


def _differentiate_merge(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    scanned, gate, _, inverse_orders = ctx.saved_tensors
    return *_merge_backward(grad, scanned, gate, inverse_orders), None, None


merge_directions_triton.register_autograd(_differentiate_merge, setup_context=_keep_inputs)

__all__ = ["directional_convolution_triton", "merge_directions_triton"]
