"""What a model recalls for the prompts of its training data, found once: a step of training looks nothing up."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

if TYPE_CHECKING:
    from datasets import Dataset


@torch.no_grad()
def with_recalled(
    studies: "Dataset",
    model: PreTrainedModel,
    processor: ProcessorMixin,
    *,
    is_training: bool,
    seed: int = 0,
    batch_size: int = 16,
) -> "Dataset":
    """The studies with what the model recalls for each as further columns, which the processor finds there.

    Args:
        studies: in the package's schema.
        model: a report generator with its memories. What finds and is found must stay as it is in training.
        processor: its processor.
        is_training: whether these are the studies that are learned from, which the memory knows: it is asked first, and
            only the images of those that it does not have are looked at.
        seed: of what is drawn at random.
        batch_size: studies that are encoded at once.
    """
    if not model.recalls:
        return studies
    rows: list[dict[str, Any]] = studies.select_columns(["study_id", "patient_id"]).to_list()
    found: list[Mapping[str, Any] | None] = [None] * len(rows)
    if is_training:
        found = list(model.recall_for_training(rows, seed))
    missing = [index for index, each in enumerate(found) if each is None]
    was_training = model.training
    model.eval()
    for start in range(0, len(missing), batch_size):
        some = missing[start : start + batch_size]
        images = processor.prepare_images([studies[index] for index in some]).to(model.device)
        recalled = model.recall(model.encode_views(**images), [rows[index] for index in some])
        for index, each in zip(some, recalled, strict=True):
            found[index] = each
    model.train(was_training)
    names = dict.fromkeys(name for each in found for name in each or ())
    for name in names:
        studies = studies.add_column(name, [(each or {}).get(name) for each in found])
    return studies


__all__ = ["with_recalled"]
