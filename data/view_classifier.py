"""The projection of chest radiographs, told from their pixels where a data set does not state it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from transformers import AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

from ..processing.image_processing_mambaxray import MambaXrayImageProcessor
from .schema import VIEWS

_WEIGHTS = "model.safetensors"


class ViewPrediction(NamedTuple):
    """The most probable view of an image.

    Attributes:
        view: one of the classifier's views.
        probability: of this view, as the classifier has it.
    """

    view: str
    probability: float


class ViewClassifier:
    """Tells PA, AP and LATERAL radiographs apart, or those of them that it was trained on.

    Args:
        model: an image classifier of transformers whose labels are views.
        image_processor: what prepares its images.

    Raises:
        ValueError: a label of the model is no view.

    Attributes:
        views: what it tells apart, in the order of the model's logits.
    """

    def __init__(self, model: PreTrainedModel, image_processor: BaseImageProcessor):
        self.model, self.image_processor = model.eval(), image_processor
        self.views = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
        if unknown := [view for view in self.views if view not in VIEWS]:
            raise ValueError(f"the labels of a view classifier are {', '.join(VIEWS)}; this model has {unknown[0]!r}")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Loads what `save_pretrained` has written, such as FOLDER of `mambaxray views train`.

        Raises:
            FileNotFoundError: there is no such folder, or it holds no model.
            ValueError: the model tells something else than views.
        """
        if not (Path(folder) / "config.json").is_file():
            raise FileNotFoundError(f"{folder} holds no view classifier: train one by `mambaxray views train`")
        described = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        if not set(described.get("label2id") or ()) <= set(VIEWS) or not described.get("label2id"):
            raise ValueError(f"{folder} holds a {described.get('model_type')} model, which is no classifier of views")
        return cls(
            AutoModelForImageClassification.from_pretrained(folder), MambaXrayImageProcessor.from_pretrained(folder)
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes model and image processor."""
        self.model.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    @torch.no_grad()
    def predict(self, images: Sequence[Any], batch_size: int = 32) -> list[ViewPrediction]:
        """The view of each image.

        Args:
            images: anything that the image processor reads, each a view of its own.
            batch_size: images that are classified at once.
        """
        found: list[ViewPrediction] = []
        for start in range(0, len(images), batch_size):
            some = [[image] for image in images[start : start + batch_size]]
            pixels = self.image_processor(some, return_tensors="pt")["pixel_values"][:, 0]
            probabilities = self.model(pixels.to(self.model.device)).logits.float().softmax(-1).max(-1)
            found += [
                ViewPrediction(self.views[index], value)
                for value, index in zip(probabilities.values.tolist(), probabilities.indices.tolist(), strict=True)
            ]
        return found


def classifier_digest(folder: str | Path) -> str:
    """What identifies a saved classifier: sha256 of its weights.

    Raises:
        FileNotFoundError: there are none.
    """
    file = Path(folder) / _WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no view classifier: train one by `mambaxray views train`")
    return hashlib.sha256(file.read_bytes()).hexdigest()


__all__ = ["ViewClassifier", "ViewPrediction", "classifier_digest"]
