"""Recipes of stage 1: a vision encoder learns from images alone."""

from typing import Any

from pydantic import Field

from .recipe_base import DataSection, Recipe
from .recipe_sections import Section
from .recipe_text import RecipeError


class ImageDataSection(DataSection):
    """What pre-training learns from: studies, whose reports are not needed, or folders of images.

    Attributes:
        folders: folders of images (PNG, JPEG, TIFF …), with all that lies below them; in place of `source`.
        streaming: read the images of `folders` one after the other instead of listing them first; needs
            `training.max_steps`.
        validation_share: which share of the images of `folders` is kept for validation, chosen by the seed. Studies
            have a validation split of their own.
    """

    folders: list[str] = Field(default_factory=list)
    streaming: bool = False
    validation_share: float = 0.0

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        if self.folders and self.all_sources:
            raise RecipeError("data.source and data.folders exclude each other")
        if self.streaming and self.all_sources:
            raise RecipeError("data.streaming is for data.folders")
        if not 0 <= self.validation_share < 1:
            raise RecipeError(f"data.validation_share must be at least 0 and below 1, got {self.validation_share}")
        if self.streaming and self.validation_share:
            raise RecipeError("a stream has no share to keep for validation: data.validation_share must be 0")


class PretrainerSection(Section):
    """The model that is pre-trained on images alone.

    Attributes:
        checkpoint: folder or Hub name of a model to continue from.
        config: configuration of a new one, with its `model_type`: `mambaxray_pretraining`, or `vit_mae` for a masked
            autoencoder; in place of `checkpoint`.
    """

    checkpoint: str | None = None
    config: dict[str, Any] | None = None

    def model_post_init(self, context: Any) -> None:
        if (self.checkpoint is None) == (self.config is None):
            raise RecipeError("give model.checkpoint or model.config, one of them")
        if self.config is not None and "model_type" not in self.config:
            raise RecipeError("model.config is a configuration without model_type")


class PretrainRecipe(Recipe):
    """Pre-training of a vision encoder on images alone (stage 1).

    Attributes:
        data: what is learned from.
        model: what is trained.
        picture_every: draw the predictions every N steps; never when null.
        picture_images: how many images are drawn.
    """

    data: ImageDataSection = Field(default_factory=ImageDataSection)
    model: PretrainerSection
    picture_every: int | None = 100
    picture_images: int = 4

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        for name in ("picture_every", "picture_images"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise RecipeError(f"{name} must be positive, got {value}")


__all__ = ["ImageDataSection", "PretrainRecipe", "PretrainerSection"]
