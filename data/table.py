"""Tables of images and reports in any layout: a Hugging Face data set, or a CSV or JSON Lines file.

Only a column of images and one of reports are needed. What else the schema asks for is made: study ids from the number
of the row, and splits, where the table has one only, by patient from a seed.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..processing.report_cleaning import clean_report
from ..processing.report_text import SECTIONS, choose_report, is_missing
from .cells import (
    has_markup,
    listed,
    plain_identifier,
    plain_text,
    read_table_labels,
    short,
    standard_view,
)
from .csv_table import read_csv
from .priors import ORDER, link_priors, read_date, with_priors
from .schema import SPLIT_NAMES, study_features
from .source import (
    SEEDED_SHARES,
    Source,
    SourceError,
    check_leaks,
    check_text_options,
    empty_study,
    finish_source,
    is_file,
    split_by_patient,
)

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

# As Hugging Face's file systems write the address of a data set. A name alone may be a mistyped folder.
_HUB = "hf://datasets/"
_FILES = (".csv", ".tsv", ".jsonl", ".parquet")
_COLUMNS: Mapping[str, Sequence[str]] = {
    "image": ("image", "images", "image_path", "file_name"),
    "report": ("report",),
    "study_id": ("study_id",),
    "patient_id": ("patient_id", "subject_id"),
    "view": ("view", "views"),
    "split": ("split",),
    "study_date": ("study_date",),
}
_SECTIONS = ("findings", "impression", "indication", "technique", "comparison")


@dataclass(frozen=True)
class _Table:
    """Rows by the split that they come from, and what to call the whole."""

    name: str
    splits: Mapping[str, Any]  # of `datasets.Dataset`, or of lists of dicts
    columns: tuple[str, ...]
    folder: Path | None = None  # what paths of images are relative to


def is_table(source: Any) -> bool:
    """Whether `load_table` is what reads this source."""
    if not isinstance(source, str | Path):
        return isinstance(source, Mapping) or hasattr(source, "column_names")
    path = Path(source)
    if is_file(path):
        return path.suffix.lower() in _FILES
    if path.is_dir():
        marks = ("dataset_dict.json", "state.json", *(f"metadata{suffix}" for suffix in _FILES))
        return any((path / mark).is_file() for mark in marks) or any(
            found for suffix in _FILES for found in path.rglob(f"*{suffix}")
        )
    return str(source).startswith(_HUB)


def load_table(
    source: Any,
    *,
    image: str | None = None,
    report: str | None = None,
    study_id: str | None = None,
    patient_id: str | None = None,
    view: str | None = None,
    split: str | None = None,
    section: str | None = None,
    cleaning: str | None = None,
    seed: int = 0,
    allow_shared_patients: bool = False,
    study_date: str | None = None,
    prior: bool = False,
) -> "datasets.DatasetDict":
    """Reads a table of images and reports into the package's schema.

    The table needs a column of images (images themselves or paths, one or a list of views per row) and one of reports,
    or of `findings` and `impression`, of which `section` makes the report. Rows with the same study id are views of one
    study. Where there is one split, and no column that says which study belongs to which, studies are split by patient,
    0.7, 0.1 and 0.2, from the seed. Rows without a report are left out, and their number is logged.

    Args:
        source: a `datasets.Dataset` or `DatasetDict`, its folder (`save_to_disk`, `imagefolder` with metadata, parquet,
            CSV or JSON lines files), one such file (`.csv`, `.tsv`, `.jsonl`, `.parquet`), or an address on
            the Hub, `hf://datasets/USER/NAME`. In a file, paths of images are relative to it.
        image: the column of images; by default `image`, `images`, `image_path` or `file_name`.
        report: the column of reports; by default `report`.
        study_id: the column of study ids; by default `study_id`. Without it the row's number becomes the id.
        patient_id: the column of patients; by default `patient_id` or `subject_id`. Without it, every study counts as
            another patient.
        view: the column of views (`PA`, `AP`, `LATERAL`), one or a list per row; by default `view` or `views`.
        split: the column of splits; by default `split`, where the table has one.
        section: what the reports consist of. `"findings"` and `"impression"` fill the column of that name.
        cleaning: how to clean the reports, see `processing.report_cleaning`; None leaves them as they are.
        seed: of the split that is made.
        allow_shared_patients: whether a patient may be in two splits.
        study_date: the column of dates (ISO 8601), which order a patient's studies; by default `study_date`.
        prior: whether rows show the patient's previous study by these dates, see `with_priors`.

    Returns:
        One data set for each split; images are decoded on access.

    Raises:
        FileNotFoundError: there is no such data set, or it names images that are absent.
        SourceError: a column is absent, a cell holds something else than expected, or a split's name is unknown; the
            message names them.
        SharedPatientsError: a patient is in two splits and that is not allowed.
        ValueError: an unknown section or cleaning.
    """
    import datasets

    check_text_options(section or SECTIONS[0], cleaning)
    table = _open(source)
    columns = _find_columns(
        table,
        {
            "image": image,
            "report": report,
            "study_id": study_id,
            "patient_id": patient_id,
            "view": view,
            "split": split,
            "study_date": study_date,
        },
        section,
    )
    studies = _read(table, columns, section)
    for study in studies:
        if cleaning is not None:
            study["report"] = clean_report(study["report"], cleaning)
    if "split" not in columns and len(table.splits) == 1:
        split_by_patient(studies, SEEDED_SHARES, seed)
        logger.info("%s has one split; its studies were split by patient from seed %d", table.name, seed)
    check_leaks(
        _with_paths(studies, table, columns["image"]),
        table.name,
        "its own" if "split" in columns or len(table.splits) > 1 else f"seed {seed}",
        allow_shared_patients=allow_shared_patients,
    )
    found = {name: [study for study in studies if study["split"] == name] for name in SEEDED_SHARES}
    if prior:
        link_priors(studies, table.name)
    features = study_features()
    splits = datasets.DatasetDict(
        {name: _dataset(rows, table, columns["image"], features) for name, rows in found.items() if rows}
    )
    return with_priors(splits) if prior else splits


def read_table(
    source: str | Path,
    *,
    section: str,
    cleaning: str | None = None,
    allow_shared_patients: bool = False,
    image: str | None = None,
    report: str | None = None,
    study_id: str | None = None,
    patient_id: str | None = None,
    study_date: str | None = None,
    seed: int = 0,
    prior: bool = False,
) -> Source:
    """The studies of a CSV or JSON lines file, or of a folder with `metadata.csv`, for `prepare`; see `load_table`.

    Raises:
        FileNotFoundError, SourceError, SharedPatientsError, ValueError: as `load_table`, but images are not looked for;
            also a table that holds the images themselves, which needs no preparing.
    """
    check_text_options(section, cleaning)
    path = Path(source)
    if path.is_dir():
        marks = [path / f"metadata{suffix}" for suffix in (".csv", ".jsonl") if (path / f"metadata{suffix}").is_file()]
        if not marks:
            raise FileNotFoundError(
                f"{path} has no metadata.csv or metadata.jsonl; data sets with the images in them need no preparing: "
                "give them to training as they are"
            )
        path = marks[0]
    table = _open(path)
    if not isinstance(next(iter(table.splits.values())), list):
        raise SourceError(f"{path}: give a CSV or JSON lines file; a data set needs no preparing")
    names = {"image": image, "report": report, "study_id": study_id, "patient_id": patient_id, "view": None}
    columns = _find_columns(table, names | {"split": None, "study_date": study_date}, section)
    studies = _read(table, columns, section)
    for study in studies:
        study["images"] = _paths(study.pop(_ROWS), table, columns["image"])
        study["views"] = _views(study["views"], len(study["images"]), f"{table.name}: study {study['study_id']!r}")
        # `finish_source` chooses the report from its sections.
        if not study["findings"] and not study["impression"]:
            study["findings" if section != "impression" else "impression"] = study["report"]
    return finish_source(
        "table",
        studies,
        section=section,
        cleaning=cleaning,
        split_source=f"seed {seed}" if "split" not in columns else "the table",
        allow_shared_patients=allow_shared_patients,
        seed=None if "split" in columns else seed,
        prior=prior,
    )


_ROWS = "_rows"
_REMARKS = (
    "have no report and are left out",
    "are the same as earlier ones and are left out",
    "have tags of HTML in the report, which are kept",
    "have labels in other words than the schema's, which are not read",
    "have no patient_id, so that each study there counts as another patient",
)


def _with_paths(studies: Sequence[dict[str, Any]], table: _Table, image: str) -> Sequence[dict[str, Any]]:
    """The studies with their images where these are paths in the table's own cells."""
    if not all(isinstance(rows, list) for rows in table.splits.values()):
        return studies
    return [study | {"images": _paths(study[_ROWS], table, image)} for study in studies]


def _open(source: Any) -> _Table:
    if isinstance(source, Mapping):
        splits = dict(source)
        columns = [tuple(split.column_names) for split in splits.values()]
        if not splits or len(set(columns)) > 1:
            raise SourceError(f"the data set must have splits with the same columns, got {columns or 'no split'}")
        return _Table("the data set", splits, columns[0])
    if hasattr(source, "column_names"):
        return _Table("the data set", {"train": source}, tuple(source.column_names))
    path = Path(source)
    if is_file(path) and path.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        rows = list(read_csv(path)) if path.suffix.lower() != ".jsonl" else list(_json_lines(path))
        if not rows:
            raise SourceError(f"{path}: no rows below the header" if path.suffix != ".jsonl" else f"{path}: no lines")
        return _Table(
            str(path), {"train": rows}, tuple(dict.fromkeys(name for row in rows for name in row)), path.parent
        )
    return _load(str(source), path)


def _load(source: str, path: Path) -> _Table:
    import datasets

    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = datasets.load_from_disk(source)
        elif is_file(path):
            found = datasets.load_dataset("parquet", data_files={"train": source})
        else:
            found = datasets.load_dataset(source.removeprefix(_HUB))
    except Exception as error:  # whatever `datasets` raises for a folder or a name that it can't read
        raise FileNotFoundError(f"{source} can't be read as a data set: {_first_line(error)}") from error
    splits = found if isinstance(found, Mapping) else {"train": found}
    table = _open(splits)
    return _Table(source, table.splits, table.columns, path if path.is_dir() else path.parent)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{file} is not a text in UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{file}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise SourceError(f"{file}, line {number} must hold names and values, got {short(row)}")
        yield row


def _find_columns(table: _Table, wanted: Mapping[str, str | None], section: str | None) -> dict[str, str]:
    found = {}
    for key, given in wanted.items():
        names = (given,) if given is not None else _COLUMNS[key]
        name = next((name for name in names if name in table.columns), None)
        if name is not None:
            found[key] = name
        elif given is not None:
            raise SourceError(f"{table.name} has no column {given!r}; it has {', '.join(table.columns) or 'none'}")
    has_sections = section is not None and any(name in table.columns for name in ("findings", "impression"))
    for key, more in (("image", ""), ("report", " (or findings and impression, and section=...)")):
        if key not in found and not (key == "report" and has_sections):
            raise SourceError(
                f"{table.name} has no column of {key}s: give its name with {key}=..., or call it "
                f"{' or '.join(_COLUMNS[key])}{more}; it has {', '.join(table.columns) or 'no columns'}"
            )
    return found


def _read(table: _Table, columns: Mapping[str, str], section: str | None) -> list[dict[str, Any]]:
    """The studies without their images: `_ROWS` holds the split and the numbers of their rows."""
    unknown = [name for name in table.splits if name not in SPLIT_NAMES]
    if unknown and len(table.splits) > 1 and "split" not in columns:
        raise SourceError(
            f"{table.name} has the split {unknown[0]!r}; known are {', '.join(SPLIT_NAMES)}: rename it, or drop it"
        )
    studies: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    counts = dict.fromkeys(_REMARKS, 0)
    for source_split, rows in table.splits.items():
        for number, row in enumerate(_texts(rows, columns["image"])):
            where = f"{table.name}, row {number}" + (f" of {source_split}" if len(table.splits) > 1 else "")
            study = _study(row, columns, section, where, f"{source_split}-{number}")
            if "split" not in columns:
                study["split"] = SPLIT_NAMES.get(source_split, "train")
            if not study["report"]:
                counts["have no report and are left out"] += 1
                continue
            # A row that is there twice would show a study the same image as two views.
            if isinstance(rows, list) and "study_id" in columns:
                if (cells := repr(sorted(row.items()))) in seen:
                    counts["are the same as earlier ones and are left out"] += 1
                    continue
                seen.add(cells)
            counts["have labels in other words than the schema's, which are not read"] += (
                row.get("labels") not in (None, "", [], {}) and read_table_labels(row, where) is None
            )
            counts["have tags of HTML in the report, which are kept"] += has_markup(study["report"])
            counts["have no patient_id, so that each study there counts as another patient"] += (
                "patient_id" in columns and not plain_identifier(row.get(columns["patient_id"]), "patient_id", where)
            )
            study[_ROWS] = [(source_split, number)]
            known = studies.setdefault(study["study_id"], study)
            if known is not study:
                _add_view(known, study, where)
    for remark, count in counts.items():
        if count:
            logger.warning("%s: %d rows %s", table.name, count, remark)
    if not studies:
        raise SourceError(f"{table.name}: no row has a report")
    return list(studies.values())


def _texts(rows: Any, image: str) -> Iterator[dict[str, Any]]:
    """The rows without their images, which are large."""
    if isinstance(rows, list):
        yield from rows
        return
    yield from rows.remove_columns(image)


def _study(row: Mapping[str, Any], columns: Mapping[str, str], section: str | None, where: str, name: str) -> dict:
    def cell(key: str) -> Any:
        return row.get(columns[key]) if key in columns else None

    study_id = plain_identifier(cell("study_id"), columns.get("study_id", ""), where) or name
    study = empty_study(
        study_id, plain_identifier(cell("patient_id"), columns.get("patient_id", ""), where) or study_id
    )
    for key in _SECTIONS:
        text = _text(row.get(key), key, where)
        study[key] = "" if key != "comparison" and is_missing(text) else text  # "Comparison: none" says something
    if "report" in columns:
        text = _text(row.get(columns["report"]), columns["report"], where)
        study["report"] = "" if is_missing(text) else text
        if section in ("findings", "impression") and section not in row:
            study[section] = study["report"]
    else:
        study["report"] = choose_report(study["findings"], study["impression"], section or "")
    labels = read_table_labels(row, where)
    if labels is not None:
        study["labels"] = labels
    study["views"] = cell("view")
    study[ORDER] = read_date(cell("study_date"), where)
    if "split" in columns:
        value = cell("split")
        name = value.strip().lower() if isinstance(value, str) else ""
        if name not in SPLIT_NAMES:
            raise SourceError(f"{where}: the split {short(value)} is unknown; known are {', '.join(SPLIT_NAMES)}")
        study["split"] = SPLIT_NAMES[name]
    return study


def _add_view(known: dict[str, Any], study: Mapping[str, Any], where: str) -> None:
    for key in ("report", "patient_id", "split", "labels"):
        if known[key] != study[key]:
            raise SourceError(
                f"{where}: study {study['study_id']!r} stands in more than one row, with different "
                f"{key.removesuffix('s')}s; rows of one study are views of it"
            )
    known["views"] = [*_as_list(known["views"]), *_as_list(study["views"])]
    known[_ROWS] += study[_ROWS]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any, column: str, where: str) -> str:
    if _is_absent(value):
        return ""
    if not isinstance(value, str):
        raise SourceError(f"{where}: {column} must be a text, got {short(value)}")
    return plain_text(value)


def _dataset(
    studies: Sequence[dict[str, Any]], table: _Table, image: str, features: "datasets.Features"
) -> "datasets.Dataset":
    import datasets

    if all(isinstance(rows, list) for rows in table.splits.values()):
        return datasets.Dataset.from_list(list(_with_images(studies, table, image)), features=features)
    try:
        # Images go from the table's own files to those of the cache, never all into memory.
        return datasets.Dataset.from_generator(
            _with_images, features=features, gen_kwargs={"studies": list(studies), "table": table, "image": image}
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, SourceError | FileNotFoundError):
            raise error.__cause__ from None
        raise


def _with_images(studies: Sequence[dict[str, Any]], table: _Table, image: str) -> Iterator[dict[str, Any]]:
    undecoded = {name: _undecoded(rows, image) for name, rows in table.splits.items()}
    for study in studies:
        where = f"{table.name}: study {study['study_id']!r}"
        if isinstance(next(iter(table.splits.values())), list):
            images: list[Any] = _paths(study[_ROWS], table, image)
            absent = [path for path in images if not is_file(Path(path))]
            if absent:
                raise FileNotFoundError(f"{where}: the image {absent[0]} is absent")
        else:
            cells = [undecoded[name][number][image] for name, number in study[_ROWS]]
            images = [_located(one, table.folder, where) for cell in cells for one in _as_list(cell)]
        row = {name: value for name, value in study.items() if name not in (_ROWS, ORDER)}
        yield row | {"images": images, "views": _views(study["views"], len(images), where)}


def _undecoded(rows: Any, image: str) -> Any:
    """The images' files as they are, so that none is decoded here."""
    import datasets

    if isinstance(rows, list):
        return rows
    kind = rows.features[image]
    if isinstance(kind, datasets.Image):
        rows = rows.cast_column(image, datasets.Image(decode=False))
    elif isinstance(inner := getattr(kind, "feature", None), datasets.Image):
        rows = rows.cast_column(image, type(kind)(type(inner)(decode=False)))
    return rows.select_columns(image)


def _located(value: Any, folder: Path | None, where: str) -> Any:
    if isinstance(value, str):
        value = {"path": value, "bytes": None}
    if not isinstance(value, Mapping) or not (value.get("bytes") or value.get("path")):
        raise SourceError(f"{where}: an image or its path is expected, got {short(value)}")
    if value.get("bytes"):
        return {"bytes": value["bytes"], "path": value.get("path")}
    path = Path(value["path"]) if folder is None else folder / value["path"]
    if not is_file(path):
        raise FileNotFoundError(f"{where}: the image {path} is absent")
    return str(path)


def _paths(rows: Sequence[tuple[str, int]], table: _Table, image: str) -> list[str]:
    paths = []
    for split, number in rows:
        value = table.splits[split][number].get(image)
        where = f"{table.name}, row {number}"
        # A cell of our own CSV files has all views of a study; that of another file may be a path with a semicolon.
        cells = listed(value) if image == "images" or str(value).strip().startswith("[") else _as_list(value)
        if not cells or not all(isinstance(cell, str) and cell.strip() for cell in cells):
            raise SourceError(f"{where}: {image} must be a path or a list of paths, got {short(value)}")
        paths += [str((table.folder or Path()) / cell.strip()) for cell in cells]
    return paths


def _views(value: Any, count: int, where: str) -> list[str]:
    views = ["" if _is_absent(view) else view for one in _as_list(value) for view in listed(one)]
    if len(views) == 1:
        views *= count
    if len(views) != count or not all(isinstance(view, str) for view in views):
        raise SourceError(f"{where}: its views must be texts, one per image ({count}), got {short(value)}")
    return [standard_view(view) for view in views]
