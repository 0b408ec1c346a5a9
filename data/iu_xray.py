"""IU X-ray (Indiana University Chest X-ray Collection; Demner-Fushman et al., JAMIA 2016).

Read from either of the two forms in which it goes around: R2Gen's `annotation.json` with images, or Open-i's XML
reports with PNG or DICOM images.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .annotation_json import read_annotation, read_annotation_json
from .source import LeftOut, Source, SourceError, check_text_options, empty_study, find_folder, finish_source

PUBLISHED_COUNTS = {"train": 2069, "validation": 296, "test": 590}
"""R2Gen's split, which all papers use."""

_SUFFIXES = (".png", ".dcm", ".dicom", ".jpg", ".jpeg")
_SECTIONS = ("findings", "impression", "indication", "comparison")


def read_iu_xray(
    source: str | Path,
    *,
    section: str,
    cleaning: str | None = "iu-xray",
    allow_shared_patients: bool = False,
    images: str | Path | None = None,
    split_list: str | Path | None = None,
    seed: int = 0,
) -> Source:
    """The studies of IU X-ray.

    Args:
        source: folder with R2Gen's `annotation.json` and images, or with Open-i's XML reports (directly or in
            `ecgen-radiology`) and images below it.
        section: what a model shall write. R2Gen's file holds findings only.
        cleaning: style of report cleaning; None leaves the text as it is.
        allow_shared_patients: whether a patient may be in two splits.
        images: where Open-i's images are, when they are not below `source`.
        split_list: R2Gen's `annotation.json`, to split Open-i's reports as the papers do; reports that it does not
            name are left out. By default the one in `source`, and without one a seeded 7:1:2.
        seed: of that split.

    Returns:
        Every report is a patient of its own, as no patient is known to have two.

    Raises:
        FileNotFoundError: neither form is there.
        SourceError: a report that is not XML, or R2Gen's form with other options.
        ValueError: an unknown section or cleaning.
    """
    check_text_options(section, cleaning)
    folder = find_folder(source)
    reports = _find_reports(folder)
    annotation = folder / "annotation.json"
    if not reports:
        if not annotation.is_file():
            raise FileNotFoundError(
                f"{folder}: neither annotation.json (R2Gen's form) nor XML reports, directly or in ecgen-radiology "
                "(Open-i's form)"
            )
        if section != "findings":
            raise SourceError(
                f"{annotation} holds findings only; for section {section!r} read Open-i's XML reports, with this file "
                "as split_list"
            )
        return read_annotation_json(
            folder,
            section=section,
            cleaning=cleaning,
            allow_shared_patients=allow_shared_patients,
            name="iu-xray",
            published_counts=PUBLISHED_COUNTS,
        )
    if split_list is None and annotation.is_file():
        split_list = annotation
    found = _index_images(find_folder(images) if images is not None else folder)
    studies = [_read_report(report, found) for report in reports]
    left_out = []
    if split_list is not None:
        splits = {_report_id(study["study_id"]): study["split"] for study in read_annotation(Path(split_list))}
        left_out = [LeftOut(s["study_id"], "study", "not in the split list") for s in studies]
        left_out = [entry for entry in left_out if entry.study_id not in splits]
        studies = [{**s, "split": splits[s["study_id"]]} for s in studies if s["study_id"] in splits]
    return finish_source(
        "iu-xray",
        studies,
        section=section,
        cleaning=cleaning,
        split_source=f"seeded 7:1:2 (seed {seed})" if split_list is None else "R2Gen's annotation.json",
        left_out=left_out,
        published_counts=PUBLISHED_COUNTS,
        allow_shared_patients=allow_shared_patients,
        seed=seed if split_list is None else None,
    )


def _find_reports(folder: Path) -> list[Path]:
    reports = sorted(folder.glob("*.xml")) or sorted((folder / "ecgen-radiology").glob("*.xml"))
    return sorted(reports, key=lambda path: (len(path.stem), path.stem))


def _report_id(study_id: str) -> str:
    """`CXR2384` of R2Gen's `CXR2384_IM-0942`, which adds the first image's number."""
    return study_id.partition("_")[0]


def _index_images(folder: Path) -> dict[str, str]:
    """Images by Open-i's name without `CXR1_`, which its DICOM files lack; PNG before others."""
    files = [path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES]
    files.sort(key=lambda path: (-_SUFFIXES.index(path.suffix.lower()), path))
    return {_image_key(path.stem): str(path) for path in files}


def _image_key(name: str) -> str:
    return re.sub(r"^CXR\d+_", "", name)


def _read_report(file: Path, images: dict[str, str]) -> dict[str, Any]:
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise SourceError(f"{file}: not an XML report ({error})") from error
    identifier = root.find(".//uId")
    study_id = identifier.get("id", "") if identifier is not None else ""
    if not study_id:
        raise SourceError(f"{file}: not one of Open-i's reports, it has no uId")
    study = empty_study(study_id, study_id)
    study.update(_read_sections(root))
    names = [image.get("id", "") for image in root.iter("parentImage")]
    # An image that is not there keeps its name, so that `prepare` can say which one is missing.
    study["images"] = [images.get(_image_key(name), str(file.parent / f"{name}.png")) for name in names]
    study["views"] = [""] * len(names)
    return study


def _read_sections(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    for text in root.iter("AbstractText"):
        name = text.get("Label", "").lower()
        if name in _SECTIONS:
            yield name, " ".join("".join(text.itertext()).split())
