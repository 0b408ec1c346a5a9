"""The selective scan as its equations say, one step after the other: for tests and for reading."""

import torch
from torch import Tensor
from torch.nn import functional as F


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor | None = None,
) -> Tensor:
    """`selective_scan` in plain autograd operations. Shapes and meaning as there; computes in `u`'s own dtype."""
    step = F.softplus(delta if delta_bias is None else delta + delta_bias[:, None, None])
    decay = A[:, None]  # (directions, 1, channels, state)
    state = u.new_zeros(u.shape[0], u.shape[1], u.shape[3], A.shape[-1])
    outputs = []
    for u_t, step_t, B_t, C_t in zip(u.unbind(2), step.unbind(2), B.unbind(2), C.unbind(2), strict=True):
        state = torch.exp(step_t[..., None] * decay) * state + (step_t * u_t)[..., None] * B_t[..., None, :]
        outputs.append((state * C_t[..., None, :]).sum(-1))
    y = torch.stack(outputs, dim=2) if outputs else torch.zeros_like(u)
    return y + u * D[:, None, None]
