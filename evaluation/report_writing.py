"""Reports for many studies, by one process or several: what `mambaxray generate` and `generate_predictions` share.

Images are decoded ahead by worker processes, reports are generated continuously (`modeling_mambaxray/generation/`), and
the processes that `torchrun` started each write a part of the studies. Everybody gets all reports in the order of the
studies, some at a time, so that they can be written to a file meanwhile.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, ProcessorMixin

from ..modeling_mambaxray.generation.continuous_generation import is_sharded
from ..modeling_mambaxray.generation.pipeline_image_to_text import ImageToTextPipeline, as_study
from ..modeling_mambaxray.generation.recalled_prompts import prepare_study, recalls
from ..modeling_mambaxray.layers.image_features import Evidence
from ..processing.pixel_rules import ImageReadError
from .study_report import StudyReport

_T = TypeVar("_T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outcome:
    """What became of the study of that index: a report, or the error of an image that can't be read."""

    index: int
    report: str | None = None
    error: Exception | None = None
    evidence: dict[str, Any] | None = None


class LostProcessError(RuntimeError):
    """One of several processes has ended early; what was returned before is complete."""


def write_reports(
    pipeline: ImageToTextPipeline,
    studies: Sequence[StudyReport],
    *,
    rows: Sequence[Any] | None = None,
    skip_unreadable: bool = False,
    batch_size: int = 8,
    num_workers: int = 0,
    prompt: str | None = None,
    evidence: bool = False,
    **generate_kwargs: Any,
) -> Iterator[list[StudyReport]]:
    """Writes a report for every study, each in one process.

    With several processes all of them call this with the same arguments.

    Args:
        pipeline: of the model, on this process's device.
        studies: what to report on.
        rows: the same studies in the package's schema, or their views, in any form that the processor reads, where
            the studies do not hold all that the model looks at. They are looked up (and decoded) in order, in a worker
            process when there are any.
        skip_unreadable: give a study whose image can't be read its `error` in place of a report, rather than raise.
        batch_size: studies in work at a time, per process.
        num_workers: processes, per process, that read and prepare images ahead.
        prompt: instruction for all studies, in place of the processor's own.
        evidence: whether to keep what the model gives as evidence, with each report.
        generate_kwargs: arguments of `model.generate`.

    Yields:
        The next studies with their reports, in order, the same in every process; `batch_size` times the number of
        processes, and fewer at the end.

    Raises:
        ValueError: `batch_size` is not positive, or accelerate does not know the processes.
        ImageReadError, OSError: an image that can't be read, unless `skip_unreadable`.
        LostProcessError: another process has ended.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    state = process_state()
    if state.is_main_process:
        _warn_of_remembered(pipeline.model, studies)
    # All processes must call a sharded model equally often, so they get equally many studies.
    is_even = is_sharded(pipeline.model)
    per_step = batch_size * state.num_processes
    steps = [range(start, min(start + per_step, len(studies))) for start in range(0, len(studies), per_step)]
    shares = [_share(step, state, is_even) for step in steps]
    own = [index for share in shares for index in share]
    if rows is None:
        rows = [{**(study.context or {}), "study_id": study.study_id, "images": study.images} for study in studies]
    prepared = _PreparedStudies(pipeline.processor, rows, own, prompt, recalls(pipeline.model))
    arguments = pipeline.generation_arguments(**generate_kwargs)
    written = _in_order(pipeline, prepared, own, batch_size, num_workers, arguments, evidence)
    for step, share in zip(steps, shares, strict=True):
        # Each process's share lies behind the one before it, so repeated studies come last.
        outcomes = _gathered([next(written) for _ in share])[: len(step)]
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        if errors and not skip_unreadable:
            raise errors[0]
        yield [
            replace(
                studies[outcome.index],
                report=outcome.report,
                error=None if outcome.error is None else str(outcome.error),
                evidence=outcome.evidence,
            )
            for outcome in outcomes
        ]


def _warn_of_remembered(model: PreTrainedModel, studies: Sequence[StudyReport]) -> None:
    """Says which studies the model looks up while it writes of them, as it does where a test study was trained on."""
    memories = getattr(model, "study_memory", None)
    held = memories.values() if isinstance(memories, Mapping) else ()
    remembered = {study for memory in held for study in getattr(memory, "study_ids", ())}
    if shared := [study.study_id for study in studies if study.study_id in remembered]:
        logger.warning(
            "%d of %d studies, such as %s, are training studies in the model's memory: what it writes of them says "
            "nothing of what it would write of others",
            len(shared),
            len(studies),
            shared[0],
        )


def process_state() -> PartialState:
    """The processes that work together.

    Raises:
        ValueError: several were started, but accelerate does not know them.
    """
    # Without an accelerator, accelerate (1.15) joins the processes only when the CPU is requested.
    state = PartialState(cpu=not torch.accelerator.is_available())
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != started:
        raise ValueError(
            f"{started} processes were started, but accelerate knows {state.num_processes}: every process would write "
            "all reports. Make accelerate's state at the start of the program, on the CPU by PartialState(cpu=True)"
        )
    return state


def in_main_process(function: Callable[[], _T]) -> _T:
    """What the function returns or raises in the main process, in all processes."""
    outcome: list[Any] = [None]
    if process_state().is_main_process:
        try:
            outcome[0] = function()
        # Whatever it is: the other processes wait for it, and end with it.
        except Exception as error:  # noqa: BLE001
            outcome[0] = error
    broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _share(step: range, state: PartialState, is_even: bool) -> list[int]:
    """This process's part of a step. When all parts must be equally long, the last study is repeated."""
    length = -(-len(step) // state.num_processes)
    studies = [*step]
    if is_even:
        studies += [step[-1]] * (length * state.num_processes - len(step))
    return studies[state.process_index * length :][:length]


def _gathered(own: list[_Outcome]) -> list[_Outcome]:
    try:
        return gather_object(own)
    except RuntimeError as error:
        raise LostProcessError(
            "another process has ended before its reports were written; those that are in the output are complete, "
            "and resuming writes the missing ones"
        ) from error


class _PreparedStudies(Dataset):
    """What the model takes of each study, or the error of an image that can't be read."""

    def __init__(
        self,
        processor: ProcessorMixin,
        rows: Sequence[Any],
        indices: Sequence[int],
        prompt: str | None,
        is_open: bool,
    ):
        # Not the pipeline, so that no model is sent to worker processes.
        self._processor = processor
        self._rows = rows
        self._indices = indices
        self._prompt = prompt
        self._is_open = is_open

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> dict[str, Any] | Exception:
        try:
            study = as_study(self._rows[self._indices[position]])
            return prepare_study(self._processor, study, self._prompt, self._is_open)
        except (ImageReadError, OSError) as error:
            return error


def _in_order(
    pipeline: ImageToTextPipeline,
    prepared: _PreparedStudies,
    indices: Sequence[int],
    batch_size: int,
    num_workers: int,
    arguments: Mapping[str, Any],
    with_evidence: bool,
) -> Iterator[_Outcome]:
    """This process's reports, put back into order: short ones are finished before longer ones that began earlier."""
    readable: list[int] = []
    done: dict[int, _Outcome] = {}
    evidence: dict[int, dict[str, Any]] = {}

    def keep(number: int, given: list[Evidence]) -> None:
        evidence[number] = {each.observation: each.to_dict() for each in given}

    def inputs() -> Iterator[dict[str, Any]]:
        # One study at a time: they are put together where it is known how many there is room for.
        loader = DataLoader(prepared, batch_size=None, num_workers=num_workers, collate_fn=_unchanged)
        for position, study in enumerate(loader):
            if isinstance(study, Exception):
                done[position] = _Outcome(indices[position], error=study)
            else:
                readable.append(position)
                yield study

    generated = pipeline.reports_of(
        inputs(), batch_size=batch_size, on_evidence=keep if with_evidence else None, **arguments
    )
    for position in range(len(indices)):
        while position not in done:
            # When none is left, reading the images to their end has found that this one is missing.
            number, reports = next(generated, (None, None))
            if number is not None and reports is not None:
                index = indices[readable[number]]
                # Of several the first one is the best.
                done[readable[number]] = _Outcome(index, reports[0], evidence=evidence.pop(number, None))
        yield done.pop(position)


def _unchanged(study: _T) -> _T:
    return study


__all__ = ["LostProcessError", "in_main_process", "process_state", "write_reports"]
