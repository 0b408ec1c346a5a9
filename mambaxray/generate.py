"""The engine behind `mambaxray generate`: what to report on, with which model, on which device."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .context import IMAGE_COLUMNS, TEXT_COLUMNS
from .data.csv_table import read_csv_lines
from .data.image_folder import IMAGE_SUFFIXES, find_images
from .evaluation.report_files import IMAGE_SEPARATOR
from .evaluation.study_report import StudyReport

if TYPE_CHECKING:
    import torch

    from .modeling_mambaxray.generation.pipeline_image_to_text import ImageToTextPipeline

_T = TypeVar("_T")
_IMAGE_COLUMNS = ("image", "path", "image_path", "file_name", "images")
_STUDY_COLUMN = "study_id"
_OUTPUT_SUFFIXES = (".jsonl", ".csv")


def collect_studies(inputs: Iterable[str], on_skip: Callable[[str], None] | None = None) -> list[StudyReport]:
    """Turns the inputs of the command line into studies, in order and without duplicates.

    Args:
        inputs: image files and URLs (one study each), folders (every image below them is a study), and CSV files
            (rows with the same `study_id` are views of one study).
        on_skip: called for each DICOM file of a folder without an image (`DICOMDIR`, presentation states, structured
            reports …) with what it holds, in the standard's words; such files are not studies.

    Raises:
        ValueError: a folder without images, an invalid CSV file, or one study id for different
            images.
        FileNotFoundError: no such CSV file.
    """
    studies: dict[str, StudyReport] = {}
    for name in inputs:
        for study in _studies_of(name, on_skip or (lambda held: None)):
            known = studies.setdefault(study.study_id, study)
            if known.images != study.images:
                raise ValueError(
                    f"study {study.study_id!r} is given twice with different images: "
                    f"{', '.join(map(str, known.images))} and "
                    f"{', '.join(map(str, study.images))}"
                )
    return list(studies.values())


def _studies_of(name: str, on_skip: Callable[[str], None]) -> list[StudyReport]:
    path = Path(name)
    if path.is_dir():
        return _studies_in_folder(path, on_skip)
    if path.suffix.lower() == ".csv":
        return _studies_in_csv(path)
    return [StudyReport(name, (name,))]


def _studies_in_folder(folder: Path, on_skip: Callable[[str], None]) -> list[StudyReport]:
    images = find_images(folder, on_skip)
    if not images:
        raise ValueError(f"{folder}: no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    return [StudyReport(path.as_posix(), (str(path),)) for path in images]


def _studies_in_csv(path: Path) -> list[StudyReport]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such CSV file")
    images: dict[str, list[str]] = {}
    contexts: dict[str, dict[str, Any]] = {}
    for line, row in read_csv_lines(path):
        columns = {name.lower(): name for name in row}
        image_column = next((columns[name] for name in _IMAGE_COLUMNS if name in columns), None)
        if image_column is None:
            names = f"{', '.join(_IMAGE_COLUMNS[:-1])} or {_IMAGE_COLUMNS[-1]}"
            raise ValueError(
                f"{path}: no column of images; name it {names}, and separate columns by commas, semicolons or tabs "
                f"(columns found: {', '.join(columns)})"
            )
        cell = row[image_column].strip()
        # Our own output has all views of a study in one cell.
        own = image_column.lower() == "images"
        views_here = [view for view in cell.split(IMAGE_SEPARATOR) if view] if own else [cell]
        if not cell or not views_here:
            raise ValueError(f"{path}, line {line}: the column {image_column!r} is empty")
        study_id = cell
        if _STUDY_COLUMN in columns:
            study_id = row[columns[_STUDY_COLUMN]].strip()
            if not study_id:
                raise ValueError(f"{path}, line {line}: the column {_STUDY_COLUMN!r} is empty")
        views = images.setdefault(study_id, [])
        for image in views_here:
            if (located := _relative_to(path.parent, image)) not in views:
                views.append(located)
        _add_context(contexts.setdefault(study_id, {}), row, columns, path.parent, f"{path}, line {line}")
    if not images:
        raise ValueError(f"{path}: no rows below the header")
    return [
        StudyReport(study_id, tuple(views), context=contexts[study_id] or None) for study_id, views in images.items()
    ]


def _add_context(
    context: dict[str, Any], row: Mapping[str, str], columns: Mapping[str, str], folder: Path, where: str
) -> None:
    """Adds what a row says of its study's context."""
    for name in TEXT_COLUMNS:
        text = row[columns[name]].strip() if name in columns else ""
        if text and context.setdefault(name, text) != text:
            raise ValueError(f"{where}: the column {name!r} differs from the rows of the same study above")
    priors = [image for name in IMAGE_COLUMNS if name in columns for image in row[columns[name]].split(IMAGE_SEPARATOR)]
    for image in filter(None, map(str.strip, priors)):
        if (located := _relative_to(folder, image)) not in context.setdefault("prior_images", []):
            context["prior_images"].append(located)


def _relative_to(folder: Path, image: str) -> str:
    """Where an image of a CSV file lies: relative to the file or, as our own output names it, to where we are."""
    if _is_url(image) or (not os.path.isfile(folder / image) and os.path.isfile(image)):
        return image
    return str(folder / image)


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def is_main() -> bool:
    """Whether this process is the only one, or the first of those that `torchrun` started."""
    return int(os.environ.get("RANK", "0")) == 0


def agree(value: _T) -> _T:
    """The value of the main process in all processes that `torchrun` started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    from .evaluation.report_writing import in_main_process

    return in_main_process(lambda: value)


def default_workers(device: "torch.device") -> int:
    """How many processes read images ahead: without a GPU they would take the cores that generate."""
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)


def resolve_device(name: str) -> "torch.device":
    """The device of that name; `auto` is the CUDA device of this process when there is one, else the CPU.

    Raises:
        ValueError: the name is unknown, or there is no such device here.
    """
    import torch

    if name == "auto":
        # `torchrun` starts one process per device.
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is not a device; use auto, cpu, cuda or cuda:1") from error
    try:
        torch.empty(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} can't be used here ({reason}); try auto or cpu") from error
    return device


def generation_options(**given: Any) -> dict[str, Any]:
    """Arguments of `model.generate` from those of the command line: those that were given, and sampling with its own.

    Raises:
        ValueError: a value that `generate` does not take.
    """
    for name in ("temperature", "repetition_penalty"):
        if given.get(name) is not None and not given[name] > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {given[name]}")
    options = {name: value for name, value in given.items() if value is not None}
    if options.keys() & {"temperature", "top_p", "top_k"}:
        options["do_sample"] = True
    return options


def load_pipeline(
    model: str,
    device: str = "auto",
    *,
    memories: Mapping[str, str] | None = None,
    strict: bool = False,
    allow_blank: bool = False,
    seed: int | None = None,
) -> "ImageToTextPipeline":
    """The `image-to-text` pipeline of a model folder or Hub id.

    Args:
        model: the folder or id.
        device: see `resolve_device`.
        memories: folders of memories of training studies by name, beside or instead of those that the model has.
        strict, allow_blank: how images are read, see `processing.image_reading.load_xray`.
        seed: start of the random numbers for sampling.

    Raises:
        ModelLoadError: there is no such model, it is not one of ours, or it lacks a part.
        FileNotFoundError: there is no such memory.
        ValueError: a memory does not fit the model, or see `resolve_device`.
    """
    from .info import ModelLoadError, read_generator_config

    read_generator_config(model)
    where = resolve_device(device)
    from transformers import pipeline

    try:
        loaded = pipeline("image-to-text", model=model, device=where)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{model}: the model can't be loaded ({_cause(error)})") from error
    if memories:
        _give_memories(loaded.model, memories)
    if seed is not None:
        from transformers import set_seed

        set_seed(seed)
    if strict:
        loaded.image_processor.strict = True
    if allow_blank:
        loaded.image_processor.allow_blank = True
    return loaded


def memory_folders(given: Sequence[str] | None) -> dict[str, str]:
    """The memories that `--memory` names, by name.

    Raises:
        ValueError: not NAME=FOLDER, or a name twice.
        FileNotFoundError: there is no such folder.
    """
    folders: dict[str, str] = {}
    for text in given or ():
        name, _, folder = text.partition("=")
        if not (name and folder) or name in folders:
            raise ValueError(f"--memory reads NAME=FOLDER, each name once, got {text!r}")
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"--memory {text}: no such folder")
        folders[name] = folder
    return folders


def _give_memories(model: Any, folders: Mapping[str, str]) -> None:
    from .modeling_mambaxray.layers.study_memory import StudyMemory

    own = model.study_memory if isinstance(model.study_memory, Mapping) else {}
    memories = {name: StudyMemory.from_pretrained(folder) for name, folder in folders.items()}
    try:
        model.set_memories({**own, **memories})
    except ValueError as error:
        raise ValueError(f"--memory: {error}") from error


def _cause(error: Exception) -> str:
    """What went wrong, in a line. transformers' pipeline lists the tracebacks of all classes that it tried."""
    from .info import first_line

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if len(lines) > 1 and "original errors" in lines[0] else first_line(error)


def generate_reports(
    studies: Sequence[StudyReport],
    pipeline: "ImageToTextPipeline",
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    **options: Any,
) -> Iterator[list[StudyReport]]:
    """Writes reports, some at a time; a study with an image that can't be read gets its error in place of one.

    Args:
        studies: what to report on.
        pipeline: from `load_pipeline`.
        batch_size: studies in work at a time; under `torchrun`, of each process.
        num_workers: processes that read and prepare images ahead.
        options: `prompt`, and arguments of `model.generate` (`max_new_tokens`, `num_beams`, …).

    Yields:
        The next studies with their reports, in the order of the studies; under `torchrun` the same in every process.

    Raises:
        LostProcessError: another process has ended.
    """
    from .evaluation.report_writing import write_reports

    options = {"batch_size": batch_size, "num_workers": num_workers, **options}
    yield from write_reports(pipeline, studies, skip_unreadable=True, **options)


def check_output(path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Whether reports may be written to `path`.

    Raises:
        ValueError: the suffix is neither .jsonl nor .csv, or both flags are set.
        FileExistsError: the file exists and no flag says what to do with it.
    """
    if path.suffix.lower() not in _OUTPUT_SUFFIXES:
        raise ValueError(f"{path}: the name of the output must end in {' or '.join(_OUTPUT_SUFFIXES)}")
    if overwrite and resume:
        raise ValueError("--overwrite and --resume exclude each other")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder")
    if path.exists() and not (overwrite or resume):
        raise FileExistsError(f"{path} exists: --resume adds the studies that it lacks, --overwrite replaces it")
