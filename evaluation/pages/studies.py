"""The studies that a page shows: their images, their findings and both reports with marks."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

from PIL import Image

from ...processing.image_reading import load_xray
from ..labeler import CheXpertStyleLabeler
from ..study_report import StudyReport
from .marks import Mark, Verdict, compare_findings, marked_pieces
from .rendering import data_uri

_IMAGE_SIDE = 640
"""Longest side in pixels of an image on the page: sharp at the size shown, some 40 kB each."""
_CHIPS = (Verdict.FOUND, Verdict.CERTAINTY, Verdict.WRONG_SIDE, Verdict.MISSED, Verdict.DENIED, Verdict.INVENTED)
"""The order of the chips under a study's name."""
LEGEND = (*_CHIPS, Verdict.RULED_OUT)
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
        "figures": [_figure(image, view) for image, view in zip(study.images, study.views, strict=True)],
        **_context_view(study),
        "findings": {verdict: names for verdict in _CHIPS if (names := comparison.observations(verdict))},
        "reference": _pieces(reference, comparison.reference_marks),
        "generated": _pieces(generated, comparison.hypothesis_marks),
    }


def _context_view(study: StudyReport) -> dict[str, Any]:
    """What was known of the study beside its images: texts by their heading, and the prior's images."""
    context = study.context or {}
    priors = context.get("prior_images") or []
    views = context.get("prior_views") or [""] * len(priors)
    texts = {heading: context[name] for name, heading in _CONTEXT.items() if context.get(name)}
    return {
        "context": texts,
        "prior_figures": [_figure(image, view) for image, view in zip(priors, views, strict=True)],
    }


def _figure(image: Image.Image | str | PathLike, view: str) -> dict[str, Any]:
    shown = load_xray(image, allow_blank=True).copy()
    shown.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE), Image.Resampling.LANCZOS)
    return {"source": data_uri(shown, "JPEG", quality=88), "width": shown.width, "height": shown.height, "view": view}


def _pieces(text: str, marks: Sequence[Mark]) -> list[tuple[str, Mark | None]]:
    return marked_pieces(text, marks) if text.strip() else []
