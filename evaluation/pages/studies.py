"""The studies that a page shows: their images, their findings and both reports with marks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from PIL import Image

from ...processing.image_reading import load_xray
from ..findings import Verdict
from ..labeler import CheXpertStyleLabeler
from ..study_report import StudyReport
from .marks import Mark, compare_findings, marked_pieces
from .rendering import data_uri

_IMAGE_SIDE = 640
"""Longest side in pixels of an image on the page: sharp at the size shown, some 40 kB each."""
_CHIPS = (
    *(Verdict.FOUND, Verdict.CERTAINTY, Verdict.RELATED, Verdict.WRONG_SIDE),
    *(Verdict.MISSED, Verdict.DENIED, Verdict.INVENTED),
)
"""The order of the chips under a study's name."""
LEGEND = (*_CHIPS, Verdict.LEFT_OUT, Verdict.RULED_OUT)
"""The verdicts that a page with studies explains."""
_CONTEXT = {
    "indication": "Indication",
    "technique": "Technique",
    "comparison": "Comparison",
    "prior_report": "Report of the prior study",
    "section": "Section asked for",
}


def study_view(study: StudyReport, labeler: CheXpertStyleLabeler, remark: str = "") -> dict[str, Any]:
    """What the template of a study shows.

    Args:
        study: a study with one view name per image; a report or reference that it lacks counts as empty.
        labeler: reads the findings of both reports.
        remark: stands beside the study's name, such as its score.

    Raises:
        ValueError: images and views differ in number.
        ImageReadError, FileNotFoundError: an image that can't be read.
    """
    if len(study.images) != len(study.views):
        raise ValueError(
            f"study {study.study_id!r} has {len(study.images)} images and {len(study.views)} views; "
            "give one view name per image ('' when unknown)"
        )
    reference, generated = study.reference or "", study.report or ""
    comparison = compare_findings(reference, generated, labeler)
    return {
        "name": study.study_id,
        "remark": remark,
        "figures": [figure(image, view) for image, view in zip(study.images, study.views, strict=True)],
        **context_view(study),
        "findings": {verdict: names for verdict in _CHIPS if (names := comparison.observations(verdict))},
        "reference": _pieces(reference, comparison.reference_marks),
        "generated": _pieces(generated, comparison.hypothesis_marks),
    }


def context_view(study: StudyReport) -> dict[str, Any]:
    """What was known of a study beside its images: texts by their heading, and the prior's images."""
    context = study.context or {}
    priors = context.get("prior_images") or []
    views = context.get("prior_views") or [""] * len(priors)
    texts = {heading: context[name] for name, heading in _CONTEXT.items() if context.get(name)}
    return {
        "context": texts,
        "prior_figures": [figure(image, view) for image, view in zip(priors, views, strict=True)],
    }


def figure(image: Image.Image | str | PathLike, view: str) -> dict[str, Any]:
    """What the templates show of one image: its address, its size in pixels and the name of its view."""
    shown = load_xray(image, allow_blank=True).copy()
    shown.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE), Image.Resampling.LANCZOS)
    return {"source": data_uri(shown, "JPEG", quality=88), "width": shown.width, "height": shown.height, "view": view}


def with_images(studies: Sequence[StudyReport], dataset: Sequence[Mapping[str, Any]] | None) -> Iterator[StudyReport]:
    """The studies with the images and the context that the data set has of them, one at a time."""
    if dataset is None:
        yield from studies
        return
    table: Any = dataset
    ids = table["study_id"] if hasattr(dataset, "column_names") else [study["study_id"] for study in dataset]
    rows = {name: row for row, name in enumerate(ids)}
    for study in studies:
        if study.images or study.study_id not in rows:
            yield study
            continue
        row = dataset[rows[study.study_id]]
        context = {name: row[name] for name in (*_CONTEXT, "prior_images", "prior_views") if row.get(name)}
        views = row.get("views") or [""] * len(row["images"])
        yield replace(study, images=row["images"], views=views, context=context or None)


def _pieces(text: str, marks: Sequence[Mark]) -> list[tuple[str, Mark | None]]:
    return marked_pieces(text, marks) if text.strip() else []
