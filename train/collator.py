"""From studies to training batches, for the plain `Trainer` as for any loop.

Use it with `TrainingArguments(remove_unused_columns=False)`, since the Trainer would drop the images otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import ProcessorMixin
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


__all__ = ["ReportCollator"]
