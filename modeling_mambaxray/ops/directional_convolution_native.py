"""The directional convolution as compiled loops, for float32 on the CPU. Needs numba, as the native scan does.

Shapes: K directions, B batch, L length, D channels, W kernel width.
"""

import functools
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from .selective_scan_native import channel_groups, run_kernel


@functools.cache
def _kernels() -> ModuleType:
    from . import directional_convolution_kernels

    return directional_convolution_kernels


def _run(kernel: Callable[..., None], x: Tensor, *arguments: Tensor) -> None:
    groups, group_size = channel_groups(x.shape[0], x.shape[2], torch.get_num_threads())
    run_kernel(kernel, x.shape[0] * groups, group_size, *arguments)


@torch.library.custom_op("mambaxray::directional_convolution", mutates_args=(), device_types="cpu")
def directional_convolution_native(
    x: Tensor, orders: Tensor, inverse_orders: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """`directional_convolution` in compiled loops. Shapes and meaning as there; float32 and on the CPU."""
    x, orders = x.contiguous(), orders.contiguous()
    u = x.new_empty(len(orders), *x.shape)
    weight = weight.transpose(1, 2).contiguous()
    _run(_kernels().forward, x, x, orders, weight, bias.contiguous(), u)
    return u


@directional_convolution_native.register_fake
def _(x: Tensor, orders: Tensor, inverse_orders: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(len(orders), *x.shape)


@torch.library.custom_op("mambaxray::directional_convolution_backward", mutates_args=(), device_types="cpu")
def _backward_op(
    grad_u: Tensor, x: Tensor, orders: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    grad_u, x, orders, bias = (tensor.contiguous() for tensor in (grad_u, x, orders, bias))
    weight = weight.transpose(1, 2).contiguous()
    grad_x = torch.empty_like(x)
    grad_weight = x.new_empty(len(x), *weight.shape)
    grad_bias = x.new_empty(len(x), *bias.shape)
    inputs = (grad_u, x, orders, weight, bias)
    _run(_kernels().backward, x, *inputs, grad_x, grad_weight, grad_bias)
    return grad_x, grad_weight.sum(0).transpose(1, 2).contiguous(), grad_bias.sum(0)


@_backward_op.register_fake
def _(grad_u: Tensor, x: Tensor, orders: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, weight, bias))


def _keep_for_backward(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    x, orders, _, weight, bias = inputs
    ctx.save_for_backward(x, orders, weight, bias)


def _backward(ctx, grad_u: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_weight, grad_bias = _backward_op(grad_u, *ctx.saved_tensors)
    return grad_x, None, None, grad_weight, grad_bias


directional_convolution_native.register_autograd(_backward, setup_context=_keep_for_backward)
