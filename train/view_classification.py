"""Training a `ViewClassifier` on the radiographs of a data set whose views are known."""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..data.schema import VIEWS
from ..data.view_classifier import ViewClassifier
from ..data.whole_file import write_whole
from ..evaluation.metric_table import mean_table
from ..evaluation.statistics import bootstrap_intervals
from ..processing.image_processing_mambaxray import MambaXrayImageProcessor

logger = logging.getLogger(__name__)

SCORES_FILE = "view_scores.json"


@dataclass(frozen=True)
class _View:
    """One radiograph of a data set: row and number within its study, its label and its patient."""

    row: int
    number: int
    label: str
    patient: str


class _Images(Dataset):
    """The radiographs of a data set as a classifier takes them, each prepared once."""

    def __init__(self, studies: Sequence[Mapping[str, Any]], views: Sequence[_View], processor: Any, labels: list[str]):
        images: list[Any] = [None] * len(views)
        by_row: dict[int, list[int]] = {}
        for index, view in enumerate(views):
            by_row.setdefault(view.row, []).append(index)
        for row, indices in by_row.items():
            shown = studies[row]["images"]
            for index in indices:
                pixels = processor([[shown[views[index].number]]], return_tensors="pt")["pixel_values"][0, 0]
                images[index] = pixels.half()  # twice as many fit
        self._images, self._labels = images, [labels.index(view.label) for view in views]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self._images[index].float(), "labels": self._labels[index]}


def train_view_classifier(
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    image_size: int = 128,
    epochs: int = 12,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> tuple[ViewClassifier, dict[str, Any]]:
    """A small residual network that tells the views of radiographs apart.

    It learns from the training split alone, in which every view counts equally, however many images it has; training
    images are shifted by a few pixels at random. About 0.3 million parameters.

    Args:
        splits: studies of the package's schema by split, with `images`, `views` and `patient_id`. Images whose view is
            not known are left out.
        image_size: side of the images in pixels.
        epochs: passes over the training images.
        batch_size: images of a step.
        learning_rate: the largest, with a warm-up and a decay to 0.
        seed: of weights, order and shifts.

    Returns:
        The classifier, and its scores (see `score_views`) by split other than the training split.

    Raises:
        ValueError: the training split has fewer than two views to tell apart, or a patient is in two splits.
    """
    known = {name: list(_known_views(studies)) for name, studies in splits.items()}
    counts = Counter(view.label for view in known.get("train", ()))
    labels = [view for view in VIEWS if counts[view]]
    if len(labels) < 2:
        raise ValueError(
            f"the training split must have images of at least two of the views {', '.join(VIEWS)}; it has "
            f"{', '.join(labels) or 'none'}"
        )
    held_out = {view.patient for name, views in known.items() if name != "train" for view in views}
    if shared := sorted({view.patient for view in known["train"]} & held_out):
        raise ValueError(f"{len(shared)} patients have images in training and in another split, such as {shared[0]!r}")
    set_seed(seed)
    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    processor = MambaXrayImageProcessor(size={"height": image_size, "width": image_size})
    weights = torch.tensor([len(known["train"]) / (len(labels) * counts[label]) for label in labels])
    with tempfile.TemporaryDirectory() as folder:
        trainer = _ShiftingTrainer(
            model=ResNetForImageClassification(config),
            args=TrainingArguments(
                folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=batch_size,
                learning_rate=learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.1,
                weight_decay=0.01,
                seed=seed,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                dataloader_pin_memory=torch.cuda.is_available(),
                disable_tqdm=True,
            ),
            train_dataset=_Images(splits["train"], known["train"], processor, labels),
            compute_loss_func=lambda outputs, targets, num_items_in_batch=None: nn.functional.cross_entropy(
                outputs.logits, targets, weight=weights.to(outputs.logits)
            ),
        )
        # The one that prints; callers show what they want.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    classifier = ViewClassifier(trainer.model.cpu(), processor)
    scores = {name: score_views(classifier, splits[name]) for name in splits if name != "train" and known[name]}
    return classifier, {"training_images": dict(counts), **scores}


class _ShiftingTrainer(Trainer):
    """Shifts the training images of a step, by up to a sixteenth of their side."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        pixels = inputs["pixel_values"]
        most = pixels.shape[-1] // 16
        down, right = torch.randint(-most, most + 1, (2,)).tolist()
        return super().training_step(
            model, inputs | {"pixel_values": torch.roll(pixels, (down, right), dims=(-2, -1))}, *args, **kwargs
        )


def score_views(classifier: ViewClassifier, studies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often a classifier is right on radiographs whose view is known.

    Args:
        classifier: the classifier.
        studies: of the package's schema. Images of a view that the classifier does not tell are left out.

    Returns:
        `images`, `patients`, `accuracy` with `accuracy_interval` (95 %, bootstrap over patients), and `recall` by view.

    Raises:
        ValueError: there is no image of one of its views.
    """
    views = [view for view in _known_views(studies) if view.label in classifier.views]
    if not views:
        raise ValueError(f"no image has one of the views {', '.join(classifier.views)}")
    predicted = classifier.predict([studies[view.row]["images"][view.number] for view in views])
    right = np.array([found.view == view.label for found, view in zip(predicted, views, strict=True)], dtype=float)
    names = sorted({view.patient for view in views})
    numbers = {name: number for number, name in enumerate(names)}
    interval = bootstrap_intervals(
        [mean_table({"accuracy": right})], np.array([numbers[view.patient] for view in views]), seed=0
    )["accuracy"]
    labels = np.array([view.label for view in views])
    return {
        "images": len(views),
        "patients": len(names),
        "accuracy": float(right.mean()),
        "accuracy_interval": [float(bound) for bound in interval],
        "recall": {
            label: float(right[labels == label].mean()) for label in classifier.views if (labels == label).any()
        },
    }


def save_view_classifier(classifier: ViewClassifier, scores: Mapping[str, Any], folder: str | Path) -> None:
    """Writes the classifier, and its scores beside it (`view_scores.json`)."""
    classifier.save_pretrained(folder)
    write_whole(Path(folder) / SCORES_FILE, json.dumps(scores, indent=1) + "\n")


def _known_views(studies: Sequence[Mapping[str, Any]]) -> Iterator[_View]:
    table: Any = studies
    rows = table.select_columns(["views", "patient_id"]) if hasattr(table, "select_columns") else table
    for row, study in enumerate(rows):
        for number, view in enumerate(study["views"]):
            if view in VIEWS:
                yield _View(row, number, view, study["patient_id"])


__all__ = ["SCORES_FILE", "save_view_classifier", "score_views", "train_view_classifier"]
