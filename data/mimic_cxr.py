"""MIMIC-CXR and MIMIC-CXR-JPG (Johnson et al., Scientific Data 2019; PhysioNet, credentialed access).

PhysioNet's folders are read as they are downloaded: the CSV files of MIMIC-CXR-JPG, the images below `files/`, and
the reports of MIMIC-CXR in its zip file or unpacked. R2Gen's `annotation.json` is read as well.
"""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from zipfile import Path as ZipPath
from zipfile import ZipFile

from ..processing.report_text import split_sections
from .annotation_json import read_annotation_json
from .cells import standard_view
from .csv_table import find_csv, read_csv, read_labels
from .priors import ORDER
from .source import (
    LeftOut,
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

PUBLISHED_COUNTS = {"train": 270790, "validation": 2130, "test": 3858}
"""R2Gen's counts, which all papers use: images, of studies whose report has findings."""

LABELERS = ("chexpert", "negbio")
UNITS = ("image", "study")
_SPLITS = {"train": "train", "validate": "validation", "test": "test"}
_REPORTS_ZIP = "mimic-cxr-reports.zip"
_SECTIONS = ("findings", "impression", "indication", "technique", "comparison")


def read_mimic_cxr(
    source: str | Path,
    *,
    section: str,
    cleaning: str | None = "mimic-cxr",
    allow_shared_patients: bool = False,
    images: str | Path | None = None,
    reports: str | Path | None = None,
    unit: str = "image",
    labeler: str = "chexpert",
    prior: bool = False,
) -> Source:
    """The studies of MIMIC-CXR with PhysioNet's own split.

    Args:
        source: folder with `mimic-cxr-2.0.0-split.csv` and `-metadata.csv`, gzipped or not, or with R2Gen's
            `annotation.json` (whose reports are findings).
        section: what a model shall write.
        cleaning: style of report cleaning: `mimic-cxr` as in R2Gen, `r2gengpt` as in MambaXray-VL's code, None for the
            text as it is.
        allow_shared_patients: whether a patient may be in two splits.
        images: folder that holds `files/p10/…` with JPG or DICOM images; by default `source`.
        reports: folder that holds `files/p10/…` with text files, or `mimic-cxr-reports.zip`; by default looked for in
            `source` and its `mimic-cxr-reports`.
        unit: `"image"` makes a study of every image, all views with the same report, as the papers do; `"study"` puts
            the images of a study together.
        labeler: whose labels to read, `"chexpert"` or `"negbio"`, where that CSV file is there.
        prior: whether to link each study to the patient's previous one, by StudyDate and StudyTime of the metadata.

    Returns:
        Studies in the order of the split's CSV file.

    Raises:
        FileNotFoundError: a CSV file or the reports are absent.
        SourceError: a CSV file lacks columns or is damaged.
        SharedPatientsError: a patient is in two splits and that is not allowed.
        ValueError: an unknown section, cleaning, unit or labeler.
    """
    check_text_options(section, cleaning)
    _check_choice("unit", unit, UNITS)
    _check_choice("labeler", labeler, LABELERS)
    folder = find_folder(source)
    split_file = find_csv(folder, "mimic-cxr-2.0.0-split.csv")
    if split_file is None and (folder / "annotation.json").is_file():
        if (section, unit) != ("findings", "image"):
            raise SourceError(
                f"{folder / 'annotation.json'} holds the findings, one image at a time; for section {section!r} and "
                f"unit {unit!r} read PhysioNet's files"
            )
        return read_annotation_json(
            folder,
            section=section,
            cleaning=cleaning,
            allow_shared_patients=allow_shared_patients,
            prior=prior,
            name="mimic-cxr",
            published_counts=PUBLISHED_COUNTS,
        )
    if split_file is None:
        raise FileNotFoundError(
            f"{folder}: neither mimic-cxr-2.0.0-split.csv(.gz) of MIMIC-CXR-JPG nor R2Gen's annotation.json is there"
        )
    studies = _read_studies(split_file, folder, find_folder(images) if images is not None else folder, prior)
    labels = _read_label_file(folder, labeler)
    require_matches(labels, studies, f"mimic-cxr-2.0.0-{labeler}.csv")
    left_out = _read_reports(studies, _find_reports(folder, reports))
    for study in studies.values():
        study["labels"] = labels.get(study["study_id"], study["labels"])
    absent = {entry.study_id for entry in left_out}
    rows = [study for study in studies.values() if study["study_id"] not in absent]
    return finish_source(
        "mimic-cxr",
        rows if unit == "study" else [part for study in rows for part in split_images(study)],
        section=section,
        cleaning=cleaning,
        split_source=split_file.name,
        left_out=left_out,
        published_counts=PUBLISHED_COUNTS if (section, unit) == ("findings", "image") else None,
        allow_shared_patients=allow_shared_patients,
        prior=prior,
    )


def split_images(study: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One study for every image of a study, named `STUDY/IMAGE`."""
    for path, view in zip(study["images"], study["views"], strict=True):
        yield {**study, "study_id": f"{study['study_id']}/{Path(path).stem}", "images": [path], "views": [view]}


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; there are {', '.join(choices)}")


def _read_studies(split_file: Path, folder: Path, images: Path, with_times: bool) -> dict[str, dict[str, Any]]:
    metadata = find_csv(folder, "mimic-cxr-2.0.0-metadata.csv")
    if metadata is None:
        raise FileNotFoundError(f"{folder}: mimic-cxr-2.0.0-metadata.csv(.gz), which names the views, is absent")
    columns = ("dicom_id", "ViewPosition", *(("StudyDate", "StudyTime") if with_times else ()))
    views: dict[str, str] = {}
    times: dict[str, tuple[int, float]] = {}
    for row in read_csv(metadata, columns):
        views[row["dicom_id"]] = row["ViewPosition"]
        if with_times and (time := _time_of(row, metadata)) is not None:
            times[row["dicom_id"]] = time
    studies: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    for row in read_csv(split_file, ("dicom_id", "study_id", "subject_id", "split")):
        if row["dicom_id"] in seen:
            raise SourceError(f"{split_file}: image {row['dicom_id']} stands there twice")
        seen.add(row["dicom_id"])
        if row["split"] not in _SPLITS:
            raise SourceError(f"{split_file}: unknown split {row['split']!r}; expected {', '.join(_SPLITS)}")
        study = studies.setdefault(row["study_id"], empty_study(row["study_id"], row["subject_id"]))
        if study["images"] and (study["split"], study["patient_id"]) != (_SPLITS[row["split"]], row["subject_id"]):
            raise SourceError(f"{split_file}: study {row['study_id']} has images of two splits or patients")
        study["split"] = _SPLITS[row["split"]]
        study["images"].append(_find_image(images, row["subject_id"], row["study_id"], row["dicom_id"]))
        study["views"].append(standard_view(views.get(row["dicom_id"], "")))
        # The images of a study may have times of their own; it began with the first.
        if (time := times.get(row["dicom_id"])) is not None:
            study[ORDER] = min(study.get(ORDER, time), time)
    return studies


def _time_of(row: dict[str, str], file: Path) -> tuple[int, float] | None:
    """Date and time of an image, such as 21800506 and 84556.875 (08:45:56.875); None where one is not given."""
    date, time = row["StudyDate"].strip(), row["StudyTime"].strip()
    if not date or not time:
        return None
    try:
        return int(float(date)), float(time)
    except ValueError as error:
        raise SourceError(
            f"{file}: image {row['dicom_id']} has the StudyDate {date!r} and StudyTime {time!r}; expected numbers"
        ) from error


def _find_image(folder: Path, subject: str, study: str, name: str) -> str:
    file = folder / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{name}.jpg"
    if not file.is_file() and (dicom := file.with_suffix(".dcm")).is_file():
        return str(dicom)
    return str(file)


def _read_label_file(folder: Path, labeler: str) -> dict[str, dict[str, int | None]]:
    file = find_csv(folder, f"mimic-cxr-2.0.0-{labeler}.csv")
    if file is None:
        logger.warning("%s: mimic-cxr-2.0.0-%s.csv(.gz) is absent, so studies have no labels", folder, labeler)
        return {}
    rows = read_csv(file, ("study_id",))
    pairs = ((row["study_id"], read_labels(row, f"{file}, study {row['study_id']}")) for row in rows)
    return labels_by_study(pairs, str(file))


def _find_reports(folder: Path, reports: str | Path | None) -> Path:
    if reports is None:
        # The images' folder `files` counts only if the text files lie beside them, as in MIMIC-CXR itself.
        places = [folder / _REPORTS_ZIP, folder / "mimic-cxr-reports"]
        return next((place for place in places if place.exists()), folder)
    found = Path(reports)
    if found.is_dir() and not (found / "files").is_dir() and (found / _REPORTS_ZIP).is_file():
        found = found / _REPORTS_ZIP
    if not found.exists():
        raise FileNotFoundError(f"{found}: no such folder or zip file of reports")
    return found


def _decoded(content: bytes) -> str:
    """Some reports hold a byte or two that is not UTF-8, such as an apostrophe of Windows."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _read_reports(studies: dict[str, dict[str, Any]], place: Path) -> list[LeftOut]:
    """Fills in the sections; returns the studies whose report is absent or can't be read."""
    left_out = []
    with ZipFile(place) if place.is_file() else nullcontext() as opened:
        root = place if opened is None else ZipPath(opened)
        for study in studies.values():
            subject = study["patient_id"]
            file = root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study['study_id']}.txt"
            try:
                text = _decoded(file.read_bytes())
            except (FileNotFoundError, KeyError):
                left_out.append(LeftOut(study["study_id"], "study", f"{file}: its report is absent"))
                continue
            except OSError as error:
                left_out.append(LeftOut(study["study_id"], "study", f"{file}: its report can't be read ({error})"))
                continue
            sections = split_sections(text)
            study.update({name: sections.get(name, "") for name in _SECTIONS})
    if len(left_out) == len(studies):
        raise FileNotFoundError(
            f"{place}: it holds none of the {len(studies)} reports (expected files/p10/p10000032/s50414267.txt); they "
            "come with MIMIC-CXR, not with MIMIC-CXR-JPG: name their folder or mimic-cxr-reports.zip with reports "
            "(--reports)"
        )
    return left_out
