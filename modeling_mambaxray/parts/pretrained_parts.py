"""The pre-trained parts that a model is put together from: taken as they are given, or loaded by their names."""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn
from transformers import AutoModel, PreTrainedModel

try:
    from .vision_encoder import load_vision_encoder
except ImportError:
    # In a repository's file, which does without the code of other stages.
    load_vision_encoder = AutoModel.from_pretrained

_Part = TypeVar("_Part", bound=nn.Module)


def pretrained_part(
    part: str | os.PathLike | _Part, load: Callable[..., _Part], options: Mapping[str, Any] | None = None
) -> _Part:
    """A part as it was given, or what is loaded by its name.

    Args:
        part: the part, or its folder or Hub id.
        load: takes a folder or Hub id.
        options: further arguments of `load`.
    """
    return part if isinstance(part, nn.Module) else load(part, **(options or {}))


def pretrained_vision_encoder(
    part: str | os.PathLike | PreTrainedModel, options: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """A vision encoder as it was given, or what `load_vision_encoder` loads by its name, `options` its arguments."""
    return pretrained_part(part, load_vision_encoder, options)


__all__ = ["pretrained_part", "pretrained_vision_encoder"]
