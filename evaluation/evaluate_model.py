"""Run a model over a data set, in one process or several, so that every study gets exactly one report, and score it.

The reports are written by `ImageToTextPipeline`, as everywhere in the package; here are the division of the studies
among processes, the file that grows while they are written, and the way back into it after an interruption.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, extract_model_from_parallel, gather_object
from torch.utils.data import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from ..modeling_mambaxray.pipeline_image_to_text import ImageToTextPipeline
from .predictions import Prediction, append_predictions, drop_half_line, read_predictions
from .scoring import evaluate_reports


@dataclass(frozen=True)
class ModelEvaluation:
    """What a model wrote for a data set, and what it is worth.

    Attributes:
        predictions: one per study, in the order of the data set.
        result: what `evaluate_reports` returned for them.
    """

    predictions: list[Prediction]
    result: dict[str, Any]


def evaluate_model(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Sequence[Mapping[str, Any]],
    *,
    scoring: Mapping[str, Any] | None = None,
    **options: Any,
) -> ModelEvaluation:
    """Writes a report for every study of a data set and scores them all.

    Args:
        model, processor, dataset: see `generate_predictions`.
        scoring: arguments of `evaluate_reports` (`metrics`, `tokenize`, `protocol`, `training_reports`, …). Studies of
            one patient are resampled together.
        options: arguments of `generate_predictions`, and of `model.generate`.

    Returns:
        Predictions and scores, the same in every process; only the main one computes scores.

    Raises:
        ValueError, FileExistsError, ImageReadError: see `generate_predictions` and `evaluate_reports`.
    """
    predictions = generate_predictions(model, processor, dataset, **options)
    return ModelEvaluation(predictions, _in_main_process(lambda: score_predictions(predictions, **(scoring or {}))))


def score_predictions(predictions: Sequence[Prediction], **scoring: Any) -> dict[str, Any]:
    """`evaluate_reports` of predictions, with their study ids and patients; `scoring` are its further arguments."""
    return evaluate_reports(
        {prediction.study_id: prediction.reference for prediction in predictions},
        {prediction.study_id: prediction.report for prediction in predictions},
        **{"patients": {prediction.study_id: prediction.patient_id for prediction in predictions}} | scoring,
    )


def generate_predictions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Sequence[Mapping[str, Any]],
    *,
    output: str | PathLike | None = None,
    resume: bool = False,
    batch_size: int = 8,
    num_workers: int = 0,
    prompt: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **generate_kwargs: Any,
) -> list[Prediction]:
    """Writes a report for every study of a data set.

    Under `accelerate launch` or `torchrun` each process calls this with the same arguments and its own copy of the
    model, or its part of a sharded one, on its own device. All of them do the same number of steps, as a sharded model
    needs it; where the studies run out, a process repeats one, and its second report is dropped.

    Args:
        model: the report generator, where it is to run (`model.to(PartialState().device)`); what `accelerate` wrapped
            around it is taken off.
        processor: its processor.
        dataset: studies of the package's schema, such as a split of `make_phantoms`: `study_id`, `images`, `report`
            and, when the data set knows it, `patient_id`.
        output: JSON lines file that receives the predictions of every step, in the order of the data set. Only the
            main process writes, so the others need not see the folder.
        resume: go on with an `output` that exists, and make one that doesn't.
        batch_size: studies per process and step.
        num_workers: processes (per process) that read images ahead.
        prompt: instruction for all studies, in place of the processor's own.
        progress: called in the main process with the numbers of finished and of all studies.
        generate_kwargs: arguments of `model.generate` (`max_new_tokens`, `num_beams`, …).

    Returns:
        One prediction per study, in the order of the data set, in every process.

    Raises:
        ValueError: no studies, a column missing, a study id twice, an `output` of other studies or settings, or
            processes that accelerate does not know.
        FileExistsError: `output` exists and `resume` is not set.
        ImageReadError: an image that can't be read.
    """
    state = _state()
    model = extract_model_from_parallel(model)
    studies = _texts(dataset)
    settings = json.dumps(
        {"model": model.config.name_or_path, "prompt": prompt, **generate_kwargs}, sort_keys=True, default=str
    )
    output = None if output is None else Path(output)
    done = {prediction.study_id: prediction for prediction in _start(output, resume, studies, settings)}
    todo = [index for index, study in enumerate(studies) if study["study_id"] not in done]
    per_step = batch_size * state.num_processes
    steps = [todo[start : start + per_step] for start in range(0, len(todo), per_step)]
    own = [_share(step, state) for step in steps]

    was_training = model.training
    model.eval()
    try:
        reports = _write(model, processor, dataset, own, batch_size, num_workers, prompt, generate_kwargs)
        if progress is not None and state.is_main_process:
            progress(len(done), len(studies))
        for step, share in zip(steps, own, strict=True):
            started = perf_counter()
            # Each process's share lies behind the one before it, so the repeated studies come last.
            gathered = gather_object([next(reports) for _ in share])[: len(step)]
            seconds = (perf_counter() - started) / len(step)
            predictions = [
                Prediction(**studies[index], report=report, seconds=seconds, settings=settings)
                for index, report in zip(step, gathered, strict=True)
            ]
            done |= {prediction.study_id: prediction for prediction in predictions}
            if state.is_main_process:
                if output is not None:
                    append_predictions(output, predictions)
                if progress is not None:
                    progress(len(done), len(studies))
    finally:
        model.train(was_training)
    return [done[study["study_id"]] for study in studies]


def _state() -> PartialState:
    # Without an accelerator, accelerate (1.15) joins the processes only when it is told to use the CPU.
    state = PartialState(cpu=not torch.accelerator.is_available())
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != started:
        raise ValueError(
            f"{started} processes were started, but accelerate knows {state.num_processes}: every process would write "
            "all reports. Make accelerate's state at the start of the program, on the CPU by PartialState(cpu=True)"
        )
    return state


def _texts(dataset: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Ids and references, without decoding images."""
    columns = dataset.column_names if hasattr(dataset, "column_names") else list(dataset[0]) if len(dataset) else []
    if not len(dataset):
        raise ValueError("the data set holds no studies")
    if missing := {"study_id", "images", "report"} - set(columns):
        raise ValueError(f"the data set lacks {', '.join(sorted(missing))}; its columns are {', '.join(columns)}")

    def column(name: str) -> list[Any]:
        return list(dataset[name]) if hasattr(dataset, "column_names") else [study[name] for study in dataset]

    ids = column("study_id")
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"study {twice!r} is in the data set twice; give every study an id of its own")
    patients = column("patient_id") if "patient_id" in columns else ids
    return [
        {"study_id": study, "patient_id": patient, "reference": report}
        for study, patient, report in zip(ids, patients, column("report"), strict=True)
    ]


def _start(output: Path | None, resume: bool, studies: Sequence[Mapping[str, str]], settings: str) -> list[Prediction]:
    """The predictions that are there already, read by the main process and known to all."""
    if output is None:
        return []
    return _in_main_process(lambda: _resume(output, resume, studies, settings))


def _in_main_process(function: Callable[[], Any]) -> Any:
    """What the function returns or raises in the main process, in all processes."""
    outcome: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            outcome[0] = function()
        # Whatever it is: the other processes wait for it, and end with it.
        except Exception as error:  # noqa: BLE001
            outcome[0] = error
    broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _resume(output: Path, resume: bool, studies: Sequence[Mapping[str, str]], settings: str) -> list[Prediction]:
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        return []
    if not resume:
        raise FileExistsError(f"{output} exists: resume=True adds the studies that it lacks; else remove it first")
    predictions = read_predictions(output)
    references = {study["study_id"]: study["reference"] for study in studies}
    for prediction in predictions:
        if references.get(prediction.study_id) != prediction.reference:
            raise ValueError(
                f"{output} can't be resumed: it holds study {prediction.study_id!r}, which this data set has not, or "
                "with another reference"
            )
        if prediction.settings != settings:
            raise ValueError(
                f"{output} can't be resumed: its reports were written with {prediction.settings}, not with {settings}"
            )
    drop_half_line(output)
    return predictions


def _share(step: Sequence[int], state: PartialState) -> list[int]:
    """This process's part of a step; all parts are equally long."""
    length = -(-len(step) // state.num_processes)
    padded = [*step, *step[-1:] * (length * state.num_processes - len(step))]
    return padded[state.process_index * length :][:length]


def _write(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Sequence[Mapping[str, Any]],
    shares: Sequence[Sequence[int]],
    batch_size: int,
    num_workers: int,
    prompt: str | None,
    generate_kwargs: Mapping[str, Any],
) -> Iterator[str]:
    """The reports of all shares one after another, each batch written when its first report is asked for."""
    # A model that is spread over devices stays as it is.
    device = None if getattr(model, "hf_device_map", None) else model.device
    pipeline = ImageToTextPipeline(model, processor, device=device)
    views = _Views(dataset, [index for share in shares for index in share])
    options = dict(generate_kwargs) if prompt is None else {**generate_kwargs, "prompt": prompt}
    for outputs in pipeline(views, batch_size=batch_size, num_workers=num_workers, **options):
        yield outputs[0]["generated_text"]


class _Views(Dataset):
    """The images of some studies, decoded when they are asked for."""

    def __init__(self, dataset: Sequence[Mapping[str, Any]], indices: Sequence[int]):
        self._dataset = dataset
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> list[Any]:
        return list(self._dataset[self._indices[position]]["images"])


__all__ = ["ModelEvaluation", "evaluate_model", "generate_predictions", "score_predictions"]
