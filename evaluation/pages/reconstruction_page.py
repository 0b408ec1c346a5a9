"""The page of `mambaxray analyse reconstruction`: images, what reports make of them, and words near their patches."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..reconstruction import PatchWords, Reconstruction
from .overlays import enlarged, png_uri
from .rendering import write_page

_NOTES = (
    "Each pixel of a reconstruction is made of what the frozen language model says when it has read the report; its "
    "error is the mean squared error over all pixels, in the units that the model sees.",
    "A teacher-forced model also sees the true embeddings of the patches before: what the report adds is the "
    "difference between the two reconstructions.",
    "A word lies near an embedding by Euclidean distance. That says where an embedding is, not what the model means.",
)
_MARK = (64, 224, 255)


def write_reconstruction_page(
    path: str | PathLike, reconstructions: Sequence[Reconstruction], *, title: str, summary: str
) -> Path:
    """Writes the page and returns its path; missing folders are made.

    Args:
        path: the HTML file to write.
        reconstructions: what `reconstruct_studies` returns.
        title: the heading.
        summary: the paragraph under it.
    """
    return write_page(
        path,
        "reconstruction_page.html.jinja",
        title=title,
        summary=summary,
        notes=_NOTES,
        images=[_shown(reconstruction) for reconstruction in reconstructions],
    )


def _shown(found: Reconstruction) -> dict[str, Any]:
    seen = enlarged(found.seen)
    pictures = [
        (_with_numbers(seen, found), "input"),
        (enlarged(found.reconstructed), f"from its report, error {found.error:.3f}"),
        (enlarged(found.from_other), f"from another report, error {found.error_from_other:.3f}"),
    ]
    return {
        "name": " ".join(part for part in (found.study_id, found.view) if part),
        "text": found.text,
        "pictures": [
            {"source": png_uri(picture), "width": picture.width, "height": picture.height, "caption": caption}
            for picture, caption in pictures
        ],
        "distance": found.distance,
        "distance_from_other": found.distance_from_other,
        "patches": [
            {"number": number, "of_image": _words(patch.of_image), "of_report": _words(patch.of_report)}
            for number, patch in enumerate(found.patches, start=1)
        ],
    }


def _words(near: Sequence[tuple[str, float]]) -> list[dict[str, str]]:
    return [{"text": word.strip() or repr(word), "distance": f"{distance:.2f}"} for word, distance in near]


def _with_numbers(view: Image.Image, found: Reconstruction) -> Image.Image:
    marked = Image.fromarray(np.asarray(view.convert("RGB")))
    draw = ImageDraw.Draw(marked)
    width, height = marked.width / found.side, marked.height / found.side
    for number, patch in enumerate(found.patches, start=1):
        draw.rectangle(_frame(patch, width, height), outline=_MARK, width=2)
        place = (patch.column * width + 4, patch.row * height + 2)
        draw.text(place, str(number), fill=_MARK, font_size=max(10, round(min(height / 3, 24))))
    return marked


def _frame(patch: PatchWords, width: float, height: float) -> tuple[float, float, float, float]:
    left, top = patch.column * width, patch.row * height
    return left, top, left + width - 1, top + height - 1


__all__ = ["write_reconstruction_page"]
