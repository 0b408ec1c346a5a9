"""The page of `mambaxray explain` for a classifier: probabilities, maps and the regions that a memory would keep."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..disease_maps import DiseaseExplanation, DiseaseMap
from .overlays import enlarged, grey_mask, heat_overlay, outlined_regions, png_uri
from .rendering import write_page

_PRESENT = 0.5
_CAM_TITLES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "xgradcam": "XGrad-CAM",
    "eigencam": "Eigen-CAM",
}
_NOTES = (
    "A map shows where the evidence for an observation comes from, with colours of its own, from none to its strongest "
    "patch; a map alone does not mean that the observation is there.",
    "A map is as coarse as the model's patches and need not show where a finding is on the film.",
)


def write_disease_page(
    path: str | PathLike, explanation: DiseaseExplanation, *, title: str, summary: str, notes: Sequence[str] = ()
) -> Path:
    """Writes the page and returns its path; missing folders are made.

    Args:
        path: the HTML file to write.
        explanation: what `explain_diseases` returns.
        title: the heading.
        summary: the paragraph under it.
        notes: more lines for the foot of the page.
    """
    views = [enlarged(view) for view in explanation.views]
    present = [each for each in explanation.diseases if each.probability >= _PRESENT]
    others = [each for each in explanation.diseases if each.probability < _PRESENT]
    return write_page(
        path,
        "disease_page.html.jinja",
        title=title,
        summary=summary,
        sections={"probabilities": "Probabilities", "maps": "Maps and regions"},
        notes=[*_NOTES, *notes],
        views=[{"source": png_uri(view), "width": view.width, "height": view.height} for view in views],
        probabilities=[
            {"observation": each.observation, "probability": each.probability} for each in explanation.diseases
        ],
        cam=_CAM_TITLES.get(explanation.cam, explanation.cam),
        threshold=explanation.threshold,
        most_regions=explanation.most_regions,
        present=[_shown(each, explanation) for each in present],
        others=[_shown(each, explanation) for each in others],
    )


def _shown(disease: DiseaseMap, explanation: DiseaseExplanation) -> dict[str, Any]:
    return {
        "observation": disease.observation,
        "probability": disease.probability,
        "views": [
            {
                "heat": png_uri(heat_overlay(heat, view.size)),
                "outline": png_uri(outlined_regions(regions, view.size)),
                "mask": png_uri(grey_mask(regions, view.size, explanation.mask_grey)),
                "count": int(regions.sum()),
                "ratio": f"{view.width} / {view.height}",
            }
            for heat, regions, view in zip(disease.maps, disease.regions, explanation.views, strict=True)
        ],
    }


__all__ = ["write_disease_page"]
