"""How the scans of a vision Mamba start."""

import math

import torch
from torch import Tensor
from transformers import initialization as init


@torch.no_grad()
def init_state_space(
    a_log: Tensor, d: Tensor, step_bias: Tensor, *, time_step_min: float, time_step_max: float
) -> None:
    """Starts a selective scan with S4D-real decays, and step sizes log-uniform in [time_step_min, time_step_max].

    Args:
        a_log: logarithms of the decays, `(channels, state_size)`.
        d: skip, of any shape.
        step_bias: bias of the step sizes before their softplus, of any shape.
        time_step_min: smallest step size.
        time_step_max: largest step size.

    Source: Mamba (Gu and Dao, 2023), section 3.6.
    """
    init.copy_(a_log, torch.arange(1, a_log.shape[1] + 1).float().log().expand_as(a_log))
    init.ones_(d)
    low, high = math.log(time_step_min), math.log(time_step_max)
    step = torch.exp(torch.rand(step_bias.shape) * (high - low) + low)
    init.copy_(step_bias, step + torch.log(-torch.expm1(-step)))  # the inverse of softplus


__all__ = ["init_state_space"]
