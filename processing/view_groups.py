"""The ways in which the images of studies can be given, brought to one."""

from typing import Any

import numpy as np
from transformers.utils import is_torch_tensor


def group_views(images: Any) -> list[list[Any]]:
    """Bring the ways in which images can be given to one: a list of studies, each a list of views.

    Raises:
        ValueError: no images, a study without views, or single images and lists of views mixed.
    """
    studies = _as_list(images)
    if studies is None:
        return [[images]]
    if not studies:
        raise ValueError("no images were given")
    views = [_as_list(study) for study in studies]
    if all(study is None for study in views):
        return [[picture] for picture in studies]
    if any(study is None for study in views):
        raise ValueError("single images and lists of views are mixed: give every study as a list of views")
    empty = [index for index, study in enumerate(views) if not study]
    if empty:
        raise ValueError(f"studies without any view at positions {empty}: leave them out")
    return views


def _as_list(images: Any) -> list[Any] | None:
    """The members of a batch, or None if `images` is a single image."""
    if isinstance(images, (list, tuple)):
        return list(images)
    is_array = isinstance(images, np.ndarray) or is_torch_tensor(images)
    return list(images) if is_array and images.ndim > 3 else None
