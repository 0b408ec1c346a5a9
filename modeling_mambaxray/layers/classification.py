"""Binary cross-entropy over labels of which some are not known."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.nn import functional as F


def classification_loss(
    logits: Tensor, labels: Tensor, positive_weights: Sequence[float] | None = None, *, over_processes: bool = False
) -> Tensor:
    """The mean binary cross-entropy over all labels that are known, 0 when none is.

    Args:
        logits: `(batch, observations)`.
        labels: `(batch, observations)`, from 0, absent, to 1, present; NaN where it is left out.
        positive_weights: for each observation the weight of its positive labels; all 1 when not given.
        over_processes: divide by the mean number of known labels in the processes, so that the mean over processes,
            which data-parallel training takes, is the mean over all known labels. Every process of the default group
            must then call it at the same time.

    Raises:
        ValueError: the shapes do not fit, or a label is neither NaN nor between 0 and 1.

    Source: AM-MRG, equation 11.
    """
    if labels.shape != logits.shape:
        raise ValueError(f"labels must be {tuple(logits.shape)} as the logits, got {tuple(labels.shape)}")
    labels = labels.to(device=logits.device, dtype=torch.float32)
    known = ~labels.isnan()
    targets = labels.nan_to_num(0.0, posinf=2.0, neginf=-1.0)
    if ((targets < 0) | (targets > 1)).any():
        wrong = targets[(targets < 0) | (targets > 1)][0].item()
        raise ValueError(
            f"labels must be 1 (present), 0 (absent) or NaN (left out), got {wrong:g}; decide first what uncertain "
            "labels are, as ClassificationCollator does"
        )
    weights = None if positive_weights is None else torch.tensor(positive_weights, device=logits.device)
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weights, reduction="none")
    count = known.sum().float()
    if over_processes and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        count = count / distributed.get_world_size()
    return (losses * known).sum() / count.masked_fill(count == 0, 1.0)


__all__ = ["classification_loss"]
