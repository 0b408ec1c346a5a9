"""The losses of a report generator: each by its name, and their weighted sum."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, distributed, nn

from ...configuration.configuration_mambaxray import MambaXrayConfig


def weighted_losses(
    config: MambaXrayConfig,
    report_loss: Callable[..., Tensor],
    logits: Tensor,
    labels: Tensor | None,
    logits_to_keep: int | Tensor,
    num_items_in_batch: Tensor | int | None,
    image_losses: Mapping[str, Tensor],
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """The weighted sum of the losses, and each by its name.

    The Trainer adds up the losses of micro-batches and processes as they are. A report's is then divided by all
    tokens of all of them (`num_items_in_batch`); the others are means, which count by this batch's share of the
    tokens.

    Args:
        config: has `loss_names`, `loss_weights` and `report_reduction`.
        report_loss: the model's `loss_function`.
        logits: `(batch, sequence, vocabulary)`, or of the last `logits_to_keep` positions.
        labels: `(batch, sequence)`, -100 where nothing is to be learned.
        logits_to_keep: as `forward` was called with it.
        num_items_in_batch: supervised tokens of all micro-batches and processes that are added up.
        image_losses: what `fuse` gave.

    Returns:
        The sum, None when there are no losses; and each loss by its name, not weighted.

    Raises:
        ValueError: a loss that the configuration does not name, or labels for positions in place of a number of them.
    """
    weights = config.loss_weights
    total: Tensor | None = None
    losses: dict[str, Tensor] = {}
    share: Tensor | float = 1.0
    if labels is not None:
        if isinstance(logits_to_keep, Tensor):
            raise ValueError("with labels, logits_to_keep must be a number")
        labels = labels[:, -logits_to_keep:] if logits_to_keep else labels
        # Labels that are a plain copy of the ids have placeholders, which may lie outside the vocabulary.
        labels = labels.masked_fill(labels == config.image_token_id, -100)
        supervised = (labels[:, 1:] != -100).sum()
        if num_items_in_batch is not None:
            share = supervised / num_items_in_batch
        report = report_loss(
            logits=logits, labels=labels, vocab_size=logits.shape[-1], num_items_in_batch=num_items_in_batch
        )
        if config.report_reduction == "sum":
            report = report * (supervised / len(labels))
        total = report * weights.get("report", 1.0)
        losses["report"] = report / share
    for name, value in image_losses.items():
        if name not in config.loss_names:
            raise ValueError(f"fuse gave the loss {name!r}, which {type(config).__name__}.loss_names does not have")
        weighted = value * weights.get(name, 1.0) * share
        total = weighted if total is None else total + weighted
        losses[name] = value
    return total, losses


def with_every_gradient(total: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The same loss, such that every trained parameter has a gradient. A loss may exist in some processes only, and
    data-parallel training waits for every gradient in each."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        for parameter in parameters:
            if parameter.requires_grad:
                total = total + parameter.flatten()[:0].sum().to(total)
    return total


__all__ = ["weighted_losses", "with_every_gradient"]
