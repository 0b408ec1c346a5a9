"""Recipes of stage 2: studies and reports are put into one space."""

from typing import Any

from pydantic import Field

from .recipe_base import Recipe, check_checkpoint, check_parts
from .recipe_sections import Section


class DualEncoderSection(Section):
    """The image and text encoders that are trained.

    Attributes:
        checkpoint: folder or Hub name of a whole dual encoder to continue from; excludes the other parts.
        vision_encoder: folder or Hub name of a vision encoder or of what stage 1 left, or the configuration of a new
            one, with its `model_type`.
        text_encoder: folder or Hub name of a text encoder or language model, or the configuration of a new one, with
            its `model_type`. The vocabulary and its special tokens come from the tokenizer.
        projection_dim: width of the shared space.
        freeze: parts that are not trained, such as `text_encoder`.
        vocab_size: size of the tokenizer that is trained on the reports, for a new text encoder.
        image_size: side of the image in pixels; the encoder's own when null.
        max_report_length: longest report in tokens; longer ones are cut. The tokenizer's limit when null.
    """

    checkpoint: str | None = None
    vision_encoder: str | dict[str, Any] | None = None
    text_encoder: str | dict[str, Any] | None = None
    projection_dim: int = 2048
    freeze: list[str] = Field(default_factory=list)
    vocab_size: int = 1000
    image_size: int | None = None
    max_report_length: int | None = None

    def model_post_init(self, context: Any) -> None:
        check_parts(self, "vision_encoder", "text_encoder")
        check_checkpoint(self, "projection_dim", "vocab_size", "image_size")


class ContrastRecipe(Recipe):
    """Contrastive learning of studies and their reports (stage 2).

    Attributes:
        model: what is trained.
    """

    model: DualEncoderSection


__all__ = ["ContrastRecipe", "DualEncoderSection"]
