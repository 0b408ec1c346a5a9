"""Data sets in the format of R2Gen: an `annotation.json` that lists studies by split, and their images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .schema import OBSERVATIONS, study_features

if TYPE_CHECKING:
    import datasets

_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


class AnnotationError(ValueError):
    """An annotation file that does not hold what R2Gen's format asks for."""


def load_annotation_json(folder: str | Path) -> "datasets.DatasetDict":
    """Reads `annotation.json` and its images (R2Gen; Chen et al., EMNLP 2020) into the package's schema.

    Image paths are taken relative to the folder, or to its sub-folder `images` as R2Gen lays it out. The file tells
    no sections, so `findings` and `impression` stay empty, and no labels. Without a `patient_id`, every study counts
    as another patient.

    Returns:
        Splits `train`, `validation` and `test`, those that the file has; images are decoded on access.

    Raises:
        FileNotFoundError: the file or some images are absent; the message names them.
        AnnotationError: the file is no JSON, or a study lacks a key.
    """
    import datasets

    file = Path(folder) / "annotation.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is absent; the folder must hold annotation.json and the images it names")
    try:
        annotation = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(annotation, dict) or not set(annotation) & set(_SPLITS):
        raise AnnotationError(f"{file} has none of the splits {', '.join(_SPLITS)}")
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, studies in annotation.items():
        if name in _SPLITS:
            rows.setdefault(_SPLITS[name], []).extend(_read_study(study, _SPLITS[name], file) for study in studies)
    _require_images(rows)
    features = study_features()
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_list(studies, features=features) for name, studies in rows.items()}
    )


def _read_study(study: Mapping[str, Any], split: str, file: Path) -> dict[str, Any]:
    missing = [key for key in ("id", "report", "image_path") if key not in study]
    if missing:
        raise AnnotationError(f"{file}: study {study.get('id', '?')!r} lacks {', '.join(missing)}")
    paths = study["image_path"]
    paths = [paths] if isinstance(paths, str) else list(paths)
    views = study.get("view", "")
    return {
        "study_id": str(study["id"]),
        "patient_id": str(study.get("patient_id", study["id"])),
        "images": [str(_find_image(file.parent, path)) for path in paths],
        "views": [views] * len(paths) if isinstance(views, str) else list(views),
        "findings": "",
        "impression": "",
        "indication": "",
        "comparison": "",
        "report": study["report"],
        "labels": dict.fromkeys(OBSERVATIONS),
        "split": split,
    }


def _find_image(folder: Path, path: str) -> Path:
    below_images = folder / "images" / path
    return below_images if below_images.is_file() else folder / path


def _require_images(rows: Mapping[str, list[dict[str, Any]]]) -> None:
    absent = [
        path for studies in rows.values() for study in studies for path in study["images"] if not Path(path).is_file()
    ]
    if absent:
        shown = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
        raise FileNotFoundError(f"{len(absent)} images named by annotation.json are absent: {shown}")
