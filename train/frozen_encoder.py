"""Fine-tuning below a frozen vision encoder, which then looks at every study once instead of once per epoch.

The images must not be augmented. Apart from rounding, loss and gradients are those of training with the images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import ProcessorMixin
from transformers.image_processing_base import BatchFeature

from ..configuration.vision_tokens import visual_width
from ..modeling_mambaxray.modeling_mambaxray import MambaXrayForConditionalGeneration

if TYPE_CHECKING:
    import datasets


@torch.no_grad()
def encode_studies(
    model: MambaXrayForConditionalGeneration,
    processor: ProcessorMixin,
    studies: "datasets.Dataset",
    file: Path,
    *,
    batch_size: int = 16,
) -> None:
    """Writes the visual tokens of studies `(studies, tokens, vision_hidden)` to a `.npy` file in float32.

    Args:
        model: the report generator whose encoder is frozen. It is put into evaluation mode.
        processor: its `MambaXrayProcessor`.
        studies: in the package's schema (`data/schema.py`).
        file: where to write.
        batch_size: studies encoded at once.
    """
    model.eval()
    shape = (len(studies), model.config.visual_sequence_length, visual_width(model.config.vision_config))
    tokens = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, len(studies), batch_size):
        images = processor.image_processor(studies[start : start + batch_size]["images"], return_tensors="pt")
        visual_tokens = model.encode_views(**images.to(model.device))
        tokens[start : start + batch_size] = visual_tokens.float().cpu().numpy()
    tokens.flush()


class EncodedStudies(Dataset):
    """Reports, and the visual tokens of their images from files that are mapped into memory.

    Args:
        reports: one per study.
        files: what `encode_studies` wrote, in the order of the reports.

    Raises:
        ValueError: there are not as many reports as encoded studies.
    """

    def __init__(self, reports: Iterable[str], files: Sequence[Path]):
        self.reports = list(reports)
        arrays = [np.load(file, mmap_mode="r") for file in files]
        self._rows = [(array, row) for array in arrays for row in range(len(array))]
        if len(self._rows) != len(self.reports):
            raise ValueError(f"{len(self.reports)} reports for {len(self._rows)} encoded studies")

    def __len__(self) -> int:
        return len(self.reports)

    def __getitem__(self, index: int) -> dict[str, Any]:
        array, row = self._rows[index]
        return {"report": self.reports[index], "visual_tokens": torch.from_numpy(array[row].copy())}


@dataclass(frozen=True)
class EncodedStudyCollator:
    """Makes batches of `EncodedStudies` for an `EncodedStudyModel`.

    Attributes:
        processor: the model's `MambaXrayProcessor`.
        max_report_length: longest report in tokens, its end token included; longer ones are cut.
    """

    processor: ProcessorMixin
    max_report_length: int | None = None

    def __call__(self, studies: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """`visual_tokens` `(batch, tokens, vision_hidden)`, and `input_ids`, `attention_mask`, `labels` as a
        `ReportCollator` gives them."""
        batch = self.processor(
            text=[self.processor.default_prompt] * len(studies),
            reports=[study["report"] for study in studies],
            max_report_length=self.max_report_length,
            return_tensors="pt",
        )
        batch["visual_tokens"] = torch.stack([study["visual_tokens"] for study in studies])
        return batch


__all__ = ["EncodedStudies", "EncodedStudyCollator", "encode_studies"]
