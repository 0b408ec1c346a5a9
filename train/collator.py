"""From studies to training batches, for the plain `Trainer` as for any loop.

Use it with `TrainingArguments(remove_unused_columns=False)`, since the Trainer would drop the images otherwise.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BaseImageProcessor, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_base import BatchFeature

from ..data.label_policy import LabelPolicy

GENERATION_KEYS = ("prompt_input_ids", "prompt_attention_mask", "reference_bytes")
"""What `ReportCollator(for_generation=True)` adds to a batch, and no model takes."""


@dataclass(frozen=True)
class ReportCollator:
    """Makes batches for supervised report generation from studies of the package's schema (`data/schema.py`).

    Attributes:
        processor: a `MambaXrayProcessor`.
        max_report_length: longest report in tokens, its end token included; longer ones are cut.
        for_generation: also give what a `ReportTrainer` needs to write reports at evaluation and compare them. The
            plain `Trainer` hands every key to the model, so leave it off there.
    """

    processor: ProcessorMixin
    max_report_length: int | None = None
    for_generation: bool = False

    def __call__(self, studies: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """`pixel_values`, `view_mask`, right-padded `input_ids`, `attention_mask`, `labels` of the studies, and the
        processor's `study_inputs`.

        With `for_generation` also the left-padded prompts `prompt_input_ids` and `prompt_attention_mask`, and the
        complete reports as `reference_bytes` `(batch, bytes)`: UTF-8, -100 behind the end, since tensors are what
        processes can exchange.

        Raises:
            ValueError: a study has no `images` (or one `image`), or no `report`.
        """
        batch = self.processor.prepare_studies(
            studies,
            with_reports=True,
            max_report_length=self.max_report_length,
            include_prompt=self.for_generation,
        )
        if self.for_generation:
            rows = [torch.tensor(list(study["report"].encode()), dtype=torch.long) for study in studies]
            batch["reference_bytes"] = pad_sequence(rows, batch_first=True, padding_value=-100)
        return batch


@dataclass(frozen=True)
class ImageCollator:
    """Makes batches of single images for pre-training, of studies or of an image folder; reports are not needed.

    Every view of a study is an image of its own, so the batch grows with the views.

    Attributes:
        image_processor: a `MambaXrayImageProcessor`, or the one of another pre-training model.
    """

    image_processor: BaseImageProcessor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`pixel_values` `(images, 3, height, width)` of rows with `images` (`data/schema.py`) or with one `image`
        (`imagefolder` of `datasets`).

        Raises:
            KeyError: a row has neither.
        """
        views = [view for row in rows for view in (row["images"] if "images" in row else [row["image"]])]
        pixel_values = self.image_processor(views, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixel_values.flatten(0, 1) if pixel_values.ndim == 5 else pixel_values}


@dataclass(frozen=True)
class ContrastiveCollator:
    """Makes batches of studies and their reports for a `MambaXrayDualEncoder`.

    Attributes:
        image_processor: a `MambaXrayImageProcessor`.
        tokenizer: the text encoder's; it needs a pad token.
        max_report_length: longest report in tokens, special ones included; longer ones are cut. The tokenizer's own
            limit when not given.

    Raises:
        ValueError: the tokenizer has no pad token.
    """

    image_processor: BaseImageProcessor
    tokenizer: PreTrainedTokenizerBase
    max_report_length: int | None = None

    def __post_init__(self) -> None:
        if self.tokenizer.pad_token is None:
            raise ValueError("the tokenizer has no pad token; set tokenizer.pad_token = tokenizer.eos_token")

    def __call__(self, studies: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """`pixel_values`, `view_mask`, the tokenizer's `input_ids`, `attention_mask` and so on of the studies, and
        `labels` `(batch,)`, equal for reports with the same words.

        Raises:
            KeyError: a study has no `images` or no `report`.
        """
        reports = [study["report"] for study in studies]
        batch = self.tokenizer(
            reports, padding=True, truncation=True, max_length=self.max_report_length, return_tensors="pt"
        )
        images = self.image_processor([list(study["images"]) for study in studies], return_tensors="pt")
        labels = torch.tensor([_number_of(report) for report in reports])
        return BatchFeature({**batch, **images, "labels": labels})


@dataclass(frozen=True)
class ClassificationCollator:
    """Makes batches of studies and their labels for models that tell diseases, such as an
    `AMMRGForDiseaseClassification`.

    Attributes:
        image_processor: a `MambaXrayImageProcessor`.
        tokenizer: the text encoder's, for a model that learns from reports too; it needs a pad token.
        max_report_length: longest report in tokens, special ones included; longer ones are cut. The tokenizer's own
            limit when not given.
        policy: what uncertain and blank labels are.

    Raises:
        ValueError: the tokenizer has no pad token.
    """

    image_processor: BaseImageProcessor
    tokenizer: PreTrainedTokenizerBase | None = None
    max_report_length: int | None = None
    policy: LabelPolicy = field(default_factory=LabelPolicy)

    def __post_init__(self) -> None:
        if self.tokenizer is not None and self.tokenizer.pad_token is None:
            raise ValueError("the tokenizer has no pad token; set tokenizer.pad_token = tokenizer.eos_token")

    def __call__(self, studies: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """`pixel_values`, `view_mask` and `labels` `(batch, 14)` of the studies: 1 present, 0 absent, NaN left out; and
        with a tokenizer its `input_ids`, `attention_mask` and so on.

        Raises:
            KeyError: a study has no `images`, no `labels`, or no `report` where one is needed.
            ValueError: see `LabelPolicy.targets`.
        """
        batch = self.image_processor([list(study["images"]) for study in studies], return_tensors="pt")
        if self.tokenizer is not None:
            reports = [study["report"] for study in studies]
            batch |= self.tokenizer(
                reports, padding=True, truncation=True, max_length=self.max_report_length, return_tensors="pt"
            )
        batch["labels"] = torch.tensor([self.policy.targets(study["labels"]) for study in studies])
        return BatchFeature(batch)


def _number_of(report: str) -> int:
    """The same non-negative number in every process for reports that differ in white space at most."""
    words = " ".join(report.split()).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest()) >> 1


__all__ = ["GENERATION_KEYS", "ClassificationCollator", "ContrastiveCollator", "ImageCollator", "ReportCollator"]
