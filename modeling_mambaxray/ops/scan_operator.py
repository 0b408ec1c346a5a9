"""Makes operators of PyTorch out of the two passes of a scan: with shapes for the compiler, and with gradients.

Shapes: K directions, B batch, L length, D channels, N state.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Forward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]
Backward = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]


def scan_operator(
    name: str,
    forward: Forward,
    backward: Backward,
    count_chunks: Callable[[int, int, int, int, int], int],
    device_types: str | None = None,
) -> Callable[..., Tensor]:
    """Registers `mambaxray::{name}` and `mambaxray::{name}_backward` with `torch.library`.

    Args:
        name: the operator's name.
        forward: takes `u`, `delta`, `A`, `B`, `C`, `D` and `delta_bias` as `selective_scan` does, and whether a
            backward pass may follow. Gives the output, shaped and typed as `u`, and the states before each chunk of
            time, `(chunks, K, B, N, D)` in float32 or float64; no chunks when no backward pass follows.
        backward: takes the output's gradient, those states and the inputs, and gives the gradients of all inputs but
            `delta_bias`, each shaped and typed as its input, contiguous.
        count_chunks: number of chunks, given the numbers of directions, samples, steps, channels and states.
        device_types: the kind of device that the two run on; any when not given.

    Returns:
        The scan as a function of the seven tensors; `delta_bias` may be left out.
    """
    forward_op = torch.library.custom_op(f"mambaxray::{name}", forward, mutates_args=(), device_types=device_types)
    backward_op = torch.library.custom_op(
        f"mambaxray::{name}_backward", backward, mutates_args=(), device_types=device_types
    )

    @forward_op.register_fake
    def _(u, delta, A, B, C, D, delta_bias, keep_states):
        directions, batch, _, channels = u.shape
        chunks = count_chunks(*u.shape, A.shape[-1]) if keep_states else 0
        starts = u.new_empty(chunks, directions, batch, A.shape[-1], channels, dtype=state_dtype(u))
        return torch.empty_like(u, memory_format=torch.contiguous_format), starts

    @backward_op.register_fake
    def _(grad_y, starts, u, delta, A, B, C, D, delta_bias):
        return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta, A, B, C, D))

    def keep_for_backward(ctx, inputs, output):
        *tensors, _ = inputs
        ctx.save_for_backward(output[1], *tensors)
        ctx.set_materialize_grads(False)  # else zeros as large as the kept states, for the gradient that nobody has

    def differentiate(ctx, grad_y, _grad_starts):
        if grad_y is None:
            return (None,) * 8
        saved = ctx.saved_tensors  # once only: activation checkpointing computes them at this word
        gradients = backward_op(grad_y, *saved)
        # delta_bias is added to delta, so its gradient is that of delta, summed.
        grad_bias = None
        if ctx.needs_input_grad[6]:
            grad_bias = gradients[1].sum((1, 2), dtype=saved[-1].dtype)
        return *gradients, grad_bias, None

    forward_op.register_autograd(differentiate, setup_context=keep_for_backward)

    def scan(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor | None = None
    ) -> Tensor:
        tensors = (u, delta, A, B, C, D, torch.zeros_like(D) if delta_bias is None else delta_bias)
        keep_states = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        y, _ = forward_op(*tensors, keep_states)
        return y

    return scan


def state_dtype(u: Tensor) -> torch.dtype:
    """The type in which the state of a scan of `u` is kept: float32, or float64 for float64."""
    return torch.promote_types(u.dtype, torch.float32)


__all__ = ["scan_operator", "state_dtype"]
