"""Weights that are read without calling their module.

Where a model is larger than its device, accelerate keeps weights elsewhere, and brings those of a module for a call.
"""

from torch import nn


def bring_weights(module: nn.Module) -> None:
    """Brings a module's own weights, as for a call, where they lie elsewhere."""
    if (hook := getattr(module, "_hf_hook", None)) is not None:
        hook.pre_forward(module)


def put_weights_back(module: nn.Module) -> None:
    """Undoes `bring_weights`."""
    if (hook := getattr(module, "_hf_hook", None)) is not None:
        hook.post_forward(module, None)


__all__ = ["bring_weights", "put_weights_back"]
