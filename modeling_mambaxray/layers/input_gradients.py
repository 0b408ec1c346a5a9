"""Gradients that start at the embeddings of a model's parts, which checkpointing and adapters may need."""

from typing import Any

from torch import Tensor, nn


class InputGradientsMixin:
    """For models that hold any vision encoder."""

    def enable_input_require_grads(self) -> None:
        """As `PreTrainedModel.enable_input_require_grads`, also where embeddings come with more: a Swin's patch
        embeddings give the size of their grid, too, at which transformers' hook fails (5.24)."""
        super().enable_input_require_grads()
        for handle in self._require_grads_hooks:
            handle.hooks_dict_ref()[handle.id] = _require_gradients


def _require_gradients(module: nn.Module, inputs: Any, output: Any) -> None:
    for value in output if isinstance(output, tuple) else (output,):
        if isinstance(value, Tensor):
            value.requires_grad_(True)


__all__ = ["InputGradientsMixin"]
