"""Data sets in the format of R2Gen: an `annotation.json` that lists studies by split, and their images."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..processing.report_cleaning import clean_report
from ..processing.report_text import SECTIONS, is_missing
from .cells import plain_text, short, standard_view
from .priors import ORDER, link_priors, read_date, with_priors
from .schema import SPLIT_NAMES, study_features
from .source import (
    Source,
    check_leaks,
    check_text_options,
    empty_study,
    find_folder,
    finish_source,
    is_file,
    require_unique,
)

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_COLUMNS = ("findings", "impression")
_CONTEXT = ("indication", "technique", "comparison")


class AnnotationError(ValueError):
    """An annotation file that does not hold what R2Gen's format asks for."""


def load_annotation_json(
    folder: str | Path,
    *,
    section: str | None = None,
    cleaning: str | None = None,
    allow_shared_patients: bool = False,
    prior: bool = False,
) -> "datasets.DatasetDict":
    """Reads `annotation.json` and its images (R2Gen; Chen et al., EMNLP 2020) into the package's schema.

    Image paths are taken relative to the folder, or to its sub-folder `images` as R2Gen lays it out. The file tells
    no labels. Without a `patient_id` or `subject_id`, every study counts as another patient. A study may also have
    `indication`, `technique` and `comparison`, and a `study_date` (ISO 8601), by which a patient's studies are ordered.

    Args:
        folder: holds `annotation.json`.
        section: what its reports consist of, which the file does not state; R2Gen's own hold findings. `"findings"` and
            `"impression"` fill the column of that name, else both stay empty.
        cleaning: how to clean the reports, see `processing.report_cleaning`; None leaves them as they are.
        allow_shared_patients: whether a patient may be in two splits.
        prior: whether rows show the patient's previous study, see `with_priors`.

    Returns:
        Splits `train`, `validation` and `test`, those that the file has; images are decoded on access.

    Raises:
        FileNotFoundError: the file or some images are absent; the message names them.
        AnnotationError: the file is no JSON, a study lacks a key or has a value of another kind, or a split has a
            name that is not known.
        SourceError: a study id occurs more than once.
        SharedPatientsError: a patient is in two splits and that is not allowed.
        ValueError: an unknown section or cleaning.
    """
    import datasets

    check_text_options(section or SECTIONS[0], cleaning)
    file = Path(folder) / "annotation.json"
    rows: dict[str, list[dict[str, Any]]] = {}
    for study in read_annotation(file):
        if not study["report"]:
            logger.warning("%s: study %s is left out, it has no report", file, study["study_id"])
            continue
        if section in _COLUMNS:
            study[section] = study["report"]
        if cleaning is not None:
            study["report"] = clean_report(study["report"], cleaning)
        rows.setdefault(study["split"], []).append(study)
    require_unique((study for studies in rows.values() for study in studies), str(file))
    _require_images(rows)
    check_leaks(
        [study for studies in rows.values() for study in studies],
        str(file),
        "its own lists",
        allow_shared_patients=allow_shared_patients,
    )
    if prior:
        link_priors([study for studies in rows.values() for study in studies], str(file))
    features = study_features()
    splits = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list([{k: study[k] for k in features} for study in studies], features=features)
            for name, studies in rows.items()
        }
    )
    return with_priors(splits) if prior else splits


def read_annotation_json(
    source: str | Path,
    *,
    section: str,
    cleaning: str | None = None,
    allow_shared_patients: bool = False,
    prior: bool = False,
    name: str = "annotation-json",
    published_counts: Mapping[str, int] | None = None,
) -> Source:
    """The studies of a folder with an `annotation.json`, for `prepare`.

    Args:
        source: the folder.
        section: what the reports of this file consist of; R2Gen's own files hold findings. They are put into the
            column of that name; reports of both sections can't be separated and stay in `report` only.
        cleaning: how to clean the reports; None leaves them as they are.
        allow_shared_patients: whether a patient may be in two splits.
        prior: whether to link each study to the patient's previous one, by `study_date`.
        name: of the data set.
        published_counts: what the papers state of it.

    Raises:
        FileNotFoundError, AnnotationError, SharedPatientsError, ValueError: as `load_annotation_json`, but images are
            not looked for.
    """
    check_text_options(section, cleaning)
    # `findings` of both sections together is taken back below.
    column = "impression" if section == "impression" else "findings"
    studies = [{**study, column: study["report"]} for study in read_annotation(find_folder(source) / "annotation.json")]
    found = finish_source(
        name,
        studies,
        section=section,
        cleaning=cleaning,
        split_source="annotation.json",
        published_counts=published_counts,
        allow_shared_patients=allow_shared_patients,
        prior=prior,
    )
    if section == "findings+impression":
        for study in found.studies:
            study["findings"] = ""
    return found


def read_annotation(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of an annotation file, images as paths that need not exist.

    Raises:
        FileNotFoundError: the file is absent.
        AnnotationError: the file is no JSON, a study lacks a key or has a value of another kind, or a split has a
            name that is not known.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is absent; the folder must hold annotation.json and the images it names")
    try:
        annotation = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{file} is not a text in UTF-8: {error}") from error
    # RecursionError: brackets nested a thousand deep.
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(annotation, dict) or not set(annotation) & set(SPLIT_NAMES):
        raise AnnotationError(f"{file} has none of the splits {', '.join(SPLIT_NAMES)}")
    # Other keys may hold remarks, but a list of studies under another name would be lost.
    if unknown := [name for name, value in annotation.items() if name not in SPLIT_NAMES and isinstance(value, list)]:
        raise AnnotationError(f"{file} has the unknown split {unknown[0]!r}; known are {', '.join(SPLIT_NAMES)}")
    lists = [studies for studies in annotation.values() if isinstance(studies, list)]
    if any(isinstance(study, Mapping) and "labels" in study for studies in lists for study in studies):
        logger.warning("%s: its labels are not read, since the format does not define them", file)
    for name, studies in annotation.items():
        if name not in SPLIT_NAMES:
            continue
        if not isinstance(studies, list):
            raise AnnotationError(f"{file}: {name} must be a list of studies, got {short(studies)}")
        for number, values in enumerate(studies):
            yield _read_study(values, SPLIT_NAMES[name], file, f"{name}[{number}]")


def _read_study(study: Any, split: str, file: Path, place: str) -> dict[str, Any]:
    if not isinstance(study, Mapping):
        raise AnnotationError(f"{file}: {place} must hold id, report and image_path, got {short(study)}")
    where = f"{file}: study {study['id']!r}" if isinstance(study.get("id"), str | int) else f"{file}: {place}"
    missing = [key for key in ("id", "report", "image_path") if key not in study]
    if missing:
        raise AnnotationError(f"{where} lacks {', '.join(missing)}")
    study_id = _identifier(study["id"], "id", where)
    if not isinstance(study["report"], str):
        raise AnnotationError(f"{where}: its report must be a text, got {short(study['report'])}")
    paths = [study["image_path"]] if isinstance(study["image_path"], str) else study["image_path"]
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise AnnotationError(f"{where}: its image_path must be a path or a list of paths, got {short(paths)}")
    views = study.get("view", "")
    views = [views] * len(paths) if isinstance(views, str) else views
    if not isinstance(views, list) or len(views) != len(paths) or not all(isinstance(view, str) for view in views):
        raise AnnotationError(f"{where}: its view must be a text, or one per image, got {short(views)}")
    patient = next((study[key] for key in ("patient_id", "subject_id") if study.get(key) is not None), study_id)
    return {
        **empty_study(study_id, _identifier(patient, "patient_id", where)),
        "images": [str(_find_image(file.parent, path)) for path in paths],
        "views": [standard_view(view) for view in views],
        **{name: _text(study.get(name), name, where) for name in _CONTEXT},
        "report": "" if is_missing(report := plain_text(study["report"])) else report,
        "split": split,
        ORDER: read_date(study.get("study_date"), where),
    }


def _text(value: Any, key: str, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise AnnotationError(f"{where}: its {key} must be a text, got {short(value)}")
    return plain_text(value or "")


def _identifier(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not (found := plain_text(str(value))):
        raise AnnotationError(f"{where}: its {key} must be a text or a whole number, got {short(value)}")
    return found


def _find_image(folder: Path, path: str) -> Path:
    below_images = folder / "images" / path
    return below_images if is_file(below_images) else folder / path


def _require_images(rows: Mapping[str, list[dict[str, Any]]]) -> None:
    absent = [
        path for studies in rows.values() for study in studies for path in study["images"] if not is_file(Path(path))
    ]
    if absent:
        shown = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
        raise FileNotFoundError(f"{len(absent)} images named by annotation.json are absent: {shown}")
