"""CheXpert Plus (Chambon et al., 2024; Stanford AIMI): its CSV file, and its images as PNG or DICOM."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..processing.report_text import is_missing, split_sections
from .annotation_json import read_annotation_json
from .csv_table import read_csv, read_labels
from .mimic_cxr import UNITS, split_images
from .priors import ORDER
from .source import (
    Source,
    SourceError,
    check_text_options,
    empty_study,
    find_folder,
    finish_source,
    labels_by_study,
    require_matches,
)

logger = logging.getLogger(__name__)

PUBLISHED_COUNTS = {"train": 40463, "validation": 5780, "test": 11562}
"""CXPMRG-Bench's random 7:1:2 of the samples with findings."""

_CSV_PATTERN = "df_chexpert_plus*.csv"
_FOLDERS = ("", "PNG", "DICOM", "images")
_SUFFIXES = (".png", ".dcm", ".jpg")
_COLUMNS = ("path_to_image", "deid_patient_id")
_ORDER_COLUMN = "patient_report_date_order"
# The file's columns by ours; the first that is not empty counts.
_SECTION_COLUMNS = {
    "findings": ("section_findings",),
    "impression": ("section_impression",),
    "indication": ("section_clinical_history", "section_history"),
    "technique": ("section_technique",),
    "comparison": ("section_comparison",),
}
_LABEL_FILES = {
    "findings": "findings_fixed.json",
    "impression": "impression_fixed.json",
    "findings+impression": "report_fixed.json",
}


def read_chexpert_plus(
    source: str | Path,
    *,
    section: str,
    cleaning: str | None = "r2gengpt",
    allow_shared_patients: bool = False,
    images: str | Path | None = None,
    unit: str = "study",
    seed: int = 0,
    prior: bool = False,
) -> Source:
    """The studies of CheXpert Plus in a seeded 7:1:2 by patient.

    CXPMRG-Bench split at random, into these numbers but without regard to patients, and published no list.

    Args:
        source: folder with `df_chexpert_plus_240401.csv`, or with an `annotation.json` made of it in R2Gen's format;
            labels are read from `chexbert_labels` in it.
        section: what a model shall write.
        cleaning: style of report cleaning; None leaves the text as it is.
        allow_shared_patients: whether a patient may be in two splits (of an `annotation.json`; our own never are).
        images: folder that holds `train/patient1/study1/view1_frontal.png` or `.dcm`; by default `source` or its
            `PNG`, `DICOM` or `images`.
        unit: `"study"` puts the images of a study together; `"image"` makes a study of every image.
        seed: of the split.
        prior: whether to link each study to the patient's previous one, by the file's `patient_report_date_order`.

    Raises:
        FileNotFoundError: neither file is there.
        SourceError: the CSV file lacks columns, or labels have unknown values.
        ValueError: an unknown section, cleaning or unit.
    """
    check_text_options(section, cleaning)
    if unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}; there are {', '.join(UNITS)}")
    folder = find_folder(source)
    published = PUBLISHED_COUNTS if section == "findings" else None
    files = sorted(folder.glob(_CSV_PATTERN))
    if not files and (folder / "annotation.json").is_file():
        return read_annotation_json(
            folder,
            section=section,
            cleaning=cleaning,
            allow_shared_patients=allow_shared_patients,
            prior=prior,
            name="chexpert-plus",
            published_counts=published,
        )
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise FileNotFoundError(f"{folder}: it must hold one {_CSV_PATTERN} or an annotation.json (found: {found})")
    studies = _read_studies(files[0], _image_folders(folder, images), prior)
    label_file = folder / "chexbert_labels" / _LABEL_FILES[section]
    labels_of = labels_by_study(_read_label_file(label_file), str(label_file))
    require_matches(labels_of, studies, label_file.name)
    for study_id in labels_of.keys() & studies.keys():
        studies[study_id]["labels"] = labels_of[study_id]
    rows = list(studies.values())
    return finish_source(
        "chexpert-plus",
        rows if unit == "study" else [part for study in rows for part in split_images(study)],
        section=section,
        cleaning=cleaning,
        split_source=f"seeded 7:1:2 by patient (seed {seed})",
        published_counts=published,
        seed=seed,
        prior=prior,
    )


def _image_folders(folder: Path, images: str | Path | None) -> list[Path]:
    roots = [find_folder(images)] if images is not None else [folder]
    return [place for root in roots for name in _FOLDERS if (place := root / name).is_dir()]


def _read_studies(file: Path, folders: list[Path], with_order: bool) -> dict[str, dict[str, Any]]:
    studies: dict[str, dict[str, Any]] = {}
    for row in read_csv(file, (*_COLUMNS, *((_ORDER_COLUMN,) if with_order else ()))):
        study_id = _study_id(row["path_to_image"])
        study = studies.get(study_id)
        if study is None:
            study = studies[study_id] = empty_study(study_id, row["deid_patient_id"])
            study.update(_sections(row, file))
            if with_order:
                study[ORDER] = _order(row, file)
        study["images"].append(_find_image(folders, row["path_to_image"]))
        study["views"].append(_view(row))
    return studies


def _order(row: dict[str, str], file: Path) -> int | None:
    text = row[_ORDER_COLUMN].strip()
    try:
        return int(float(text)) if text else None
    except ValueError as error:
        raise SourceError(
            f"{file}: {row['path_to_image']} has the {_ORDER_COLUMN} {text!r}; expected a number"
        ) from error


def _study_id(path: str) -> str:
    """`patient1/study1` of `train/patient1/study1/view1_frontal.jpg`."""
    parts = Path(path).parts
    if len(parts) < 3:
        raise SourceError(f"path_to_image {path!r} is not like train/patient1/study1/view1_frontal.jpg")
    return "/".join(parts[-3:-1])


def _sections(row: dict[str, str], file: Path) -> dict[str, str]:
    if all(columns[0] in row for name, columns in _SECTION_COLUMNS.items() if name != "technique"):
        texts = {name: (row.get(column, "") for column in columns) for name, columns in _SECTION_COLUMNS.items()}
        return {
            name: next((" ".join(t.split()) for t in found if name == "comparison" or not is_missing(t)), "")
            for name, found in texts.items()
        }
    if "report" in row:
        sections = split_sections(row["report"])
        return {name: sections.get(name, "") for name in _SECTION_COLUMNS}
    raise SourceError(f"{file}: it has neither the columns section_findings, section_impression, … nor report")


def _find_image(folders: list[Path], path: str) -> str:
    places = (folder / Path(path).with_suffix(suffix) for folder in folders for suffix in _SUFFIXES)
    return str(next((place for place in places if place.is_file()), folders[0] / Path(path).with_suffix(".png")))


def _view(row: dict[str, str]) -> str:
    if row.get("frontal_lateral", "").strip().lower() == "lateral":
        return "LATERAL"
    view = row.get("ap_pa", "").strip().upper()
    return view if view in ("AP", "PA") else ""


def _read_label_file(file: Path) -> Iterator[tuple[str, dict[str, int | None]]]:
    """CheXbert's labels, one JSON object with `path_to_image` and the observations on every line."""
    if not file.is_file():
        logger.warning("%s is absent, so studies have no labels", file)
        return
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                yield _study_id(row["path_to_image"]), read_labels(row, f"{file}, line {number}")
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise SourceError(f"{file}, line {number}: not a JSON object with path_to_image") from error
