"""Whether what a study hands a model is what the model declares."""

from collections.abc import Iterable, Mapping
from typing import Any

from ...configuration.study_inputs import StudyInputs

IMAGE_ARGUMENTS = ("pixel_values", "view_mask", "pixel_attention_mask", "visual_tokens")
"""The forms in which a report generator takes a study's images."""


def check_study_inputs(values: Mapping[str, Any], declared: StudyInputs, model: str) -> None:
    """Holds study inputs against what a model declares.

    Args:
        values: by name, each `(batch, …)` or None.
        declared: the model's `study_inputs`.
        model: its name, for the message.

    Raises:
        TypeError: one that is not declared.
        ValueError: one has another shape, or a required one is missing.
    """
    if unknown := sorted(values.keys() - declared.keys()):
        raise TypeError(unexpected_arguments(unknown, declared, model))
    for name, expected in declared.items():
        value = values.get(name)
        if value is None:
            if expected.required and not expected.for_training_only:
                raise ValueError(f"{model} needs {name} of every study")
            continue
        fits = value.ndim == len(expected.shape) + 1 and all(
            axis is None or axis == size for axis, size in zip(expected.shape, value.shape[1:], strict=True)
        )
        if not fits:
            shape = ", ".join("…" if axis is None else str(axis) for axis in expected.shape)
            raise ValueError(f"{name} must be (batch, {shape}), got {tuple(value.shape)}")


def unexpected_arguments(names: Iterable[str], known: Iterable[str], model: str) -> str:
    """What is said of arguments that a model does not take."""
    return f"{model} takes no {', '.join(names)}; beside the decoder's own arguments it takes {', '.join(known)}"


__all__ = ["IMAGE_ARGUMENTS", "check_study_inputs", "unexpected_arguments"]
