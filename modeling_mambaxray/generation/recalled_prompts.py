"""Prompts that hold what the model itself finds by the images, such as the report of a similar study.

A prompt is written where images are read, in worker processes that have no model. For a model that `recalls`, the
worker leaves it open; here, where the model is, the images are encoded, `recall` looks at them, and the processor
writes the prompt with what was found. The images are encoded once: what follows gets their visual tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .study_batch import stack_studies

_OPEN = "study_without_prompt"
_INSTRUCTION = "instruction"


def prepare_for_generation(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    studies: Sequence[Mapping[str, Any]],
    instruction: str | None = None,
) -> BatchFeature:
    """What `model.generate` takes of studies, whatever the model: `processor.prepare_studies`, and before it what the
    model recalls.

    Args:
        model: a report generator.
        processor: its processor.
        studies: in the package's schema; a model that recalls training studies leaves out those of the same `study_id`
            or `patient_id`.
        instruction: in place of the processor's own.
    """
    if not recalls(model):
        return processor.prepare_studies(studies, instruction=instruction).to(model.device)
    opened = [prepare_study(processor, study, instruction, is_open=True) for study in studies]
    prepared = with_recalled_prompts(model, processor, opened, len(opened))
    batch = stack_studies(list(prepared), processor.tokenizer.pad_token_id, model.study_inputs)
    return BatchFeature(batch).to(model.device)


def recalls(model: Any) -> bool:
    """Whether the model's prompts are to be written with what it recalls."""
    # Code that a repository brings along may be older than the attribute.
    return bool(getattr(model, "recalls", False))


def prepare_study(
    processor: ProcessorMixin, study: Mapping[str, Any], instruction: str | None, is_open: bool
) -> dict[str, Any]:
    """What can be done of one study without the model.

    Args:
        processor: the model's processor.
        study: in the package's schema.
        instruction: in place of the processor's own.
        is_open: whether the model `recalls`, so that the prompt is left open: there are the images, and what the prompt
            will be written of.
    """
    if not is_open:
        return dict(processor.prepare_studies([study], instruction=instruction))
    known = {name: value for name, value in study.items() if name not in ("images", "image")}
    images = processor.prepare_images([study])
    return {**images, _OPEN: processor.without_withheld(known), _INSTRUCTION: instruction}


@torch.no_grad()
def with_recalled_prompts(
    model: PreTrainedModel, processor: ProcessorMixin, studies: Iterable[Mapping[str, Any]], batch_size: int
) -> Iterator[Mapping[str, Any]]:
    """Writes the prompts that were left open, of `batch_size` studies at a time; others pass through as they are.

    Args:
        model: a report generator, in evaluation mode.
        processor: its processor.
        studies: what `prepare_study` gives.
        batch_size: studies that are read ahead, encoded and looked up together.

    Yields:
        Each study as the processor prepares one, with `visual_tokens` in place of its images.
    """
    studies = iter(studies)
    while some := list(islice(studies, batch_size)):
        opened = [study for study in some if _OPEN in study]
        recalled = iter(_recalled(model, opened) if opened else ())
        for study in some:
            if _OPEN not in study:
                yield study
                continue
            found, tokens = next(recalled)
            complete = {**study[_OPEN], **found}
            prompts = processor.prepare_prompts([complete], instruction=study[_INSTRUCTION])
            yield {**prompts.to(model.device), "visual_tokens": tokens}


def _recalled(model: PreTrainedModel, opened: Sequence[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
    """What was recalled for each study, and its visual tokens `(1, tokens, vision_hidden)`."""
    images = [{name: value for name, value in each.items() if name not in (_OPEN, _INSTRUCTION)} for each in opened]
    batch = {name: value.to(model.device) for name, value in stack_studies(images).items()}
    visual_tokens = model.encode_views(**batch)
    recalled = model.recall(visual_tokens, [each[_OPEN] for each in opened])
    yield from zip(recalled, visual_tokens.split(1), strict=True)


__all__ = ["prepare_for_generation", "prepare_study", "recalls", "with_recalled_prompts"]
