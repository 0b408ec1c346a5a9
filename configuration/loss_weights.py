"""Weights of a model's named losses."""

import math
from collections.abc import Mapping, Sequence


def check_loss_weights(weights: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    """The weights by the names of the losses, as a dict of their own; a loss that is not named counts once.

    Args:
        weights: what a user gives.
        names: of the losses that there are.

    Raises:
        ValueError: a name is unknown, or a weight is negative or no finite number.
    """
    checked = dict(weights or {})
    if unknown := sorted(checked.keys() - set(names)):
        raise ValueError(f"loss_weights names {', '.join(unknown)}; the losses are {', '.join(names)}")
    for name, weight in checked.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f"loss_weights[{name!r}] must be a finite number that is not negative, got {weight!r}")
    return checked


__all__ = ["check_loss_weights"]
