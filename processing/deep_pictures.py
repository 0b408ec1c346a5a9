"""All the bits of what Pillow opens: of images with several channels of 16 bits it keeps the upper 8 only."""

import sys
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .pixel_rules import ImageReadError, bit_depth, pillow_decodes, stretch, to_8bit

# Pillow takes the upper byte of a sample in the order that the raw mode names: in the other order, the lower one.
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_LOW_VALUES = 2**6
_PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 262, 0
_BITS_TAG, _SAMPLE_FORMAT_TAG, _UNSIGNED, _SIGNED = 258, 339, 1, 2


def is_deep_colour(picture: Image.Image) -> bool:
    """Whether an image that is not loaded yet has several channels of 16 bits."""
    return any(";16" in _raw_mode(tile) for tile in getattr(picture, "tile", ())) and not is_deep_grey(picture)


def is_deep_grey(picture: Image.Image) -> bool:
    """Whether an image has one channel of more than 8 bits, or of 8 bits with a sign."""
    return picture.mode.startswith("I") or picture.mode == "F" or _is_signed_byte(picture)


def grey_values(picture: Image.Image, opened: Image.Image) -> np.ndarray:
    """The values of a deep grey image as its file holds them: Pillow knows neither signed bytes nor 32 bits unsigned.

    Args:
        picture: loaded, perhaps turned.
        opened: the same as `Image.open` gave it.

    Returns:
        `(height, width)`.
    """
    values = np.asarray(picture)
    if _is_signed_byte(opened):
        return values.view(np.int8)
    if opened.format == "TIFF" and values.dtype == np.int32 and _tiff(opened, _BITS_TAG) == 32:
        return values.view(np.uint32) if _tiff(opened, _SAMPLE_FORMAT_TAG) in (None, _UNSIGNED) else values
    return values


def _is_signed_byte(picture: Image.Image) -> bool:
    return picture.mode == "L" and picture.format == "TIFF" and _tiff(picture, _SAMPLE_FORMAT_TAG) == _SIGNED


def _tiff(picture: Image.Image, tag: int) -> int | None:
    """The first number in a field of a TIFF."""
    found = picture.tag_v2.get(tag)
    return found[0] if isinstance(found, tuple) and found else found


def is_white_zero(picture: Image.Image) -> bool:
    """Whether the values of a TIFF are those of a negative."""
    return picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO


def load_deep_colour(content: bytes, name: str) -> Image.Image:
    """The upright image in a file of several channels of 16 bits, brought to 8 by `pixel_rules.to_8bit`.

    Returns:
        Mode "LA", "RGB", "RGBA" or "CMYK".

    Raises:
        ImageReadError: Pillow can't hand out the lower bits.
    """
    with pillow_decodes(name), Image.open(BytesIO(content)) as picture:
        raw_mode, mode = _raw_mode(picture.tile[0]), picture.mode
    if raw_mode == "LA;16B":
        # The four bytes of a pixel, as if they were four channels of 8 bits.
        halves = _decode(content, "RGBA", "RGBA", name)
        values = halves[..., 0::2] * np.uint16(256) + halves[..., 1::2]
        return Image.merge("LA", [Image.fromarray(to_8bit(values[..., 0], name)), _alpha(values[..., 1])])
    is_on_black = raw_mode.startswith("RGBa")  # colours are multiplied by alpha already
    raw_mode = raw_mode.replace("RGBa", "RGBA")
    upper, lower = (_decode(content, mode, each, name) for each in (raw_mode, _swapped(raw_mode, name)))
    values = upper * np.uint16(256) + lower
    if mode == "CMYK":
        return Image.fromarray(to_8bit(values, name), "CMYK")
    colours = Image.fromarray(to_8bit(np.ascontiguousarray(values[..., :3]), name))
    if values.shape[-1] == 3 or is_on_black:
        return colours
    return Image.merge("RGBA", [*colours.split(), _alpha(values[..., 3])])


def refuse_lost_bits(picture: Image.Image, name: str) -> None:
    """Refuse a loaded JPEG 2000 of several channels whose values Pillow has nearly shifted away.

    Raises:
        ImageReadError: no colour reaches a quarter of the range.
    """
    if picture.format == "JPEG2000" and len(picture.getbands()) >= 3:
        highest = max(high for _, high in picture.getextrema()[:3])
        if 0 < highest < _LOW_VALUES:
            raise ImageReadError(
                name, "JPEG 2000 whose colours use the lowest quarter of their range: store it as grey"
            )


def _alpha(values: np.ndarray) -> Image.Image:
    return Image.fromarray(stretch(values, 0.0, 2.0 ** bit_depth(int(values.max())) - 1))


def _decode(content: bytes, mode: str, raw_mode: str, name: str) -> np.ndarray:
    with pillow_decodes(name), Image.open(BytesIO(content)) as picture:
        picture._mode = mode
        picture.tile = [tile._replace(args=_with_raw_mode(tile.args, raw_mode)) for tile in picture.tile]
        picture.load()
        return np.asarray(ImageOps.exif_transpose(picture))


def _raw_mode(tile: Any) -> str:
    found = tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args
    return found if isinstance(found, str) else ""


def _with_raw_mode(arguments: Any, raw_mode: str) -> Any:
    return (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode


def _swapped(raw_mode: str, name: str) -> str:
    start, separator, order = raw_mode.partition(";16")
    if order not in _OTHER_ORDER:
        raise ImageReadError(name, "colours of 16 bits in a form that can't be read; store the image as grey")
    return f"{start}{separator}{_OTHER_ORDER[order]}"
