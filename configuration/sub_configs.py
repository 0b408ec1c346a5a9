"""What configurations of models made of models do with those of their parts."""

import inspect
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .configuration_vision_mamba import VisionMambaConfig
from .configuration_vmamba import VMambaConfig


def as_config(config: PreTrainedConfig | dict[str, Any] | None, default: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A sub-configuration from what a user gives: itself, a dict with its `model_type`, or the default when None.

    Raises:
        TypeError: it is neither a configuration nor a dict.
    """
    if config is None:
        return default()
    if isinstance(config, PreTrainedConfig):
        return config
    if not isinstance(config, dict):
        raise TypeError(f"expected a configuration or a dict, got {type(config).__name__}")
    values = dict(config)
    model_type = values.pop("model_type", default.model_type)
    for own in (VisionMambaConfig, VMambaConfig):
        if model_type == own.model_type:
            return own(**values)
    return AutoConfig.for_model(model_type, **values)


def configuration_fields(config_class: type[PreTrainedConfig]) -> set[str]:
    """Names of the fields that a configuration of this package has of its own: what transformers adds is no part of it.

    A configuration keeps whatever it is given, so a misspelt field would have no effect.
    """
    bases = [base for base in config_class.__mro__ if issubclass(base, PreTrainedConfig)]
    own = bases[: bases.index(PreTrainedConfig)]
    initializers = [vars(base)["__init__"] for base in own if "__init__" in vars(base)]
    named = {name for initializer in initializers for name in inspect.signature(initializer).parameters}
    return named - {"self", "args", "kwargs"}


def keeping_attention(config: PreTrainedConfig, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `PreTrainedConfig.__init__`, so that each sub-configuration keeps its attention.

    Without them transformers sets it to None in all of them, of models in use, too (5.24).
    """
    kept = {name: getattr(config, name)._attn_implementation for name in config.sub_configs}
    return {"attn_implementation": {"": None} | kept} | kwargs


__all__ = ["as_config", "configuration_fields", "keeping_attention"]
