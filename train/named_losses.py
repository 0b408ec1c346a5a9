"""A `Trainer` that logs a model's named losses beside their sum. Everything else is the plain one's."""

from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import Trainer


class NamedLossTrainer(Trainer):
    """A `Trainer` that logs each of the `losses` of a model's output under its name: its mean over the steps since the
    last log, and over the processes."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._named_losses: dict[str, list[Tensor]] = {}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The model's loss; in training its named parts are kept for the log."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            losses = outputs.get("losses") or {}
            for name in losses if len(losses) > 1 else ():  # the only one is the loss that is logged anyway
                self._named_losses.setdefault(name, []).append(losses[name].detach().float())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # Also where this process has none: a loss may exist in some processes only, and all must gather.
            own = {name: (torch.stack(values).sum().item(), len(values)) for name, values in self._named_losses.items()}
            of_processes = gather_object([own]) if self.accelerator.num_processes > 1 else [own]
            for name in sorted({name for each in of_processes for name in each}):
                sums, counts = zip(*(each[name] for each in of_processes if name in each), strict=True)
                logs[name] = sum(sums) / sum(counts)
            self._named_losses.clear()
        super().log(logs, start_time)


__all__ = ["NamedLossTrainer"]
