"""The visual bank of AM-MRG: tokens of the regions where a stage-1 classifier sees each observation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.schema import OBSERVATIONS, PRESENT
from ..modeling_mambaxray.layers.activation_maps import (
    CAM_METHODS,
    class_activation_maps,
    region_tokens,
    strongest_regions,
)
from ..modeling_mambaxray.layers.study_memory import MemorySource
from ..modeling_mambaxray.layers.views import encode_images, present_views
from .memory_building import MemoryPlan
from .memory_schedule import Track
from .stage_one import StageOneEncoder
from .stored_models import StoredModel
from .training_studies import MemoryBuildError, TrainingStudies, order_by_seed


@dataclass(frozen=True)
class VisualMemoryOptions:
    """What the visual bank is made of.

    Attributes:
        cam: the activation map, one of `CAM_METHODS`.
        threshold: a patch is a region of its observation when the map, which reaches from 0 to 1, is above this; the
            paper's tau, whose value it does not state.
        regions: regions of an image, the most.
        per_disease: regions of an observation in the bank, the most.

    Source: AM-MRG, section III-C, tables V and IX.
    """

    cam: str = "gradcam"
    threshold: float = 0.5
    regions: int = 6
    per_disease: int = 500

    def __post_init__(self) -> None:
        if self.cam not in CAM_METHODS:
            raise ValueError(f"the activation map must be one of {', '.join(CAM_METHODS)}, got {self.cam!r}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"the threshold must be at least 0 and below 1, got {self.threshold}")
        for name in ("regions", "per_disease"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class VisualEncoder(StageOneEncoder):
    """Makes `values` of studies on the track of an observation: the tokens of its regions."""

    options: VisualMemoryOptions = VisualMemoryOptions()

    def __call__(self, track: str, studies: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """See `StudyEncoder`."""
        model, _ = self.parts
        images, views_per_study = present_views(*self.pixels(studies))
        with torch.no_grad():
            tokens = encode_images(model.vision_encoder, images)
        targets = [model.config.label2id[track]] * len(studies)
        maps = class_activation_maps(model, tokens, targets, views_per_study, self.options.cam)
        regions = strongest_regions(maps, self.options.threshold, self.options.regions)
        of_image = torch.arange(len(studies), device=images.device).repeat_interleave(
            torch.as_tensor(views_per_study, device=images.device)
        )
        return {
            "values": region_tokens(model, images, regions).float(),
            "study": of_image.repeat_interleave(regions.flatten(1).sum(dim=1)),
        }


def plan_visual_memory(
    studies: TrainingStudies,
    classifier: StoredModel,
    observations: Sequence[str],
    data_set: str,
    options: VisualMemoryOptions | None = None,
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> MemoryPlan:
    """A visual bank: of each observation the studies that have it, in an order drawn by the seed, until there are
    enough regions.

    Args:
        studies: what may be remembered.
        classifier: a stage-1 classifier.
        observations: those that it tells, see `check_classifier`.
        data_set: name of the data set.
        options: what the bank is made of.
        seed: decides which studies come first.
        batch_size: studies that go through the classifier at once.

    Raises:
        MemoryBuildError: no study has any observation.
    """
    options = options or VisualMemoryOptions()
    tracks = []
    for name in OBSERVATIONS:
        if name not in observations:
            continue
        rows = order_by_seed(studies.with_label(name, PRESENT), studies.study_ids, seed, name)
        tracks.append(Track(name, rows, options.per_disease))
    if not any(track.rows for track in tracks):
        raise MemoryBuildError(
            "no training study has a label that says that one of the model's observations is present, so there is "
            "nothing to keep: "
            "prepare the data set with labels"
        )
    source = MemorySource(
        data_set,
        classifier.name,
        classifier.revision,
        seed,
        {
            "memory": "visual",
            **vars(options),
            "batch_size": batch_size,
            "model": classifier.content,
            "studies": studies.content,
        },
    )
    encoder = VisualEncoder(classifier.folder, options=options)
    return MemoryPlan(tracks, encoder, ("images",), source, with_reports=False, batch_size=batch_size)


__all__ = ["VisualEncoder", "VisualMemoryOptions", "plan_visual_memory"]
