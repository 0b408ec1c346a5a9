"""Several prepared studies as one batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...configuration.study_inputs import StudyInput, StudyInputs

# By name: what fills up a study that is shorter than the longest, and whether it does so at the end.
_TOKENS = {"input_ids": 0, "attention_mask": 0}
_VIEWS = {"pixel_values": 0.0, "view_mask": False, "pixel_attention_mask": False}
# Of studies that were encoded before, in place of their views; always equally long.
_ENCODED = {"visual_tokens": 0.0}


def stack_studies(
    studies: Sequence[Mapping[str, Tensor]],
    pad_token_id: int | None = None,
    study_inputs: StudyInputs | None = None,
) -> dict[str, Tensor]:
    """Stacks what the processor made of one study each: prompts padded on the left, missing views at the end.

    Args:
        studies: `input_ids` and `attention_mask` `(1, tokens)`, `pixel_values` `(1, views, 3, height, width)` and
            `view_mask` `(1, views)` (or `visual_tokens` `(1, tokens, vision_hidden)`) of each, and the inputs of
            `study_inputs`, `(1, …)`.
        pad_token_id: fills up `input_ids`, 0 when not given; the attention mask tells it apart.
        study_inputs: what else the model takes of a study.

    Raises:
        TypeError: a study has something that none of these is.
        ValueError: a study lacks what the others have.
    """
    study_inputs = study_inputs or {}
    names = list(dict.fromkeys(name for study in studies for name in study))
    if unknown := [name for name in names if name not in {*_TOKENS, *_VIEWS, *_ENCODED, *study_inputs}]:
        raise TypeError(
            f"a study has {', '.join(unknown)}, which the model's study_inputs do not declare; they are "
            f"{', '.join(study_inputs) or 'none'}"
        )
    batch = {}
    for name in names:
        if name in study_inputs:
            continue
        if any(name not in study for study in studies):
            raise ValueError(f"only some studies of the batch have {name}")
        padding = pad_token_id or 0 if name == "input_ids" else {**_TOKENS, **_VIEWS, **_ENCODED}[name]
        batch[name] = _stack([study[name] for study in studies], padding, at_end=name in _VIEWS)
    rows = [{name: study[name][0] for name in study_inputs if name in study} for study in studies]
    return batch | stack_study_inputs(rows, study_inputs)


def stack_study_inputs(studies: Sequence[Mapping[str, Any]], study_inputs: StudyInputs) -> dict[str, Tensor]:
    """Stacks the values of declared inputs, one mapping per study, padded behind the values to the longest.

    Raises:
        ValueError: a value does not fit its declaration, or a required one is missing.
    """
    batch = {}
    for name, declared in study_inputs.items():
        values = [study.get(name) for study in studies]
        if all(value is None for value in values) and not (declared.required and not declared.for_training_only):
            continue
        batch[name] = _stack_values(name, declared, values)
    return batch


def _stack_values(name: str, declared: StudyInput, values: Sequence[Any]) -> Tensor:
    dtype = getattr(torch, declared.dtype)
    tensors = [None if value is None else torch.as_tensor(value).to(dtype) for value in values]
    for tensor in tensors:
        if tensor is None:
            if declared.required:
                raise ValueError(f"every study needs {name}, but one of the batch has none")
            continue
        shape = tuple(tensor.shape)
        if len(shape) != len(declared.shape) or any(
            axis not in (None, size) for axis, size in zip(declared.shape, shape, strict=True)
        ):
            expected = ", ".join("…" if axis is None else str(axis) for axis in declared.shape)
            raise ValueError(f"{name} of a study must have the shape ({expected}), got {shape}")
    given = [tensor for tensor in tensors if tensor is not None]
    sizes = [max(tensor.shape[axis] for tensor in given) for axis in range(len(declared.shape))]
    stacked = torch.full((len(tensors), *sizes), declared.padding, dtype=dtype, device=given[0].device)
    for row, tensor in zip(stacked, tensors, strict=True):
        if tensor is not None:
            row[tuple(slice(size) for size in tensor.shape)] = tensor
    return stacked


def _stack(tensors: Sequence[Tensor], padding: float, at_end: bool = False) -> Tensor:
    """Stacks `(1, length, ...)` tensors along the first axis, padded along the second to the longest."""
    longest = max(tensor.shape[1] for tensor in tensors)
    stacked = tensors[0].new_full((len(tensors), longest, *tensors[0].shape[2:]), padding)
    for row, tensor in zip(stacked, tensors, strict=True):
        length = tensor.shape[1]
        row[slice(0, length) if at_end else slice(longest - length, longest)] = tensor[0]
    return stacked


__all__ = ["stack_studies", "stack_study_inputs"]
