"""The images that a model saw, as a reader can look at them."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor

from ..processing.image_reading import load_xray


def as_seen(pixel_values: Tensor, image_processor: BaseImageProcessor, views: Sequence[Any]) -> list[Image.Image]:
    """The views with the detail that a model saw, grey, in the aspect ratio of the films, or of what was cut out of
    them.

    Args:
        pixel_values: `(views, channels, height, width)`, normalised.
        image_processor: what made them.
        views: what it made them of, anything that it reads.
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in _normalisation(image_processor))
    grey = (pixel_values.float().cpu() * std + mean).mean(dim=1).clamp(0, 1)
    images = [Image.fromarray((255 * view).round().to(torch.uint8).numpy()) for view in grey]
    if getattr(image_processor, "do_center_crop", False):
        return images
    return [_unstretched(image, view) for image, view in zip(images, views, strict=True)]


def mean_grey(image_processor: BaseImageProcessor) -> int:
    """The grey value, of 255, that is 0 once it is normalised."""
    mean, _ = _normalisation(image_processor)
    return round(255 * sum(mean) / len(mean))


def _normalisation(image_processor: BaseImageProcessor) -> tuple[Sequence[float], Sequence[float]]:
    return image_processor.image_mean, image_processor.image_std


def _unstretched(seen: Image.Image, view: Any) -> Image.Image:
    """An image as the model saw it, wider or higher so that it has the aspect ratio of the view that it was made of."""
    width, height = load_xray(view, allow_blank=True).size
    scale = max(seen.width / width, seen.height / height)
    return seen.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)


__all__ = ["as_seen", "mean_grey"]
