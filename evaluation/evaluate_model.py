"""Run a model over a data set, in one process or several, so that every study gets exactly one report, and score it.

The reports come from `write_reports`; here are the file that grows while they are written, and the way back into it
after an interruption.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any

from accelerate.utils import extract_model_from_parallel
from transformers import PreTrainedModel, ProcessorMixin

from ..data.whole_file import require_writable
from ..modeling_mambaxray.generation.pipeline_image_to_text import ImageToTextPipeline
from .made_with import MadeWith
from .report_files import PREDICTED, ReportFile
from .report_writing import in_main_process, process_state, write_reports
from .scoring import evaluate_reports
from .study_report import StudyReport


@dataclass(frozen=True)
class ModelEvaluation:
    """What a model wrote for a data set, and what it is worth.

    Attributes:
        predictions: one per study, in the order of the data set.
        result: what `evaluate_reports` returned for them.
    """

    predictions: list[StudyReport]
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
    return ModelEvaluation(predictions, in_main_process(lambda: score_predictions(predictions, **(scoring or {}))))


def score_predictions(predictions: Sequence[StudyReport], **scoring: Any) -> dict[str, Any]:
    """`evaluate_reports` of predictions, with their study ids and patients; `scoring` are its further arguments."""

    def column(name: str) -> dict[str, Any]:
        return {prediction.study_id: getattr(prediction, name) for prediction in predictions}

    return evaluate_reports(column("reference"), column("report"), **{"patients": column("patient_id")} | scoring)


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
    evidence: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **generate_kwargs: Any,
) -> list[StudyReport]:
    """Writes a report for every study of a data set.

    Under `accelerate launch` or `torchrun` each process calls this with the same arguments and its own copy of the
    model, or its part of a sharded one, on its own device. Of a sharded model all processes write equally many reports;
    where the studies run out, a process repeats one, and its second report is dropped.

    Args:
        model: the report generator, where it is to run (`model.to(PartialState().device)`); what `accelerate` wrapped
            around it is taken off.
        processor: its processor.
        dataset: studies of the package's schema, such as a split of `make_phantoms`: `study_id`, `images`, `report`
            and, when the data set knows it, `patient_id`.
        output: JSON lines file that receives the predictions of every step, in the order of the data set. Only the
            main process writes, so the others need not see the folder.
        resume: continue an `output` that exists; a new one is made otherwise.
        batch_size: studies in work at a time, per process.
        num_workers: processes (per process) that read images ahead.
        prompt: instruction for all studies, in place of the processor's own.
        evidence: whether to keep with each report what it rests on, where the model's system gives that.
        progress: called in the main process with the numbers of finished and of all studies.
        generate_kwargs: arguments of `model.generate` (`max_new_tokens`, `num_beams`, …).

    Returns:
        One prediction per study, in the order of the data set, in every process.

    Raises:
        ValueError: no studies, a column missing, a study id twice, an `output` of other studies, settings or weights,
            or processes that accelerate does not know.
        FileExistsError: `output` exists and `resume` is not set.
        ImageReadError: an image that can't be read.
        LostProcessError: another process has ended; `output` is complete up to there.
    """
    model = extract_model_from_parallel(model)
    studies = _references(dataset)
    settings = json.dumps(
        {"model": model.config.name_or_path, "prompt": prompt, **generate_kwargs}, sort_keys=True, default=str
    )
    file: ReportFile | None = None
    made_with = MadeWith()

    def start(path: Path) -> list[StudyReport]:
        nonlocal file, made_with
        made = MadeWith.of_loaded(model, processor, {"prompt": prompt, **generate_kwargs})
        file, made_with = _start(path, resume, studies, settings, made, images_of), made
        return file.kept

    places = {study.study_id: index for index, study in enumerate(studies)}
    undecoded = dataset.with_format("arrow") if hasattr(dataset, "with_format") else None

    def images_of(study_id: str) -> list[Any]:
        if undecoded is None:
            return list(dataset[places[study_id]]["images"])
        return undecoded[places[study_id]]["images"][0].as_py()

    # The main process alone reads and writes the file.
    kept = [] if output is None else in_main_process(partial(start, Path(output)))
    done = {report.study_id: report for report in kept}
    todo = [index for index, study in enumerate(studies) if study.study_id not in done]
    is_main = process_state().is_main_process
    # A model that is spread over devices stays as it is.
    device = None if getattr(model, "hf_device_map", None) else model.device
    pipeline = ImageToTextPipeline(model, processor, device=device)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "num_workers": num_workers,
        "prompt": prompt,
        "evidence": evidence,
    }
    options |= generate_kwargs

    was_training = model.training
    model.eval()
    try:
        if progress is not None and is_main:
            progress(len(done), len(studies))
        started = perf_counter()
        open_studies = [studies[index] for index in todo]
        for written in write_reports(pipeline, open_studies, rows=_Studies(dataset, todo), **options):
            seconds = (perf_counter() - started) / len(written)
            reports = [replace(report, seconds=seconds, settings=settings) for report in written]
            if file is not None:
                reports = [
                    replace(report, made_with=str(made_with.with_images(images_of(report.study_id))))
                    for report in reports
                ]
            done |= {report.study_id: report for report in reports}
            if file is not None:
                file.write(reports)
            if progress is not None and is_main:
                progress(len(done), len(studies))
            started = perf_counter()
    finally:
        model.train(was_training)
    return [done[study.study_id] for study in studies]


def _references(dataset: Sequence[Mapping[str, Any]]) -> list[StudyReport]:
    """Ids and references of the studies, without their images."""
    columns = dataset.column_names if hasattr(dataset, "column_names") else list(dataset[0]) if len(dataset) else []
    if not len(dataset):
        raise ValueError("the data set holds no studies")
    if missing := {"study_id", "images", "report"} - set(columns):
        raise ValueError(f"the data set lacks {', '.join(sorted(missing))}; its columns are {', '.join(columns)}")

    def column(name: str) -> list[Any]:
        table: Any = dataset
        return list(table[name]) if hasattr(dataset, "column_names") else [study[name] for study in dataset]

    ids = column("study_id")
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"study {twice!r} is in the data set twice; give every study an id of its own")
    patients = column("patient_id") if "patient_id" in columns else ids
    return [
        StudyReport(study, patient_id=patient, reference=report)
        for study, patient, report in zip(ids, patients, column("report"), strict=True)
    ]


def _start(
    output: Path,
    resume: bool,
    studies: Sequence[StudyReport],
    settings: str,
    made_with: MadeWith,
    images_of: Callable[[str], list[Any]],
) -> ReportFile:
    """The file of predictions, with those that it holds already."""
    if output.exists() and not resume:
        raise FileExistsError(f"{output} exists: resume=True adds the studies that it lacks; else remove it first")
    require_writable(output)
    file = ReportFile(output, PREDICTED, resume=True)
    references = {study.study_id: study.reference for study in studies}
    for report in file.kept:
        if references.get(report.study_id) != report.reference:
            raise ValueError(
                f"{output} can't be resumed: it holds study {report.study_id!r}, which this data set has not, or "
                "with another reference"
            )
        if report.settings != settings:
            raise ValueError(
                f"{output} can't be resumed: its reports were written with {report.settings}, not with {settings}"
            )
    file.keep(made_with, [replace(report, images=images_of(report.study_id)) for report in file.kept])
    if output.exists():
        # Takes away half a line at its end, also where no report is left to be written.
        file.write([])
    return file


class _Studies(Sequence):
    """Some studies of a data set, whose images are decoded when they are asked for."""

    def __init__(self, dataset: Sequence[Mapping[str, Any]], indices: Sequence[int]):
        self._dataset = dataset
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Mapping[str, Any]:  # type: ignore[override]  # no slices
        return self._dataset[self._indices[position]]


__all__ = ["ModelEvaluation", "evaluate_model", "generate_predictions", "score_predictions"]
