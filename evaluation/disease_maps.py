"""Where a stage-1 classifier sees each observation in a study."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from ..modeling_mambaxray.layers.activation_maps import CAM_METHODS, class_activation_maps, strongest_regions
from ..modeling_mambaxray.layers.views import encode_images, mean_over_views, present_views
from .seen_views import as_seen, mean_grey

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True)
class DiseaseMap:
    """One observation of a study.

    Attributes:
        observation: its name.
        probability: of its presence.
        maps: an activation map of each view, `(views, side, side)`, each from 0 to 1.
        regions: the patches that a visual memory would keep, `(views, side, side)` bool.
    """

    observation: str
    probability: float
    maps: np.ndarray
    regions: np.ndarray


@dataclass(frozen=True)
class DiseaseExplanation:
    """A study with what a classifier says of each observation, and where it sees it.

    Attributes:
        views: the images with the detail that the model saw, in the aspect ratio of the films.
        diseases: all observations, in the classifier's order.
        cam, threshold, most_regions: how the maps and regions were made.
        mask_grey: the grey value that a masked image has outside of its regions.
    """

    views: list[Image.Image]
    diseases: list[DiseaseMap]
    cam: str
    threshold: float
    most_regions: int
    mask_grey: int


@torch.no_grad()
def explain_diseases(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    views: Sequence["Image.Image | str | PathLike"],
    *,
    cam: str = "gradcam",
    threshold: float = 0.5,
    most_regions: int = 6,
) -> DiseaseExplanation:
    """Looks for every observation of a classifier in one study.

    Args:
        model: a stage-1 classifier, in evaluation mode.
        image_processor: its image processor.
        views: the study's images, anything that the processor reads.
        cam, threshold, most_regions: see `class_activation_maps` and `strongest_regions`.

    Raises:
        ImageReadError, FileNotFoundError: an image that can't be read.
        ValueError: the activation map is unknown, or the visual tokens form no grid.

    Source: AM-MRG, section III-C and figure 4.
    """
    if cam not in CAM_METHODS:
        raise ValueError(f"the activation map must be one of {', '.join(CAM_METHODS)}, got {cam!r}")
    inputs = image_processor([list(views)], return_tensors="pt").to(model.device)
    images, views_per_study = present_views(**inputs)
    tokens = encode_images(model.vision_encoder, images)
    logits = model.query_diseases(mean_over_views(tokens, views_per_study)).logits[0]
    diseases = []
    for target, name in sorted(model.config.id2label.items()):
        maps = class_activation_maps(model, tokens, [target], views_per_study, cam).cpu()
        regions = strongest_regions(maps, threshold, most_regions)
        diseases.append(DiseaseMap(name, logits[target].sigmoid().item(), maps.numpy(), regions.numpy()))
    return DiseaseExplanation(
        as_seen(inputs["pixel_values"][0], image_processor, views),
        diseases,
        cam,
        threshold,
        most_regions,
        mean_grey(image_processor),
    )


__all__ = ["DiseaseExplanation", "DiseaseMap", "explain_diseases"]
