"""Building a model around parts that exist already, while all else starts as its classes say."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

_Model = TypeVar("_Model", bound=PreTrainedModel)
_ATTRIBUTE = "_given_parts"


def build_around(
    model_class: type[_Model], config: PreTrainedConfig, parts: Mapping[str, torch.nn.Module], device: torch.device
) -> _Model:
    """A model whose `__init__` takes some parts as they are (`given_part`) and makes the others.

    What is made is made for good, on the device: parameters of the model itself, buffers, embeddings and whatever else
    a subclass adds, initialised as in `model_class(config)`.

    Args:
        model_class: its `__init__` asks `given_part` for each part that can be given.
        config: the model's.
        parts: by attribute. They stay as they are.
        device: of what is new.

    Returns:
        The model, in evaluation mode.
    """
    model = model_class.__new__(model_class)
    vars(model)[_ATTRIBUTE] = parts
    for part in parts.values():
        for module in part.modules():
            # transformers initialises what is not marked when the model around it is complete.
            module._is_hf_initialized = True
    with torch.device(device):
        model.__init__(config)
    del vars(model)[_ATTRIBUTE]
    return model.eval()


def given_part(model: PreTrainedModel, name: str) -> Any:
    """The part that was given to `build_around`, None when the model has to make it."""
    return vars(model).get(_ATTRIBUTE, {}).get(name)


__all__ = ["build_around", "given_part"]
