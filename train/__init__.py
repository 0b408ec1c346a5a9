"""Collators, training stages, partial LoRA and checkpoint conversion."""

from typing import Any

__all__ = ["apply_efficient_tuning"]


def __getattr__(name: str) -> Any:
    # Late, since peft takes seconds to load and most modules here do without it.
    if name in __all__:
        from .partial_lora import apply_efficient_tuning

        return apply_efficient_tuning
    raise AttributeError(f"mambaxray.train has no attribute {name!r}; public names: {', '.join(__all__)}")
