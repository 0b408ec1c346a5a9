"""The causal convolution before the selective scan, for all scan directions in one call."""

from torch import Tensor
from torch.nn import functional as F

from .selective_scan import scan_backend

try:  # a model's repository carries no compiled loops
    from .directional_convolution_native import directional_convolution_native
except ImportError:
    directional_convolution_native = None


def directional_convolution(x: Tensor, orders: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Reads the tokens in each direction's order, convolves every channel causally, and applies SiLU.

    With `s_t = x[orders[k, t]]`, and zeros before the first:

        u[k, t] = silu(bias[k] + sum_j weight[k, :, W - 1 - j] s_{t - j}).

    Args:
        x: tokens `(batch, length, channels)`.
        orders: for each direction the index of the token that it reads as its t-th, `(directions, length)`.
        weight: `(directions, channels, W)`.
        bias: `(directions, channels)`.

    Returns:
        `u` `(directions, batch, length, channels)`, the scan's input.

    Source: Mamba (Gu & Dao, 2023), section 3.4; CXPMRG-Bench for the four directions.
    """
    if scan_backend(x.device.type, x.dtype) == "native" and x.dtype == weight.dtype:
        return directional_convolution_native(x, orders, weight, bias)
    batch, length, _ = x.shape
    directions, channels, width = weight.shape
    # One grouped convolution over the channels of all directions is faster than one per direction.
    together = directions * channels
    ordered = x.transpose(1, 2)[..., orders].transpose(1, 2).reshape(batch, together, length)
    u = F.conv1d(ordered, weight.reshape(together, 1, width), bias.flatten(), padding=width - 1, groups=together)
    return F.silu(u[..., :length]).view(batch, directions, channels, length).permute(1, 0, 3, 2)


__all__ = ["directional_convolution"]
