"""Operators for which the processor waits for a GPU, counted on a CPU."""

import torch

# Operators that give the processor a value, or a shape that depends on values.
_WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique", "item"}


def gives_the_processor_a_value(function, args):
    """Whether a call of an operator, as a `TorchDispatchMode` sees it, waits for the device."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else []
    # A mask as an index is first turned into numbers.
    is_mask = any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in indices)
    return is_mask or str(function).split(".")[1] in _WAITING
