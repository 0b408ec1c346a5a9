"""Several prepared studies as one batch."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def stack_studies(studies: Sequence[Mapping[str, Tensor]], pad_token_id: int | None = None) -> dict[str, Tensor]:
    """Stacks what the processor made of one study each: prompts padded on the left, missing views at the end.

    Args:
        studies: `input_ids` and `attention_mask` `(1, tokens)`, `pixel_values` `(1, views, 3, height, width)` and
            `view_mask` `(1, views)` of each.
        pad_token_id: fills up `input_ids`, 0 when not given; the attention mask tells it apart.
    """
    return {
        "input_ids": _stack([study["input_ids"] for study in studies], 0 if pad_token_id is None else pad_token_id),
        "attention_mask": _stack([study["attention_mask"] for study in studies], 0),
        "pixel_values": _stack([study["pixel_values"] for study in studies], 0, at_end=True),
        "view_mask": _stack([study["view_mask"] for study in studies], False, at_end=True),
    }


def _stack(tensors: Sequence[Tensor], padding: float, at_end: bool = False) -> Tensor:
    """Stacks `(1, length, ...)` tensors along the first axis, padded along the second to the longest."""
    longest = max(tensor.shape[1] for tensor in tensors)
    stacked = tensors[0].new_full((len(tensors), longest, *tensors[0].shape[2:]), padding)
    for row, tensor in zip(stacked, tensors, strict=True):
        length = tensor.shape[1]
        row[slice(0, length) if at_end else slice(longest - length, longest)] = tensor[0]
    return stacked


__all__ = ["stack_studies"]
