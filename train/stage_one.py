"""A stage-1 classifier at work on studies of a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BaseImageProcessor, PreTrainedModel

from ..configuration.families import families_of_stage
from ..configuration.vision_tokens import patch_positions
from ..data.xray_feature import XrayImage


class NoClassifierError(ValueError):
    """A model that is no stage-1 classifier."""


def check_classifier(folder: str, name: str) -> list[str]:
    """The observations of a stage-1 classifier, from its configuration alone.

    Args:
        folder: of the classifier.
        name: what to call it in errors.

    Raises:
        NoClassifierError: the model in this folder is another one.
        ValueError: its visual tokens form no square grid.
    """
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in families_of_stage("classify"):
        raise NoClassifierError(
            f"{name} is a {config.model_type} model, not a classifier with disease queries: give one that "
            "`mambaxray classify` has trained"
        )
    patch_positions(config.vision_config)
    return list(config.label2id)


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
        """The model, for use and not for training, and its image processor, loaded when they are first needed."""
        model = AutoModel.from_pretrained(self.folder).to(self.device).eval().requires_grad_(False)
        return model, AutoImageProcessor.from_pretrained(self.folder)

    def pixels(self, studies: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """`pixel_values` and `view_mask` of studies whose images are not decoded."""
        decode = XrayImage().decode_example
        images = [[decode(image) for image in study["images"]] for study in studies]
        batch = self.parts[1](images, return_tensors="pt").to(self.device)
        return batch["pixel_values"], batch["view_mask"]


__all__ = ["NoClassifierError", "StageOneEncoder", "check_classifier"]
