"""The selective scan by the CUDA kernel of the package mamba-ssm, where that is installed.

Shapes: K directions, B batch, L length, D channels, N state.
"""

import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

# Without the variable, versions from 2.3 on leave out the kernel of Mamba-1. It is compiled against the torch that is
# there.
HOW_TO_INSTALL = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install mamba-ssm --no-build-isolation --no-cache-dir"


@functools.cache
def mamba_ssm_problem() -> str:
    """Why the package's kernel can't be used here; empty when it can."""
    # Since version 2.3 the package can be there without the kernel, which is a module of its own.
    for name in ("mamba_ssm", "selective_scan_cuda"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed; build it by `{HOW_TO_INSTALL}`"
    if not torch.cuda.is_available():
        return "there is no GPU"
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"mamba_ssm can't be imported ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
    return ""


def _not_compiled(scan: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keeps `torch.compile` out of a function, where it can run at all: to say so loads the compiler, which takes as
    long as torch itself."""
    return scan if importlib.util.find_spec("mamba_ssm") is None else torch.compiler.disable(scan)


@_not_compiled
def selective_scan_mamba_ssm(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor | None = None,
) -> Tensor:
    """`selective_scan` by mamba-ssm. Shapes and meaning as there; all tensors float32 and on the GPU.

    The kernel wants `(B, channels, L)`. The directions become groups of channels, each with its own `B` and `C`.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    directions, batch, length, channels = u.shape
    if u.numel() == 0:
        return u * D[:, None, None]
    u, delta = (x.permute(1, 0, 3, 2).reshape(batch, directions * channels, length) for x in (u, delta))
    B, C = (x.permute(1, 0, 3, 2).contiguous() for x in (B, C))  # (B, K, N, L)
    A, D = A.flatten(0, 1).contiguous(), D.flatten()
    bias = None if delta_bias is None else delta_bias.flatten()
    y = selective_scan_fn(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True)
    return y.view(batch, directions, channels, length).permute(1, 0, 3, 2)
