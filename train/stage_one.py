"""A stage-1 classifier at work on studies of a data set: the classes of every such system, by the same two parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, BaseImageProcessor, PreTrainedModel

from ..configuration.vision_tokens import patch_positions
from ..data.xray_feature import XrayImage
from ..modeling_mambaxray.layers.disease_queries import DiseaseQueries
from ..modeling_mambaxray.layers.views import encode_images, mean_over_views, present_views


class NoClassifierError(ValueError):
    """A model that is no stage-1 classifier."""


def load_classifier(folder: str, device: str = "cpu") -> tuple[PreTrainedModel, BaseImageProcessor]:
    """A stage-1 classifier for use, not for training, and its image processor.

    Args:
        folder: of the model, or its Hub id.
        device: where it works.

    Raises:
        NoClassifierError: it has no vision encoder with disease queries, or its visual tokens form no grid.
        OSError: it can't be loaded.
    """
    model = AutoModel.from_pretrained(folder)
    parts = {name for name, _ in model.named_children()}
    if "vision_encoder" not in parts or not isinstance(getattr(model, "disease_queries", None), DiseaseQueries):
        raise NoClassifierError(
            f"{folder} is a {model.config.model_type} model, not a classifier with disease queries: give one that "
            "`mambaxray classify` has trained"
        )
    patch_positions(model.vision_encoder.config)
    return model.to(device).eval().requires_grad_(False), AutoImageProcessor.from_pretrained(folder)


@dataclass(frozen=True)
class StageOneEncoder:
    """The base of what makes vectors of studies with a stage-1 classifier.

    Attributes:
        folder: of the classifier.
        device: where it works.
    """

    folder: str
    device: str = "cpu"

    def on(self, device: str) -> Self:
        """The same for a device."""
        return replace(self, device=device)

    @cached_property
    def parts(self) -> tuple[PreTrainedModel, BaseImageProcessor]:
        """The model and its image processor, loaded when they are first needed."""
        return load_classifier(self.folder, self.device)

    def pixels(self, studies: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor | None]:
        """`pixel_values` and `view_mask` of studies whose images are not decoded."""
        decode = XrayImage().decode_example
        images = [[decode(image) for image in study["images"]] for study in studies]
        batch = self.parts[1](images, return_tensors="pt").to(self.device)
        return batch["pixel_values"], batch.get("view_mask")


@torch.no_grad()
def retrieval_vectors(
    model: PreTrainedModel, pixel_values: Tensor, view_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What studies are found by: their mean visual token `(studies, width)` and their disease logits
    `(studies, diseases)`, in float32.

    Keys of a retrieval memory and the queries that look into it are made by this function alone.

    Args:
        model: a stage-1 classifier, in evaluation mode.
        pixel_values: `(studies, views, channels, height, width)`.
        view_mask: `(studies, views)` bool.

    Source: the dual-stage paper, section III-D (DMSR).
    """
    images, views_per_study = present_views(pixel_values, view_mask)
    tokens = mean_over_views(encode_images(model.vision_encoder, images), views_per_study)
    patches = patch_positions(model.vision_encoder.config)
    return tokens[:, patches].float().mean(dim=1), model.disease_queries(tokens).logits.float()


__all__ = ["NoClassifierError", "StageOneEncoder", "load_classifier", "retrieval_vectors"]
