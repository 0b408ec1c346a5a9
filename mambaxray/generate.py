"""The engine behind `mambaxray generate`: what to report on, in which batches, and where the reports go."""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .data.csv_table import plain_cell, read_csv_lines, write_csv
from .data.whole_file import put_in_place

if TYPE_CHECKING:
    import torch

    from .modeling_mambaxray.pipeline_image_to_text import ImageToTextPipeline

_T = TypeVar("_T")
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"}
_IMAGE_COLUMNS = ("image", "images", "path", "image_path", "file_name")
_STUDY_COLUMN = "study_id"
_OUTPUT_SUFFIXES = (".jsonl", ".csv")
_OUTPUT_COLUMNS = ("study_id", "images", "report", "error")
# Between the images of a study in one cell of a CSV file.
_IMAGE_SEPARATOR = ";"


@dataclass(frozen=True)
class Study:
    """Images that one report is written for.

    Attributes:
        study_id: the CSV's `study_id`, else the image as it was given: the same in every run.
        images: paths (or URLs) of the views.
    """

    study_id: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """What became of a study: a report, or the error that kept it from one."""

    study_id: str
    images: tuple[str, ...]
    report: str | None
    error: str | None


def collect_studies(inputs: Iterable[str]) -> list[Study]:
    """Turns what stands on the command line into studies, in its order and each once.

    Args:
        inputs: image files and URLs (one study each), folders (every image below them is a study), and CSV files
            (rows with the same `study_id` are views of one study).

    Raises:
        ValueError: a folder without images, a CSV file that can't be understood, or one study id for different
            images.
        FileNotFoundError: no such CSV file.
    """
    studies: dict[str, Study] = {}
    for name in inputs:
        for study in _studies_of(name):
            known = studies.setdefault(study.study_id, study)
            if known.images != study.images:
                raise ValueError(
                    f"study {study.study_id!r} is given twice with different images: {', '.join(known.images)} and "
                    f"{', '.join(study.images)}"
                )
    return list(studies.values())


def _studies_of(name: str) -> list[Study]:
    path = Path(name)
    if path.is_dir():
        return _studies_in_folder(path)
    if path.suffix.lower() == ".csv":
        return _studies_in_csv(path)
    return [Study(name, (name,))]


def _studies_in_folder(folder: Path) -> list[Study]:
    files = (path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder)))
    images = sorted((path for path in files if _is_image(path)), key=_natural_order)
    if not images:
        raise ValueError(f"{folder}: no images in this folder (looked for {', '.join(sorted(_IMAGE_SUFFIXES))})")
    return [Study(path.as_posix(), (str(path),)) for path in images]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_image(path: Path) -> bool:
    """By its suffix; DICOM files often have none, or a part of their UID in its place, and are told by content."""
    if path.suffix.lower() in _IMAGE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            # As `processing.dicom.is_dicom`, whose package takes seconds to load.
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _natural_order(path: Path) -> list[list[str | int]]:
    """Sorts `image2` before `image10`."""
    return [
        [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", part.lower())]
        for part in path.parts
    ]


def _studies_in_csv(path: Path) -> list[Study]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such CSV file")
    images: dict[str, list[str]] = {}
    for line, row in read_csv_lines(path):
        columns = {name.lower(): name for name in row}
        image_column = next((columns[name] for name in _IMAGE_COLUMNS if name in columns), None)
        if image_column is None:
            raise ValueError(
                f"{path}: no column of images; name it {' or '.join(_IMAGE_COLUMNS)} and separate columns by commas, "
                f"semicolons or tabs (columns found: {', '.join(columns)})"
            )
        cell = row[image_column].strip()
        # Our own output has all views of a study in one cell.
        own = image_column.lower() == _OUTPUT_COLUMNS[1]
        views_here = [view for view in cell.split(_IMAGE_SEPARATOR) if view] if own else [cell]
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
    if not images:
        raise ValueError(f"{path}: no rows below the header")
    return [Study(study_id, tuple(views)) for study_id, views in images.items()]


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


def load_pipeline(model: str, device: str = "auto") -> "ImageToTextPipeline":
    """The `image-to-text` pipeline of a model folder or Hub id.

    Raises:
        ModelLoadError: there is no such model, it is not one of ours, or it lacks a part.
        ValueError: see `resolve_device`.
    """
    from .info import ModelLoadError, first_line, read_generator_config

    read_generator_config(model)
    where = resolve_device(device)
    from transformers import pipeline

    try:
        return pipeline("image-to-text", model=model, device=where)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{model}: the model can't be loaded ({first_line(error)})") from error


def generate_reports(
    studies: Sequence[Study],
    pipeline: "ImageToTextPipeline",
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    **options: Any,
) -> Iterator[list[Record]]:
    """Writes reports, some at a time. Studies with an image that can't be read are told, not raised.

    Args:
        studies: what to report on.
        pipeline: from `load_pipeline`.
        batch_size: studies in work at a time; under `torchrun`, of each process.
        num_workers: processes that read and prepare images ahead.
        options: `prompt`, and arguments of `model.generate` (`max_new_tokens`, `num_beams`, …).

    Yields:
        The next records, in the order of the studies; under `torchrun` the same in every process.

    Raises:
        LostProcessError: another process has ended.
    """
    from .evaluation.report_writing import write_reports

    views = [study.images for study in studies]
    for written in write_reports(pipeline, views, batch_size=batch_size, num_workers=num_workers, **options):
        yield [
            Record(
                studies[report.index].study_id,
                studies[report.index].images,
                report.report,
                None if report.error is None else str(report.error),
            )
            for report in written
        ]


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


class ReportFile:
    """A .jsonl or .csv file of records, complete on disk after every batch.

    Each line of JSON is `{"study_id", "images": [...], "report", "error"}`. In CSV the columns are the same, with
    images joined by ";" and nothing for null.

    Args:
        path: where to write; folders above it are made with the first records.
        resume: keep the reports that the file holds, and leave out its failed studies to try them again.

    Attributes:
        finished: ids of the studies that have a report already.

    Raises:
        ValueError: the file to resume was not written by this class.
    """

    def __init__(self, path: Path, *, resume: bool = False):
        self._path = path
        self._is_json = path.suffix.lower() == ".jsonl"
        self._kept = [record for record in self._read() if record.error is None] if resume and path.exists() else []
        self._is_started = False
        self.finished = {record.study_id for record in self._kept}

    def write(self, records: Iterable[Record]) -> None:
        """Adds records at the end. What the file held before is replaced no earlier than here."""
        if not self._is_started:
            self._start()
        with self._path.open("a", encoding="utf-8", newline="") as file:
            self._write_to(file, records)
            file.flush()
            os.fsync(file.fileno())

    def _start(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and then put in place, so that an interruption here loses nothing.
        draft = self._path.with_name(f".{self._path.name}.tmp")
        with draft.open("w", encoding="utf-8", newline="") as file:
            if not self._is_json:
                write_csv(file, [_OUTPUT_COLUMNS])
            self._write_to(file, self._kept)
        put_in_place(draft, self._path)
        self._is_started = True

    def _write_to(self, file: Any, records: Iterable[Record]) -> None:
        if self._is_json:
            file.writelines(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
            return
        write_csv(
            file,
            (
                (record.study_id, _IMAGE_SEPARATOR.join(record.images), record.report, record.error)
                for record in records
            ),
        )

    def _read(self) -> list[Record]:
        content = self._path.read_text(encoding="utf-8")
        # A process that was killed can leave half a line at the end.
        content = content[: content.rfind("\n") + 1]
        try:
            return list(_parse_json(content) if self._is_json else _parse_csv(content))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._path}: not an output of `mambaxray generate`, so it can't be resumed ({error})"
            ) from error


def _parse_json(content: str) -> Iterator[Record]:
    for line in content.split("\n")[:-1]:
        values = json.loads(line)
        yield Record(values["study_id"], tuple(values["images"]), values["report"], values["error"])


def _parse_csv(content: str) -> Iterator[Record]:
    rows = csv.reader(StringIO(content, newline=""))
    header = next(rows, None)
    if header is not None and tuple(header) != _OUTPUT_COLUMNS:
        raise ValueError(f"its columns are {', '.join(header)}")
    for study_id, images, report, error in (map(plain_cell, row) for row in rows):
        yield Record(study_id, tuple(images.split(_IMAGE_SEPARATOR)), report or None, error or None)
