"""A `Trainer` that logs a model's named losses and metrics beside the loss."""

from typing import Any

import torch
from accelerate.utils import find_batch_size, gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .weight_decay import SelectiveDecayTrainer


class NamedLossTrainer(SelectiveDecayTrainer):
    """A `Trainer` that logs each of the `losses` and `metrics` of a model's output under its name: its mean over the
    steps since the last log, and over the processes. At evaluation they are among the metrics, with their prefix; each
    batch counts by its size, as for the loss."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Each with its weight.
        self._named_values: dict[str, list[tuple[Tensor, int]]] = {}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The model's loss; its named parts are kept for the log."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        losses = outputs.get("losses") or {}
        # The only one is the loss that is logged anyway.
        named = (losses if len(losses) > 1 else {}) | (outputs.get("metrics") or {})
        weight = 1 if model.training else find_batch_size(inputs) or 1
        for name, value in named.items():
            self._named_values.setdefault(name, []).append((value.detach().float() * weight, weight))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._take_named_values()
        super().log(logs, start_time)

    def _take_named_values(self) -> dict[str, float]:
        """The mean of each named loss and metric over the batches, of all processes, since they were taken last."""
        # Also where this process has none: a loss may exist in some processes only, and all must gather.
        own = {
            name: (torch.stack([value for value, _ in values]).sum().item(), sum(weight for _, weight in values))
            for name, values in self._named_values.items()
        }
        of_processes = gather_object([own]) if self.accelerator.num_processes > 1 else [own]
        self._named_values.clear()
        means = {}
        for name in sorted({name for each in of_processes for name in each}):
            sums, counts = zip(*(each[name] for each in of_processes if name in each), strict=True)
            means[name] = sum(sums) / sum(counts)
        return means

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """As usual, with the named losses and metrics among the metrics."""
        of_training, self._named_values = self._named_values, {}
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        output.metrics.update({f"{metric_key_prefix}_{n}": value for n, value in self._take_named_values().items()})
        self._named_values = of_training
        return output


__all__ = ["NamedLossTrainer"]
