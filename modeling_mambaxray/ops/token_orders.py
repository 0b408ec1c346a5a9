"""Tokens read in the orders of several scan directions, and put back, in PyTorch alone.

An order visits every token once, so both ways are gathers, and each is the gradient of the other: nothing is scattered
and nothing accumulates by index.

Shapes: K directions, B batch, L length, D channels.
"""

import torch
from torch import Tensor


@torch.library.custom_op("mambaxray::take_in_orders", mutates_args=())
def take_in_orders(x: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
    """Tokens `x (B, L, D)` in each order: `y[k, :, t] = x[:, orders[k, t]]`, `(K, B, L, D)`.

    Args:
        x: tokens.
        orders: `(K, L)`, each row a permutation.
        inverse_orders: their inverses, `(K, L)`.
    """
    taken = x.new_empty(len(orders), *x.shape)
    for order, out in zip(orders, taken, strict=True):
        torch.index_select(x, 1, order, out=out)
    return taken


@torch.library.custom_op("mambaxray::sum_over_orders", mutates_args=())
def sum_over_orders(y: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
    """The sum of what each order has of a token: `x[:, i] = sum_k y[k, :, inverse_orders[k, i]]`, `(B, L, D)`.

    Arguments as in `take_in_orders`, whose gradient it is.
    """
    total = y[0].index_select(1, inverse_orders[0])
    for tokens, inverse in zip(y[1:], inverse_orders[1:], strict=True):
        total += tokens.index_select(1, inverse)
    return total


@take_in_orders.register_fake
def _(x: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
    return x.new_empty(len(orders), *x.shape)


@sum_over_orders.register_fake
def _(y: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
    return y.new_empty(y.shape[1:])


def _keep_orders(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _differentiate_taking(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return sum_over_orders(grad, *ctx.saved_tensors), None, None


def _differentiate_sum(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return take_in_orders(grad, *ctx.saved_tensors), None, None


take_in_orders.register_autograd(_differentiate_taking, setup_context=_keep_orders)
sum_over_orders.register_autograd(_differentiate_sum, setup_context=_keep_orders)

__all__ = ["sum_over_orders", "take_in_orders"]
