"""What stands before and behind the selective scans of several directions, for all of them in one call.

Shapes: K directions, B batch, L length, D channels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .scan_operator import state_dtype
from .selective_scan import BACKENDS, scan_backend
from .token_orders import sum_over_orders, take_in_orders


def directional_convolution(
    x: Tensor, orders: Tensor, weight: Tensor, bias: Tensor, inverse_orders: Tensor | None = None
) -> Tensor:
    """Reads the tokens in each direction's order, convolves every channel causally, and applies SiLU.

    With `s_t = x[orders[k, t]]`, and zeros before the first:

        u[k, t] = silu(bias[k] + sum_j weight[k, :, W - 1 - j] s_{t - j}).

    Args:
        x: tokens `(batch, length, channels)`.
        orders: for each direction the index of the token that it reads as its t-th, `(directions, length)`; each row is
            a permutation.
        weight: `(directions, channels, W)`.
        bias: `(directions, channels)`.
        inverse_orders: the inverses of the orders, `(directions, length)`; computed when not given.

    Returns:
        `u` `(directions, batch, length, channels)`, the scan's input.

    Source: Mamba (Gu & Dao, 2023), section 3.4; CXPMRG-Bench for the four directions.
    """
    if inverse_orders is None:
        inverse_orders = orders.argsort(dim=-1)
    backend = BACKENDS[scan_backend(x.device.type, state_dtype(x))]
    fits = backend.reads_half or x.dtype == weight.dtype == torch.float32
    convolve = backend.convolve if backend.convolve and fits else directional_convolution_torch
    return convolve(x, orders, inverse_orders, weight, bias)


def directional_convolution_torch(
    x: Tensor, orders: Tensor, inverse_orders: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """`directional_convolution` in PyTorch alone. Shapes and meaning as there."""
    batch, length, _ = x.shape
    directions, channels, width = weight.shape
    # One grouped convolution over the channels of all directions is faster than one per direction.
    together = directions * channels
    ordered = take_in_orders(x, orders, inverse_orders).permute(1, 0, 3, 2).reshape(batch, together, length)
    u = F.conv1d(ordered, weight.reshape(together, 1, width), bias.flatten(), padding=width - 1, groups=together)
    return F.silu(u[..., :length]).view(batch, directions, channels, length).permute(1, 0, 3, 2)


def merge_directions(scanned: Tensor, gate: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
    """The mean over the directions of what was scanned, in raster order, under the gate.

        out[i] = silu(gate[i]) mean_k scanned[k, inverse_orders[k, i]]

    The gate commutes with undoing the orders, so it is applied once.

    Args:
        scanned: `(directions, batch, length, channels)`, each direction in its order.
        gate: `(batch, length, channels)`, in raster order.
        orders: `(directions, length)`, each row a permutation.
        inverse_orders: their inverses.

    Returns:
        `(batch, length, channels)`, typed as the gate.
    """
    backend = BACKENDS[scan_backend(gate.device.type, state_dtype(gate))]
    merge = backend.merge or merge_directions_torch
    return merge(scanned, gate, orders, inverse_orders)


def merge_directions_torch(scanned: Tensor, gate: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
    """`merge_directions` in PyTorch alone. Shapes and meaning as there."""
    return sum_over_orders(scanned, orders, inverse_orders) * (F.silu(gate) / len(scanned))


__all__ = ["directional_convolution", "merge_directions"]
