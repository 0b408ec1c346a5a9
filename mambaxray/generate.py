"""The engine behind `mambaxray generate`: what to report on, in which batches, and where the reports go."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

    from .modeling_mambaxray.pipeline_image_to_text import ImageToTextPipeline

_T = TypeVar("_T")
_DICOM_SUFFIXES = {".dcm", ".dicom"}
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"} | _DICOM_SUFFIXES
_IMAGE_COLUMNS = ("image", "path", "image_path")
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


def collect_studies(inputs: Iterable[str], on_skip: Callable[[str], None] | None = None) -> list[Study]:
    """Turns what stands on the command line into studies, in its order and each once.

    Args:
        inputs: image files and URLs (one study each), folders (every image below them is a study), and CSV files
            (rows with the same `study_id` are views of one study).
        on_skip: told of each DICOM file of a folder that holds no image (`DICOMDIR`, presentation states, structured
            reports …) what it holds, in the standard's words; such files are no studies.

    Raises:
        ValueError: a folder without images, a CSV file that can't be understood, or one study id for different
            images.
        FileNotFoundError: no such CSV file.
    """
    studies: dict[str, Study] = {}
    for name in inputs:
        for study in _studies_of(name, on_skip or (lambda held: None)):
            known = studies.setdefault(study.study_id, study)
            if known.images != study.images:
                raise ValueError(
                    f"study {study.study_id!r} is given twice with different images: {', '.join(known.images)} and "
                    f"{', '.join(study.images)}"
                )
    return list(studies.values())


def _studies_of(name: str, on_skip: Callable[[str], None]) -> list[Study]:
    path = Path(name)
    if path.is_dir():
        return _studies_in_folder(path, on_skip)
    if path.suffix.lower() == ".csv":
        return _studies_in_csv(path)
    return [Study(name, (name,))]


def _studies_in_folder(folder: Path, on_skip: Callable[[str], None]) -> list[Study]:
    files = (path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder)))
    images = []
    for path in files:
        is_image, held = _look_at(path)
        if held is not None:
            on_skip(held)
        elif is_image:
            images.append(path)
    if not images:
        raise ValueError(f"{folder}: no images in this folder (looked for {', '.join(sorted(_IMAGE_SUFFIXES))})")
    return [Study(path.as_posix(), (str(path),)) for path in sorted(images, key=_natural_order)]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _look_at(path: Path) -> tuple[bool, str | None]:
    """Whether a file is an image by its suffix or as a DICOM, and what a DICOM holds if it is none.

    DICOM files often have no suffix, or a part of their UID in its place, and are told by content.
    """
    from .processing.dicom import class_without_image, is_dicom

    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            if is_dicom(file.read(132)) or suffix in _DICOM_SUFFIXES:
                file.seek(0)
                return True, class_without_image(file)
    except OSError:
        pass  # what can't be opened is named when it is to be read
    return suffix in _IMAGE_SUFFIXES, None


def _natural_order(path: Path) -> list[list[str | int]]:
    """Sorts `image2` before `image10`."""
    return [
        [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", part.lower())]
        for part in path.parts
    ]


def _studies_in_csv(path: Path) -> list[Study]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such CSV file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    image_column = next((columns[name] for name in _IMAGE_COLUMNS if name in columns), None)
    if image_column is None:
        raise ValueError(
            f"{path}: no column of images; name it {' or '.join(_IMAGE_COLUMNS)} and separate columns by commas "
            f"(columns found: {', '.join(columns) or 'none'})"
        )
    images: dict[str, list[str]] = {}
    for line, row in rows:
        image = (row[image_column] or "").strip()
        if not image:
            raise ValueError(f"{path}, line {line}: the column {image_column!r} is empty")
        study_id = image
        if _STUDY_COLUMN in columns:
            study_id = (row[columns[_STUDY_COLUMN]] or "").strip()
            if not study_id:
                raise ValueError(f"{path}, line {line}: the column {_STUDY_COLUMN!r} is empty")
        views = images.setdefault(study_id, [])
        if (located := _relative_to(path.parent, image)) not in views:
            views.append(located)
    if not images:
        raise ValueError(f"{path}: no rows below the header")
    return [Study(study_id, tuple(views)) for study_id, views in images.items()]


def _relative_to(folder: Path, image: str) -> str:
    return image if _is_url(image) else str(folder / image)


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


def load_pipeline(
    model: str, device: str = "auto", *, strict: bool = False, allow_blank: bool = False
) -> "ImageToTextPipeline":
    """The `image-to-text` pipeline of a model folder or Hub id.

    Args:
        model: the folder or id.
        device: see `resolve_device`.
        strict, allow_blank: how images are read, see `processing.image_reading.load_xray`.

    Raises:
        ModelLoadError: there is no such model, it is not one of ours, or it lacks a part.
        ValueError: see `resolve_device`.
    """
    from .info import ModelLoadError, first_line, read_generator_config

    read_generator_config(model)
    where = resolve_device(device)
    from transformers import pipeline

    try:
        loaded = pipeline("image-to-text", model=model, device=where)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{model}: the model can't be loaded ({first_line(error)})") from error
    if strict:
        loaded.image_processor.strict = True
    if allow_blank:
        loaded.image_processor.allow_blank = True
    return loaded


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

    def _start(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and then put in place, so that an interruption here loses nothing.
        draft = self._path.with_name(f".{self._path.name}.tmp")
        with draft.open("w", encoding="utf-8", newline="") as file:
            if not self._is_json:
                csv.writer(file).writerow(_OUTPUT_COLUMNS)
            self._write_to(file, self._kept)
        os.replace(draft, self._path)
        self._is_started = True

    def _write_to(self, file: Any, records: Iterable[Record]) -> None:
        if self._is_json:
            file.writelines(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
            return
        csv.writer(file).writerows(
            (record.study_id, _IMAGE_SEPARATOR.join(record.images), record.report, record.error) for record in records
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
    for study_id, images, report, error in rows:
        yield Record(study_id, tuple(images.split(_IMAGE_SEPARATOR)), report or None, error or None)
