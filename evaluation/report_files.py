"""Files of reports: one reader for JSON lines, CSV and R2Gen's annotation.json, whoever wrote them, and one writer."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from ..data.csv_table import delimiter_of, plain_cell, write_csv
from ..data.whole_file import put_in_place
from .made_with import MadeWith
from .study_report import StudyReport

_ID_COLUMNS = ("study_id", "id")
_REPORT_COLUMNS = ("report", "hypothesis", "prediction", "generated_text")
_SPLIT_ALIASES = {"val": "validation"}
IMAGE_SEPARATOR = ";"
"""Between the images of a study in one cell of a CSV file."""

# ------------------------------------------------------------------------------------------- reading


def read_reports(path: str | PathLike, *, split: str | None = None) -> list[StudyReport]:
    """Reads one report per study.

    - `.jsonl` and `.csv` (with a header, UTF-8): columns `study_id` (or `id`), and `report` (or `hypothesis`,
      `prediction`, `generated_text`), `reference`, or both; perhaps further fields of `StudyReport`. An empty report of
      `.csv` and a null of `.jsonl` stand for a study that has none.
    - `.json`: an `annotation.json` in R2Gen's format; `split` says which of its splits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file can't be understood, a study stands in it twice, or it holds none; the message says where.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of reports")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from error
    readers = {".jsonl": _json_lines, ".csv": _csv_lines, ".json": lambda text: _annotation(text, split)}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: the name of a file of reports must end in {', '.join(readers)}")
    try:
        reports = [_study_report(where, values) for where, values in readers[path.suffix.lower()](content)]
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    seen: set[str] = set()
    for report in reports:
        if report.study_id in seen:
            raise ValueError(f"{path}: study {report.study_id!r} occurs twice")
        seen.add(report.study_id)
    if not reports:
        raise ValueError(f"{path}: holds no studies")
    return reports


def _json_lines(content: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): a report in JSON may hold other line separators as they are.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} is not JSON ({error})") from error


def _csv_lines(content: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    reader = csv.DictReader(StringIO(content, newline=""), delimiter=delimiter_of(content.partition("\n")[0]))
    for values in reader:
        cells = {(name or "").strip(): value for name, value in values.items()}
        plain = {n: plain_cell(v) if isinstance(v, str) else v for n, v in cells.items()}
        # An empty reference is a reference; anything else that is empty is absent.
        yield f"line {reader.line_num}", {n: None if v == "" and n != "reference" else v for n, v in plain.items()}


def _annotation(content: str, split: str | None) -> Iterator[tuple[str, Any]]:
    annotation = json.loads(content)
    if not isinstance(annotation, Mapping):
        raise ValueError("is not an annotation.json: it holds no splits")
    splits: dict[str | None, Any] = {_SPLIT_ALIASES.get(name, name): studies for name, studies in annotation.items()}
    if split not in splits:
        raise ValueError(f"has no split {split!r}; there are {', '.join(map(str, splits))}")
    if not isinstance(splits[split], list):
        raise ValueError(f"its split {split!r} is not a list of studies")
    for number, values in enumerate(splits[split], start=1):
        yield f"{split}[{number}]", values


def _study_report(where: str, values: Any) -> StudyReport:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is not a record of names and values")
    study = _first(values, _ID_COLUMNS)
    if study in (None, ""):
        raise ValueError(f"{where} has no {' or '.join(_ID_COLUMNS)}")
    if not any(name in values for name in (*_REPORT_COLUMNS, "reference")):
        raise ValueError(f"{where} has neither a report ({', '.join(_REPORT_COLUMNS)}) nor a reference")
    texts: dict[str, Any] = {name: values.get(name) for name in ("reference", "error", "settings", "made_with")}
    texts["report"] = _first(values, _REPORT_COLUMNS)
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise ValueError(f"{where}: its {name} is not a string")
    patient, seconds = values.get("patient_id"), values.get("seconds")
    records: dict[str, Any] = {name: values.get(name) for name in ("evidence", "context")}
    images = values.get("images") or ()
    if not isinstance(images, str | list | tuple):
        raise ValueError(f"{where}: its images must be a list, got {images!r}")
    for name, record in records.items():
        if not isinstance(record, Mapping | None):
            raise ValueError(f"{where}: its {name} is not a record of names and values")
    return StudyReport(
        str(study),
        tuple(images.split(IMAGE_SEPARATOR) if isinstance(images, str) else map(str, images)),
        patient_id=None if patient in (None, "") else str(patient),
        seconds=None if seconds is None else _as_number(where, "seconds", seconds),
        **records,
        **texts,
    )


def _as_number(where: str, name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: its {name} {value!r} is not a number") from error


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if name in values), None)


def matched_reports(
    predictions: str | PathLike,
    references: str | PathLike | None = None,
    *,
    split: str = "test",
    only_present: bool = False,
) -> list[StudyReport]:
    """One row per study with its reference and, unless the study failed, its generated report.

    Args:
        predictions: file of generated reports.
        references: file of the references; None when `predictions` holds both.
        split: of a reference file in R2Gen's format.
        only_present: take the studies that `predictions` holds, and leave out references of others, as for a pilot.

    Raises:
        FileNotFoundError, ValueError: see `read_reports`; also studies that only one of the files holds, unless
            `only_present` allows for them, and a model's reports in the place of references.
    """
    generated = read_reports(predictions, split=split)
    if references is None:
        if any(row.reference is None for row in generated):
            raise ValueError(f"{predictions}: has no column reference (or empty cells in it); give a reference file")
        return generated
    known = {}
    for row in read_reports(references, split=split):
        if row.reference is None and row.made_with is not None:
            raise ValueError(
                f"{references}: holds reports that a model has written (study {row.study_id!r} says what with), no "
                "references"
            )
        text = row.report if row.reference is None else row.reference
        if text is None:
            raise ValueError(f"{references}: study {row.study_id!r} has no report")
        known[row.study_id] = replace(row, reference=text)
    scored = {row.study_id for row in generated}
    missing = [] if only_present else [study for study in known if study not in scored]
    unknown = [row.study_id for row in generated if row.study_id not in known]
    for studies, where, lacking in ((missing, references, predictions), (unknown, predictions, references)):
        if studies:
            shown = ", ".join(studies[:3]) + (" …" if len(studies) > 3 else "")
            hint = "; mambaxray evaluate --only-present scores those that are there" if studies is missing else ""
            raise ValueError(f"{len(studies)} studies of {where} are not in {lacking}: {shown}{hint}")
    return [
        replace(
            row,
            reference=known[row.study_id].reference,
            patient_id=row.patient_id or known[row.study_id].patient_id,
            images=row.images or known[row.study_id].images,
        )
        for row in generated
    ]


# ------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class ReportLayout:
    """What a file of reports holds: what to call it, and the fields of `StudyReport` in each line."""

    name: str
    fields: tuple[str, ...]


GENERATED = ReportLayout("an output of `mambaxray generate`", ("study_id", "images", "report", "error", "made_with"))
PREDICTED = ReportLayout(
    "a prediction", ("study_id", "patient_id", "reference", "report", "seconds", "settings", "made_with")
)
_SINCE_LATER = "made_with"
"""A field that files of earlier versions lack."""


class ReportFile:
    """A .csv file, or one of JSON lines, that grows while reports are written, and is complete after every batch.

    A line of JSON holds the layout's fields, and `evidence` and `context` where a report has some. In CSV the columns
    are the fields, with images joined by ";" and nothing for None; there is no evidence and no context.

    Args:
        path: where to write; folders above it are made with the first reports.
        layout: the fields to write.
        resume: keep what the file holds, without half a line at its end, as a kill leaves it, and without failed
            studies, to try them again.

    Attributes:
        path: the file.
        kept: the reports that the file holds already.

    Raises:
        ValueError: the file to resume has another layout; the message names the line.
    """

    def __init__(self, path: str | PathLike, layout: ReportLayout, *, resume: bool = False):
        self.path = Path(path)
        self._layout = layout
        self._is_csv = self.path.suffix.lower() == ".csv"
        self._is_started = False
        held = self._read() if resume and self.path.exists() else []
        self.kept = [report for report in held if report.error is None]

    def keep(self, made_with: MadeWith, studies: Iterable[StudyReport] = ()) -> int:
        """Keeps only what was made with the same, and leaves out reports of studies whose images or context have
        changed.

        Args:
            made_with: what the coming reports are made with.
            studies: those to report on, by whose `inputs` the reports that are there are checked.

        Returns:
            how many reports were left out, to be written again.

        Raises:
            ValueError: reports that are there were made with something else; nothing is changed.
        """
        images = {study.study_id: study.inputs for study in studies}
        kept = []
        for report in self.kept:
            made = MadeWith.read(report.made_with or "")
            if differing := replace(made_with, images="").differences(made):
                raise ValueError(
                    f"{self.path} can't be resumed: its reports were made with another {', another '.join(differing)} "
                    "than is given now. Give the same again, or another output, or replace the file (--overwrite)"
                )
            now = made_with.with_images(images[report.study_id]) if report.study_id in images else made
            if not now.differences(made):
                kept.append(report)
        left_out = len(self.kept) - len(kept)
        self.kept = kept
        return left_out

    def write(self, reports: Iterable[StudyReport]) -> None:
        """Adds reports at the end. What the file held before is replaced no earlier than here."""
        if not self._is_started:
            self._start()
        # Half a surrogate pair, which a model can write and UTF-8 can't encode, becomes its escape sequence.
        with self.path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
            self._write_to(file, reports)
            file.flush()
            os.fsync(file.fileno())

    def _start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and then put in place, so that an interruption here loses nothing.
        draft = self.path.with_name(f".{self.path.name}.tmp")
        with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            if self._is_csv:
                write_csv(file, [self._layout.fields])
            self._write_to(file, self.kept)
        put_in_place(draft, self.path)
        self._is_started = True

    def _write_to(self, file: TextIO, reports: Iterable[StudyReport]) -> None:
        for report in reports:
            values = {name: getattr(report, name) for name in self._layout.fields}
            if self._is_csv:
                write_csv(file, [[IMAGE_SEPARATOR.join(v) if n == "images" else v for n, v in values.items()]])
                continue
            if report.evidence is not None:
                values["evidence"] = report.evidence
            if report.context:
                values["context"] = report.context
            if report.made_with is None:
                values.pop(_SINCE_LATER, None)
            file.write(json.dumps(values, ensure_ascii=False) + "\n")

    def _read(self) -> list[StudyReport]:
        # Not read_text(), which would turn the line ends within reports into others.
        content = self.path.read_bytes().decode("utf-8", errors="replace")
        content = _complete_lines(content, self._is_csv)
        read: Callable[[str], Iterator[tuple[str, Any]]] = _csv_lines if self._is_csv else _json_lines
        reports = []
        try:
            for where, values in read(content):
                missing = [name for name in self._layout.fields if name not in values and name != _SINCE_LATER]
                if missing:
                    raise ValueError(f"{where} lacks {', '.join(missing)}")
                reports.append(_study_report(where, values))
        except (TypeError, ValueError, csv.Error) as error:
            raise ValueError(
                f"{self.path}: not {self._layout.name} with the keys {', '.join(self._layout.fields)}, so it "
                f"can't be resumed ({error})"
            ) from error
        return reports


def _complete_lines(content: str, is_csv: bool) -> str:
    """Without half a line at the end, as a killed process leaves it."""
    content = content[: content.rfind("\n") + 1]
    # Line ends within quotes end no row of CSV.
    while is_csv and content.count('"') % 2:
        content = content[: content.rfind("\n", 0, -1) + 1]
    return content


__all__ = ["GENERATED", "PREDICTED", "ReportFile", "ReportLayout", "matched_reports", "read_reports"]
