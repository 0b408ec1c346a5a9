"""From studies to training batches, for the plain `Trainer` as for any loop.

Use them with `TrainingArguments(remove_unused_columns=False)`, since the Trainer would drop the images otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BaseImageProcessor, ProcessorMixin
from transformers.image_processing_base import BatchFeature


@dataclass(frozen=True)
class ReportCollator:
    """Makes batches for supervised report generation from studies of the package's schema (`data/schema.py`).

    Attributes:
        processor: a `MambaXrayProcessor`.
        max_report_length: longest report in tokens, its end token included; longer ones are cut.
    """

    processor: ProcessorMixin
    max_report_length: int | None = None

    def __call__(self, studies: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """`pixel_values`, `view_mask`, and right-padded `input_ids`, `attention_mask`, `labels` of the studies.

        Raises:
            KeyError: a study has no `images` or no `report`.
        """
        return self.processor(
            images=[study["images"] for study in studies],
            reports=[study["report"] for study in studies],
            max_report_length=self.max_report_length,
        )


@dataclass(frozen=True)
class LabelCollator:
    """Makes batches for multi-label image classification, each study seen through its first view.

    Attributes:
        image_processor: a `MambaXrayImageProcessor`.
    """

    image_processor: BaseImageProcessor

    def __call__(self, studies: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`pixel_values` `(batch, 3, height, width)` and `labels` `(batch, classes)` from `images` and `targets`."""
        images = [study["images"][0] for study in studies]
        pixel_values = self.image_processor(images, return_tensors="pt")["pixel_values"]
        return {
            "pixel_values": pixel_values[:, 0],
            "labels": torch.tensor([study["targets"] for study in studies]),
        }


__all__ = ["LabelCollator", "ReportCollator"]
