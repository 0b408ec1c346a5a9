"""Reads files of generated and reference reports, whoever wrote them: JSON lines, CSV, or R2Gen's annotation.json."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

from ..data.csv_table import delimiter_of, plain_cell

_ID_COLUMNS = ("study_id", "id")
_REPORT_COLUMNS = ("report", "hypothesis", "prediction", "generated_text")
_SPLIT_ALIASES = {"val": "validation"}
_IMAGE_SEPARATOR = ";"


@dataclass(frozen=True)
class ReportRow:
    """One line of a file of reports; what the file lacks is None (or no images)."""

    study_id: str
    patient_id: str | None = None
    report: str | None = None
    reference: str | None = None
    images: tuple[str, ...] = ()


def read_report_file(path: str | PathLike, *, split: str | None = None) -> list[ReportRow]:
    """Reads one row per study.

    - `.jsonl` and `.csv` (with a header, UTF-8): columns `study_id` (or `id`), and `report` (or `hypothesis`,
      `prediction`, `generated_text`), `reference`, or both; perhaps `patient_id` and `images`. An empty report of
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
        rows = [_row(where, values) for where, values in readers[path.suffix.lower()](content)]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    seen: set[str] = set()
    for row in rows:
        if row.study_id in seen:
            raise ValueError(f"{path}: study {row.study_id!r} stands in it twice")
        seen.add(row.study_id)
    if not rows:
        raise ValueError(f"{path}: holds no studies")
    return rows


def _json_lines(content: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): a report in JSON may hold other line separators as they are.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON ({error})") from error


def _csv_lines(content: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    reader = csv.DictReader(StringIO(content, newline=""), delimiter=delimiter_of(content.partition("\n")[0]))
    for values in reader:
        cells = {(name or "").strip(): value for name, value in values.items()}
        yield (
            f"line {reader.line_num}",
            {name: plain_cell(value) if isinstance(value, str) else value for name, value in cells.items()},
        )


def _annotation(content: str, split: str | None) -> Iterator[tuple[str, Any]]:
    annotation = json.loads(content)
    if not isinstance(annotation, Mapping):
        raise ValueError("is no annotation.json: it holds no splits")
    splits = {_SPLIT_ALIASES.get(name, name): studies for name, studies in annotation.items()}
    if split not in splits:
        raise ValueError(f"has no split {split!r}; there are {', '.join(splits)}")
    for number, values in enumerate(splits[split], start=1):
        yield f"{split}[{number}]", values


def _row(where: str, values: Any) -> ReportRow:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is no record of names and values")
    study = _first(values, _ID_COLUMNS)
    if study in (None, ""):
        raise ValueError(f"{where} has no {' or '.join(_ID_COLUMNS)}")
    if not any(name in values for name in (*_REPORT_COLUMNS, "reference")):
        raise ValueError(f"{where} has neither a report ({', '.join(_REPORT_COLUMNS)}) nor a reference")
    texts = {"report": _first(values, _REPORT_COLUMNS), "reference": values.get("reference")}
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise ValueError(f"{where}: its {name} is no text")
    patient = values.get("patient_id")
    images = values.get("images") or ()
    return ReportRow(
        study_id=str(study),
        patient_id=None if patient in (None, "") else str(patient),
        images=tuple(images.split(_IMAGE_SEPARATOR) if isinstance(images, str) else map(str, images)),
        **texts,
    )


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if name in values), None)


def matched_reports(
    predictions: str | PathLike,
    references: str | PathLike | None = None,
    *,
    split: str = "test",
    only_present: bool = False,
) -> list[ReportRow]:
    """One row per study with its reference and, unless the study failed, its generated report.

    Args:
        predictions: file of generated reports.
        references: file of the references; None when `predictions` holds both.
        split: of a reference file in R2Gen's format.
        only_present: take the studies that `predictions` holds, and leave out references of others, as for a pilot.

    Raises:
        FileNotFoundError, ValueError: see `read_report_file`; also studies that only one of the files holds, unless
            `only_present` allows for them.
    """
    generated = read_report_file(predictions, split=split)
    if references is None:
        if any(row.reference is None for row in generated):
            raise ValueError(f"{predictions}: has no column reference (or empty cells in it); give a reference file")
        return generated
    known = {}
    for row in read_report_file(references, split=split):
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
            hint = "; score those that are there with --only-present" if studies is missing else ""
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
