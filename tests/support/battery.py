"""What the battery of `tests/test_families.py` asks any family: inputs, a loss, an output, whatever the model is.

What a family has is read off its model and processor, so that a new row of `families.py` is tested as it stands.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, PreTrainedModel

from mambaxray import ClassificationCollator, Family, MambaXrayProcessor
from mambaxray.data.phantoms import make_study
from mambaxray.modeling_mambaxray.hub.separate_parts import SeparatePartsMixin


@dataclass
class Subject:
    """A family, and a tiny model of it in a folder."""

    family: Family
    folder: Path

    def load(self, **options: Any) -> PreTrainedModel:
        """The model of the folder, whatever is done to the others."""
        return AutoModel.from_pretrained(self.folder, **options).eval()

    def save(self, folder: Path) -> None:
        """The model with all that it has."""
        parts = {"save_training_parts": True} if isinstance(self.model, SeparatePartsMixin) else {}
        self.model.save_pretrained(folder, **parts)

    @cached_property
    def model(self) -> PreTrainedModel:
        """Shared by tests that leave it as it is."""
        return self.load()

    @cached_property
    def processor(self) -> Any:
        """The processor, or the image processor of a family without text."""
        auto_class = AutoImageProcessor if self.family.processor is None else AutoProcessor
        return auto_class.from_pretrained(self.folder)

    @property
    def generates(self) -> bool:
        return self.family.model_class.can_generate()

    def inputs(self, seeds: tuple[int, ...] = (0, 1), training: bool = True, views: int = 1) -> dict[str, Tensor]:
        """A batch of phantoms, as the family's own processor prepares them.

        Args:
            seeds: one phantom each.
            training: with what only training knows.
            views: of each study, where the model takes several.
        """
        studies = [make_study(seed) for seed in seeds]
        for study in studies:
            study["images"] = (study["images"] * views)[:views]
            study["views"] = (study["views"] * views)[:views]
        if isinstance(self.processor, MambaXrayProcessor):
            return dict(self.processor.prepare_studies(studies, with_reports=training))
        if self.family.stage == "classify":
            tokenizer = getattr(self.processor, "tokenizer", None)
            collator = ClassificationCollator(getattr(self.processor, "image_processor", self.processor), tokenizer)
            batch = dict(collator(studies))
            return batch if training else {name: value for name, value in batch.items() if name != "labels"}
        images = [study["images"][0] for study in studies]
        image_processor = getattr(self.processor, "image_processor", self.processor)
        # One image each: without the axis of views.
        inputs = {"pixel_values": image_processor(images, return_tensors="pt")["pixel_values"].flatten(0, 1)}
        if hasattr(self.processor, "tokenizer"):
            reports = [study["report"] for study in studies]
            inputs |= self.processor.tokenizer(reports, padding=True, return_tensors="pt")
        return inputs


def loss_of(output: Any) -> Tensor:
    """The model's loss; of a model without one, a number that all of its output enters."""
    loss = getattr(output, "loss", None)
    return first_tensor(output).square().mean() if loss is None else loss


def first_tensor(output: Any) -> Tensor:
    """Logits or hidden states: the first tensor of an output that is no number."""
    return next(value for value in output.to_tuple() if isinstance(value, Tensor) and value.ndim > 0)


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output."""
    return [value for value in output.to_tuple() if isinstance(value, Tensor)]
