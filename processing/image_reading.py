"""From whatever a user has (file, bytes, array, DICOM) to an 8-bit picture. `docs/input.md` lists the rules."""

from base64 import b64decode
from collections.abc import Mapping
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from PIL import Image, ImageOps
from transformers.utils import is_torch_tensor

from .dicom import is_dicom, read_dicom
from .pixel_rules import DECODE_ERRORS, ImageReadError, check_size, one_line, to_8bit

__all__ = ["ImageReadError", "load_xray"]

_DICOM_SUFFIXES = (".dcm", ".dicom")
_URL_TIMEOUT = 30  # seconds
_CHANNELS = (1, 3, 4)


def load_xray(source: Any, *, least_side: int | None = None) -> Image.Image:
    """Read one X-ray picture.

    Args:
        source: a path (`str` or `Path`), the content of a file (`bytes`; PNG, JPEG, DICOM …), an `http(s)://` or
            `data:` URL, a PIL image, a numpy array or torch tensor of shape (H, W), (H, W, C) or (C, H, W) with 1,
            3 or 4 channels, or a dictionary `{"bytes": …, "path": …}` as `datasets.Image(decode=False)` gives.
        least_side: a JPEG may come out at 1/2, 1/4 or 1/8 of its size, which decodes faster, as long as no side gets
            shorter than this. Other sources, and all when it is not given, keep their size.

    Returns:
        The upright picture with 8 bits per channel: mode "L" where the source is grey, "RGB" where it has colour
        channels (even if they are equal). How deeper grey values become 8-bit ones: `pixel_rules.to_8bit`; DICOM:
        `dicom.read_dicom`. Transparent parts lie on black, the background of an X-ray.

    Raises:
        ImageReadError: the message names the file and the reason.
        FileNotFoundError: no such file.
        TypeError: a source of another kind.
    """
    if isinstance(source, Mapping):
        return _load_dictionary(source, least_side)
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or f"<PIL image of mode {source.mode}>"
        return _finish(source, str(name))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _load_bytes(bytes(source), f"<{len(source)} bytes>", least_side)
    if is_torch_tensor(source):
        tensor = source.detach().cpu()
        return _load_array((tensor.float() if tensor.is_floating_point() else tensor).numpy(), "torch tensor")
    if isinstance(source, np.ndarray):
        return _load_array(source, "numpy array")
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return _load_url(source, least_side)
    if isinstance(source, (str, Path)):
        return _load_file(Path(source), least_side)
    raise TypeError(
        f"an X-ray can't be read from {type(source).__name__}; give a path, bytes, a PIL image, a numpy array or a "
        "torch tensor"
    )


def _load_dictionary(source: Mapping[str, Any], least_side: int | None) -> Image.Image:
    content, path = source.get("bytes"), source.get("path")
    if content is not None:
        return _load_bytes(content, str(path) if path else f"<{len(content)} bytes>", least_side)
    if path is None:
        raise TypeError("a dictionary that stands for an image needs 'bytes' or 'path', as in datasets.Image")
    return _load_file(Path(path), least_side)


def _load_file(path: Path, least_side: int | None) -> Image.Image:
    name = str(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:
        # Also text that is no path at all, such as base64 without `data:…,` before it.
        shown = name if len(name) <= 200 else f"{name[:200]}…"
        raise ImageReadError(shown, f"can't be read as a file ({getattr(error, 'strerror', error)})") from error
    return _load_bytes(content, name, least_side)


def _load_url(url: str, least_side: int | None) -> Image.Image:
    if url.startswith("data:"):
        name = "<data URL>"
        try:
            content = b64decode(url.partition(",")[2], validate=True)
        except ValueError as error:
            raise ImageReadError(name, "not base64") from error
        return _load_bytes(content, name, least_side)
    try:
        with urlopen(url, timeout=_URL_TIMEOUT) as answer:
            content = answer.read()
    except (OSError, HTTPException) as error:
        raise ImageReadError(url, f"can't be fetched ({one_line(error)})") from error
    return _load_bytes(content, url, least_side)


def _load_bytes(content: bytes, name: str, least_side: int | None) -> Image.Image:
    if not content:
        raise ImageReadError(name, "the file is empty")
    # The content decides; a DICOM without preamble can be told by its name only.
    if is_dicom(content[:132]):
        return read_dicom(content, name=name).image
    try:
        picture = Image.open(BytesIO(content))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageReadError(name, f"too large, taken for a decompression bomb ({error})") from error
    except DECODE_ERRORS as error:
        if name.lower().endswith(_DICOM_SUFFIXES):
            return read_dicom(content, name=name).image
        raise ImageReadError(name, "not an image in a known format (or its first bytes are damaged)") from error
    with picture:
        return _finish(picture, name, least_side)


def _load_array(values: np.ndarray, kind: str) -> Image.Image:
    name = f"<{kind} of shape {tuple(values.shape)}>"
    if values.ndim == 3 and values.shape[-1] not in _CHANNELS and values.shape[0] in _CHANNELS:
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[-1] in _CHANNELS)):
        raise ImageReadError(name, "not a picture; expected (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4")
    check_size(values.shape[1], values.shape[0], name)
    return _finish(Image.fromarray(np.ascontiguousarray(to_8bit(values, name))), name)


def _finish(picture: Image.Image, name: str, least_side: int | None = None) -> Image.Image:
    """Decode, turn upright, and bring to mode "L" or "RGB"."""
    check_size(*picture.size, name)
    if least_side is not None:
        picture.draft(None, (least_side, least_side))  # does nothing but for JPEGs that are larger
    try:
        frames = getattr(picture, "n_frames", 1)
        # MPO is what some cameras and phones make: a JPEG that carries its own preview.
        if frames > 1 and picture.format != "MPO":
            raise ImageReadError(name, f"{picture.format} with {frames} pictures; give each as a view of its own")
        picture.load()
        return _to_grey_or_rgb(ImageOps.exif_transpose(picture), name)
    except ImageReadError:
        raise
    except DECODE_ERRORS as error:
        raise ImageReadError(name, f"truncated or damaged image ({one_line(error)})") from error


def _to_grey_or_rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(to_8bit(np.asarray(picture), name))
    if picture.has_transparency_data:
        is_grey = picture.mode in ("L", "LA")
        layers = picture.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", layers.size, "black"), layers).convert("RGB")
        return flat.getchannel("R") if is_grey else flat
    return picture.convert("RGB")
