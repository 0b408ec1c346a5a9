"""What pages lay over X-rays: maps, regions and masks, in the aspect ratio of the film."""

import numpy as np
from PIL import Image, ImageDraw

from .rendering import data_uri

_HEAT = (255, 122, 0)
_OUTLINE = (64, 224, 255)
_VIEW_SIDE = 448
_MAP_SIDE = 96
_CELL_SIDE = 32


def heat_overlay(heat: np.ndarray, view_size: tuple[int, int]) -> Image.Image:
    """A map `(rows, columns)` in colours, stretched from the square that the model saw to the aspect ratio of the
    view."""
    strength = heat / max(float(heat.max()), np.finfo(np.float32).tiny)
    pixels = np.empty((*heat.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _HEAT
    pixels[..., 3] = np.round(200 * strength)
    scale = _MAP_SIDE / max(view_size)
    width, height = (max(1, round(side * scale)) for side in view_size)
    return Image.fromarray(pixels, "RGBA").resize((width, height), Image.Resampling.BILINEAR)


def outlined_regions(regions: np.ndarray, view_size: tuple[int, int]) -> Image.Image:
    """A frame round each group of neighbouring regions `(rows, columns)`, on nothing."""
    rows, columns = regions.shape
    image = Image.new("RGBA", (columns * _CELL_SIDE, rows * _CELL_SIDE))
    draw = ImageDraw.Draw(image)
    padded = np.pad(regions, 1)
    for row, column in zip(*np.nonzero(regions), strict=True):
        left, top = column * _CELL_SIDE, row * _CELL_SIDE
        right, bottom = left + _CELL_SIDE - 1, top + _CELL_SIDE - 1
        sides = {
            (left, top, right, top): padded[row, column + 1],
            (left, bottom, right, bottom): padded[row + 2, column + 1],
            (left, top, left, bottom): padded[row + 1, column],
            (right, top, right, bottom): padded[row + 1, column + 2],
        }
        for line, is_inside in sides.items():
            if not is_inside:
                draw.line(line, fill=_OUTLINE, width=5)
    return image.resize(_size(view_size), Image.Resampling.LANCZOS)


def grey_mask(regions: np.ndarray, view_size: tuple[int, int], grey: int) -> Image.Image:
    """One grey value over all but the regions `(rows, columns)`."""
    pixels = np.full((*regions.shape, 4), grey, dtype=np.uint8)
    pixels[..., 3] = np.where(regions, 0, 255)
    return Image.fromarray(pixels, "RGBA").resize(_size(view_size), Image.Resampling.NEAREST)


def enlarged(view: Image.Image) -> Image.Image:
    """Small images look better when this enlarges them than when the browser does."""
    scale = max(1, _VIEW_SIDE // max(view.size))
    return view.resize((view.width * scale, view.height * scale), Image.Resampling.BICUBIC)


def png_uri(image: Image.Image) -> str:
    """The image as the address of an `img`."""
    return data_uri(image, "PNG", optimize=True)


def _size(view_size: tuple[int, int]) -> tuple[int, int]:
    scale = _VIEW_SIDE / max(view_size)
    width, height = (max(1, round(side * scale)) for side in view_size)
    return width, height


__all__ = ["enlarged", "grey_mask", "heat_overlay", "outlined_regions", "png_uri"]
