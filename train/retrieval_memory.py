"""The retrieval memory of the dual-stage system (DMSR): what each training study is found by, and its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..modeling_mambaxray.layers.retrieval_keys import retrieval_keys
from ..modeling_mambaxray.layers.study_memory import MemorySource
from .memory_building import MemoryPlan
from .memory_schedule import Track
from .stage_one import StageOneEncoder
from .stored_models import StoredModel
from .training_studies import MemoryBuildError, TrainingStudies


@dataclass(frozen=True)
class RetrievalEncoder(StageOneEncoder):
    """Makes `visual` and `disease` of studies."""

    def __call__(self, track: str, studies: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """See `StudyEncoder`."""
        model, _ = self.parts
        with torch.no_grad():
            output = model(*self.pixels(studies))
        return {**retrieval_keys(output.visual_tokens, output.logits), "study": torch.arange(len(studies))}


def plan_retrieval_memory(
    studies: TrainingStudies, classifier: StoredModel, data_set: str, *, batch_size: int = 32
) -> MemoryPlan:
    """A retrieval memory of all training studies that have a report, one row each, in the data set's order.

    Args:
        studies: what may be remembered.
        classifier: a stage-1 classifier.
        data_set: name of the data set.
        batch_size: studies that go through the classifier at once.

    Raises:
        MemoryBuildError: no study has a report.
    """
    rows = studies.with_report()
    if not rows:
        raise MemoryBuildError("no training study has a report, so there is nothing to retrieve")
    options = {
        "memory": "retrieval",
        "batch_size": batch_size,
        "model": classifier.content,
        "studies": studies.content,
    }
    source = MemorySource(data_set, classifier.name, classifier.revision, None, options)
    encoder = RetrievalEncoder(classifier.folder)
    return MemoryPlan([Track("", rows)], encoder, ("images",), source, with_reports=True, batch_size=batch_size)


__all__ = ["RetrievalEncoder", "plan_retrieval_memory"]
