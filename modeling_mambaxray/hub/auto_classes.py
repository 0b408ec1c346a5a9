"""What was registered with transformers' Auto classes."""

from collections.abc import Mapping
from typing import Any

from transformers.models.auto import auto_factory, modeling_auto


def registered_models() -> list[tuple[str, Mapping[type, Any]]]:
    """Auto classes of models by name, each with the models that were registered with it, by their configurations."""
    return [
        (name, auto_class._model_mapping._extra_content)
        for name, auto_class in sorted(vars(modeling_auto).items())
        if isinstance(auto_class, type)
        and issubclass(auto_class, auto_factory._BaseAutoModelClass)
        and auto_class._model_mapping is not None
    ]


__all__ = ["registered_models"]
