"""A contact sheet of studies, for looking at many phantoms at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw


def contact_sheet(studies: Sequence[Mapping[str, Any]], columns: int = 4) -> Image.Image:
    """All images of the studies side by side, each with its view and present observations below.

    Args:
        studies: dicts with `images`, `views` and `labels`, as `make_study` and `make_phantoms` give them.
        columns: images per row.

    Raises:
        ValueError: for no studies, or less than one column.
    """
    cells = [*_cells(studies)]
    if not cells or columns < 1:
        raise ValueError(f"{len(cells)} images in {columns} columns: at least one of each is needed")
    width = max(image.width for image, _ in cells) + 4
    height = max(image.height for image, _ in cells) + 30
    sheet = Image.new("L", (width * columns, height * -(-len(cells) // columns)))
    for i, (image, caption) in enumerate(cells):
        corner = (i % columns * width, i // columns * height)
        sheet.paste(image, corner)
        sheet.paste(_caption(caption, width, 28), (corner[0], corner[1] + image.height))
    return sheet


def _caption(text: str, width: int, height: int) -> Image.Image:
    label = Image.new("L", (width, height))
    ImageDraw.Draw(label).multiline_text((3, 1), text, fill=220, font_size=10, spacing=1)
    return label


def _cells(studies: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Image.Image, str]]:
    for study in studies:
        present = [name for name, value in study["labels"].items() if value == 1]
        for image, view in zip(study["images"], study["views"], strict=True):
            yield image, f"{view}: {', '.join(present[:1])}\n{', '.join(present[1:])}"
