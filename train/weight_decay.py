"""Which parameters weight decay leaves alone."""

from torch import nn
from transformers import Trainer

UNDECAYED = ("A_log", "D", "logit_scale")
"""Parameters, by the last part of their names, that decay would pull away from what they stand for and not towards a
simpler model: a scan's decay rates and skip connection, whose authors exempt them (Gu & Dao, 2023, code), and
logarithms of temperatures."""


class SelectiveDecayTrainer(Trainer):
    """A `Trainer` whose weight decay leaves out `UNDECAYED`, beside the biases and norms that the plain one knows."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        names = super().get_decay_parameter_names(model)
        return [name for name in names if name.rpartition(".")[2] not in UNDECAYED]


__all__ = ["UNDECAYED", "SelectiveDecayTrainer"]
