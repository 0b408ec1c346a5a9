"""Training below a frozen vision encoder, which then looks at every study once instead of once per epoch.

Either the visual tokens are written down before (`encode_studies`), or a model remembers what its encoder gave for an
image (`remember_images`), for trainers that hand it the images again and again. The images must not be augmented. Apart
from rounding, loss and gradients are those of training with the images.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
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


class RememberedImages:
    """A vision encoder's answers by image, the last ones up to a size.

    Args:
        encode: gives visual tokens `(images, tokens, vision_hidden)` for images `(images, channels, height, width)`.
        max_bytes: size of the visual tokens that are kept.

    Attributes:
        encoded: images that were encoded.
        asked: images that were asked for.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], max_bytes: int = 2**30):
        self._encode = encode
        self._max_bytes = max_bytes
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        self.encoded = self.asked = 0

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Visual tokens of images, of which only unknown ones are encoded, and each once."""
        keys = [hashlib.blake2b(_bytes_of(image), digest_size=16).digest() for image in images]
        new = {key: place for place, key in enumerate(keys) if key not in self._known}
        tokens = {key: self._known[key] for key in keys if key not in new}
        if new:
            encoded = self._encode(images[list(new.values())])
            # One tensor each: a view of the batch would keep all of it.
            tokens |= {key: each.clone() for key, each in zip(new, encoded, strict=True)}
        self.asked += len(keys)
        self.encoded += len(new)
        for key in dict.fromkeys(keys):
            self._bytes += tokens[key].nbytes if key in new else 0
            self._known[key] = tokens[key]
            self._known.move_to_end(key)
        while self._bytes > self._max_bytes and len(self._known) > 1:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
        return torch.stack([tokens[key] for key in keys])


def _bytes_of(image: Tensor) -> bytes:
    return image.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def remember_images(model: MambaXrayForConditionalGeneration, max_bytes: int = 2**30) -> RememberedImages | None:
    """Lets a report generator encode every image once, however often it gets it; None where its encoder is trained.

    Args:
        model: the report generator. What it remembers is not saved with it.
        max_bytes: size of the visual tokens that are kept; the oldest go first.
    """
    if any(parameter.requires_grad for parameter in model.vision_encoder.parameters()):
        return None
    remembered = RememberedImages(model.encode_images, max_bytes)
    # On the instance, so that every way into the model meets it, and none of its modules changes.
    vars(model)["encode_images"] = remembered
    return remembered


__all__ = [
    "EncodedStudies",
    "EncodedStudyCollator",
    "RememberedImages",
    "encode_studies",
    "remember_images",
]
