"""Recipes of the stage that learns from labels which diseases a study shows."""

from typing import Any

from pydantic import Field

from .recipe_base import Recipe, check_checkpoint, check_parts
from .recipe_sections import Section
from .recipe_text import RecipeError


class LabelsSection(Section):
    """What labels are to the loss and to the scores; see `LabelPolicy`.

    Attributes:
        uncertain: what is uncertain in a report counts as `ignore` (left out), `positive` or `negative`.
        blank: what a labelled report does not mention counts as `negative` or `ignore` (left out).
        unlabelled: a study without any label: `refuse` to train on such data, `ignore` its labels, or `read` them from
            its report with the package's `CheXpertStyleLabeler`.
        positive_weights: weight of positive labels in the loss: `balanced` for the number of negative training labels
            divided by that of positive ones, observation by observation; null for 1.
    """

    uncertain: str = "ignore"
    blank: str = "negative"
    unlabelled: str = "refuse"
    positive_weights: str | None = None

    def model_post_init(self, context: Any) -> None:
        from ..data.label_policy import LabelPolicy

        try:
            LabelPolicy(self.uncertain, self.blank)  # type: ignore[arg-type]  # which it checks
        except ValueError as error:
            raise RecipeError(f"labels.{error}") from error
        if self.unlabelled not in ("refuse", "ignore", "read"):
            raise RecipeError(f"labels.unlabelled must be refuse, ignore or read, got {self.unlabelled!r}")
        if self.positive_weights not in (None, "balanced"):
            raise RecipeError(f"labels.positive_weights must be balanced or null, got {self.positive_weights!r}")


class ClassifierSection(Section):
    """The model that learns to tell diseases.

    Attributes:
        checkpoint: folder or Hub name of a whole model to continue from; excludes the other parts.
        system: which one is put together: `ammrg_classification` or `disease_aware_pretraining`.
        options: fields of its configuration, such as `loss_weights`.
        vision_encoder: folder or Hub name of a vision encoder (a model that has one, such as that of an earlier stage,
            counts too), or the configuration of a new one, with its `model_type`.
        text_encoder: folder or Hub name of a text encoder or language model, or the configuration of a new one, with
            its `model_type`, for a system that also learns from reports; null for others.
        qformer: folder or Hub name of a BLIP-2 whose Q-Former the disease queries start from; null for a new one.
        freeze: parts that are not trained, such as `vision_encoder`.
        vocab_size: size of the tokenizer that is trained on the reports, for a new text encoder.
        image_size: side of the image in pixels; the encoder's own when null.
        max_report_length: longest report in tokens; longer ones are cut. The tokenizer's limit when null.
    """

    checkpoint: str | None = None
    system: str = "ammrg_classification"
    options: dict[str, Any] = Field(default_factory=dict)
    vision_encoder: str | dict[str, Any] | None = None
    text_encoder: str | dict[str, Any] | None = None
    qformer: str | None = None
    freeze: list[str] = Field(default_factory=list)
    vocab_size: int = 1000
    image_size: int | None = None
    max_report_length: int | None = None

    def model_post_init(self, context: Any) -> None:
        check_parts(self, "vision_encoder", *(("text_encoder",) if self.text_encoder is not None else ()))
        check_checkpoint(self, "system", "options", "qformer", "vocab_size", "image_size")


class ClassifyRecipe(Recipe):
    """Training of a vision encoder and disease queries on labels (stage 1 of AM-MRG and of the dual-stage system).

    Attributes:
        model: what is trained.
        labels: what labels are to the loss and to the scores.
    """

    model: ClassifierSection
    labels: LabelsSection = Field(default_factory=LabelsSection)


__all__ = ["ClassifierSection", "ClassifyRecipe", "LabelsSection"]
