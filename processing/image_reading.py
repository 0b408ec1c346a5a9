"""From whatever a user has (file, bytes, array, DICOM) to an 8-bit image. `docs/input.md` lists the rules."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.utils import is_torch_tensor

from .deep_pictures import (
    grey_values,
    is_deep_colour,
    is_deep_grey,
    is_white_zero,
    load_deep_colour,
    refuse_lost_bits,
)
from .dicom import is_dicom, read_dicom
from .image_content import is_address, read_address, read_file, read_stream
from .image_limits import check_bytes, check_size
from .pixel_rules import DECODE_ERRORS, ImageReadError, pillow_decodes, refuse_blank, refuse_cut_jpeg, to_8bit

__all__ = ["NAME_ATTRIBUTE", "ImageReadError", "load_xray"]

NAME_ATTRIBUTE = "xray_name"
"""Attribute of a PIL image that says what to call it in messages, where it has no file name of its own."""

_DICOM_SUFFIXES = (".dcm", ".dicom")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class _Options:
    """The keyword arguments of `load_xray`."""

    least_side: int | None
    strict: bool
    allow_blank: bool


def load_xray(
    source: Any, *, least_side: int | None = None, strict: bool = False, allow_blank: bool = False
) -> Image.Image:
    """Read one X-ray image.

    Args:
        source: a path (`str` or `Path`) of a regular file, the content of a file (`bytes`; PNG, JPEG, DICOM …), a
            binary file object (`BytesIO`, `open(…, "rb")`), an `http(s)://` or `data:` URL, a PIL image, a numpy array
            or torch tensor of shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, or a dictionary
            `{"bytes": …, "path": …}` as `datasets.Image(decode=False)` gives.
        least_side: a JPEG may come out at 1/2, 1/4 or 1/8 of its size, which decodes faster, as long as no side gets
            shorter than this. Other sources, and all when it is not given, keep their size.
        strict: refuse DICOMs about which there are doubts, see `dicom.read_dicom`, that otherwise are logged.
        allow_blank: read images in which there is nothing to see, such as test images of one grey value.

    Returns:
        The upright image with 8 bits per channel: mode "L" where the source is grey, "RGB" where it has colour
        channels (even if they are equal). How deeper grey values become 8-bit ones: `pixel_rules.to_8bit`; DICOM:
        `dicom.read_dicom`. Transparent parts lie on black, the background of an X-ray.

    Raises:
        ImageReadError: the message names the file and the reason.
        FileNotFoundError: no such file.
        TypeError: a source of another kind.
    """
    options = _Options(least_side, strict, allow_blank)
    if isinstance(source, Mapping):
        return _load_dictionary(source, options)
    if isinstance(source, Image.Image):
        name = getattr(source, NAME_ATTRIBUTE, "") or getattr(source, "filename", "")
        return _finish(source, str(name or f"<PIL image of mode {source.mode}>"), options)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _load_bytes(bytes(source), f"<{len(source)} bytes>", options)
    if is_torch_tensor(source):
        tensor = source.detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return _load_array(array, "torch tensor", options)
    if isinstance(source, np.ndarray):
        return _load_array(source, "numpy array", options)
    if isinstance(source, str) and is_address(source):
        return _load_bytes(*read_address(source), options)
    if isinstance(source, (str, Path)):
        return _load_bytes(read_file(Path(source)), str(source), options)
    if callable(getattr(source, "read", None)):
        name = getattr(source, "name", None)
        name = name if isinstance(name, str) else f"<{type(source).__name__}>"
        return _load_bytes(read_stream(source, name), name, options)
    raise TypeError(
        f"an X-ray can't be read from {type(source).__name__}; give a path, bytes, an open file, a PIL image, a numpy "
        "array or a torch tensor"
    )


def _load_dictionary(source: Mapping[str, Any], options: _Options) -> Image.Image:
    content, path = source.get("bytes"), source.get("path")
    if content is not None:
        return _load_bytes(content, str(path) if path else f"<{len(content)} bytes>", options)
    if path is None:
        raise TypeError("a dictionary that stands for an image needs 'bytes' or 'path', as in datasets.Image")
    return _load_bytes(read_file(Path(path)), str(path), options)


def _load_bytes(content: bytes, name: str, options: _Options) -> Image.Image:
    if not content:
        raise ImageReadError(name, "the file is empty")
    check_bytes(len(content), name)
    # The content decides; a DICOM without preamble can be told by its name only.
    if is_dicom(content[:132]):
        return _load_dicom(content, name, options)
    try:
        picture = Image.open(BytesIO(content))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageReadError(name, f"too large, taken for a decompression bomb ({error})") from error
    except (*DECODE_ERRORS, AttributeError, RuntimeError, TypeError) as error:  # nothing but Pillow works here
        if name.lower().endswith(_DICOM_SUFFIXES):
            return _load_dicom(content, name, options)
        if content.startswith(_LFS_POINTER):
            raise ImageReadError(name, "a Git LFS pointer, not the image itself: git lfs pull") from error
        raise ImageReadError(name, "not an image in a known format (or its first bytes are damaged)") from error
    with picture:
        return _finish(picture, name, options, content)


def _load_dicom(content: bytes, name: str, options: _Options) -> Image.Image:
    return read_dicom(content, name=name, strict=options.strict, allow_blank=options.allow_blank).image


def _load_array(values: np.ndarray, kind: str, options: _Options) -> Image.Image:
    name = f"<{kind} of shape {tuple(values.shape)}>"
    if values.ndim == 3 and values.shape[-1] not in _CHANNELS and values.shape[0] in _CHANNELS:
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[-1] in _CHANNELS)):
        raise ImageReadError(name, "not an image; expected (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4")
    check_size(values.shape[1], values.shape[0], name)
    return _finish(Image.fromarray(np.ascontiguousarray(to_8bit(values, name))), name, options)


def _finish(picture: Image.Image, name: str, options: _Options, content: bytes | None = None) -> Image.Image:
    """Decode, turn upright, bring to mode "L" or "RGB", and look whether there is anything to see."""
    check_size(*picture.size, name)
    picture = _decode(picture, name, options.least_side, content)
    if picture.mode == "La":  # Pillow can't convert it to anything else
        picture = picture.convert("LA")
    reason = {}
    if picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema()[1] == 0:
        reason = {"reason": "it is fully transparent"}
    picture = _to_grey_or_rgb(picture)
    if not options.allow_blank:
        refuse_blank(picture, name, **reason)
    return picture


def _decode(picture: Image.Image, name: str, least_side: int | None, content: bytes | None) -> Image.Image:
    """The upright image, loaded, with 8 bits per channel."""
    with pillow_decodes(name):
        if least_side is not None:
            picture.draft(None, (least_side, least_side))  # does nothing but for JPEGs that are larger
        frames = getattr(picture, "n_frames", 1)
    # MPO is what some cameras and phones make: a JPEG that carries its own preview.
    if frames > 1 and picture.format != "MPO":
        raise ImageReadError(name, f"{picture.format} with {frames} images; give each as a view of its own")
    if is_deep_colour(picture):
        return load_deep_colour(_content_of(picture) if content is None else content, name)
    with pillow_decodes(name):
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    refuse_lost_bits(picture, name)
    if picture.format in ("JPEG", "MPO"):
        refuse_cut_jpeg(np.asarray(picture), name)
    if not is_deep_grey(picture):
        return upright
    grey = to_8bit(grey_values(upright, picture), name)
    return Image.fromarray(np.uint8(255) - grey if is_white_zero(picture) else grey)


def _content_of(picture: Image.Image) -> bytes:
    """The file that a caller has opened, without moving its position."""
    place = picture.fp.tell()
    try:
        picture.fp.seek(0)
        return picture.fp.read()
    finally:
        picture.fp.seek(place)


def _to_grey_or_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.has_transparency_data:
        is_grey = picture.mode in ("L", "LA")
        layers = picture.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", layers.size, "black"), layers).convert("RGB")
        return flat.getchannel("R") if is_grey else flat
    return picture.convert("RGB")
