"""A report generator below a frozen vision encoder, on visual tokens that were computed once."""

from typing import Any

from torch import Tensor, nn

from .modeling_mambaxray import MambaXrayForConditionalGeneration


class EncodedStudyModel(nn.Module):
    """Trains the projection and the language model of a report generator on visual tokens.

    Attributes:
        generator: the model; its vision encoder is not called.
    """

    def __init__(self, generator: MambaXrayForConditionalGeneration):
        super().__init__()
        self.generator = generator

    def forward(
        self, visual_tokens: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **loss_kwargs: Any
    ) -> dict[str, Tensor]:
        """The loss of the generator's `forward`; `loss_kwargs` are the Trainer's, as `num_items_in_batch`."""
        # Logits before the first label, of the image above all, would be thrown away.
        first_label = int((labels != -100).any(dim=0).int().argmax())
        output = self.generator(
            input_ids=input_ids,
            visual_tokens=visual_tokens,
            attention_mask=attention_mask,
            labels=labels,
            logits_to_keep=labels.shape[1] - max(0, first_label - 1),
            **loss_kwargs,
        )
        return {"loss": output.loss}


__all__ = ["EncodedStudyModel"]
