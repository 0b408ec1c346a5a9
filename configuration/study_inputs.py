"""What a study hands a model beside its images, its prompt and its report."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StudyInput:
    """One named input of a study, as a model, its processor, collators and batches agree on it.

    Attributes:
        shape: of one study's value, without the batch; None for an axis whose length differs between studies.
        padding: what fills up an axis that is shorter than the longest in the batch, behind the values.
        dtype: `"float32"`, `"int64"` or `"bool"`.
        required: whether every study must have it. In a batch where only some studies have an optional one, the
            others are all `padding`, and need a shape that is known.
        for_training_only: whether it is withheld when reports are generated, as is everything that reveals the
            reference.
    """

    shape: tuple[int | None, ...]
    padding: float = 0
    dtype: str = "float32"
    required: bool = False
    for_training_only: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "int64", "bool"):
            raise ValueError(f"dtype must be float32, int64 or bool, got {self.dtype!r}")
        if any(axis is not None and axis < 1 for axis in self.shape):
            raise ValueError(f"the axes of a shape must be positive or None, got {self.shape!r}")


StudyInputs = Mapping[str, StudyInput]
"""By the name under which `forward` takes them."""

PRIOR_IMAGE_INPUTS: StudyInputs = {
    "prior_pixel_values": StudyInput((None, 3, None, None)),
    "prior_view_mask": StudyInput((None,), dtype="bool"),
    "prior_visual_tokens": StudyInput((None, None)),
}
"""The images of a study's prior study, in a model that takes them (`config.prior_image_token_id`): the views, which of
them are there (none for a study without a prior), or in their place what the vision encoder made of them before."""

__all__ = ["PRIOR_IMAGE_INPUTS", "StudyInput", "StudyInputs"]
