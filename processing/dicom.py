"""Reading a radiograph from DICOM as a radiologist's screen would show it. Only then pydicom is imported.

No header field leaves this module unless it is asked for by name, and fields that neither the picture nor the
caller needs are not even parsed, so they can't reach a log or an error message either.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from .pixel_rules import DECODE_ERRORS, ImageReadError, by_value, check_size, one_line, stretch, to_8bit

_Dataset = Any  # pydicom's, which is not known before a DICOM is opened

_DICOM_MAGIC = b"DICM"
_PREAMBLE_LENGTH = 128

# All that the picture depends on; `dcmread` skips the rest of the header.
_PIXEL_FIELDS = (
    "SOPClassUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
)

# Plugins that decode what pydicom, numpy and Pillow can't (or not in full), by the start of the syntax's UID.
_PLUGINS = {
    "1.2.840.10008.1.2.4.5": "pylibjpeg pylibjpeg-libjpeg",  # JPEG baseline, extended, lossless
    "1.2.840.10008.1.2.4.70": "pylibjpeg pylibjpeg-libjpeg",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.8": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.9": "pylibjpeg pylibjpeg-openjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.20": "pylibjpeg pylibjpeg-openjpeg",  # high-throughput JPEG 2000
}


@dataclass(frozen=True)
class DicomXray:
    """A radiograph read from DICOM.

    Attributes:
        image: mode "L", or "RGB" for a colour DICOM.
        fields: the header fields that were asked for, by keyword; `None` where the file lacks one.
    """

    image: Image.Image
    fields: dict[str, Any] = field(default_factory=dict)


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts with `head` (at least 132 bytes) has DICOM's preamble and magic word."""
    return head[_PREAMBLE_LENGTH : _PREAMBLE_LENGTH + len(_DICOM_MAGIC)] == _DICOM_MAGIC


def _load_pydicom() -> ModuleType:
    """The library, with those of its parts that are used here."""
    try:
        import pydicom.datadict
        import pydicom.errors
        import pydicom.pixels
    except ModuleNotFoundError as error:  # a model's repository can be used without it
        raise ModuleNotFoundError("reading DICOM needs pydicom: pip install pydicom") from error
    return pydicom


def _dicom_errors() -> tuple[type[Exception], ...]:
    # pydicom's own exceptions have no better base class than Exception.
    errors = _load_pydicom().errors
    return (*DECODE_ERRORS, errors.BytesLengthException, errors.InvalidDicomError)


def read_dicom(source: str | Path | bytes, *, fields: Sequence[str] = (), name: str | None = None) -> DicomXray:
    """Read the radiograph of a single-frame DICOM, 8 bits per pixel, bone bright and air dark.

    Grey values go through the file's modality LUT or rescale slope and intercept, then its first VOI LUT or, where
    there is none, its first window; without either (or with a window that is not usable), 8-bit values are taken
    as they are and deeper or rescaled ones are stretched from the lowest to the highest valid one. MONOCHROME1 is
    inverted. Padding pixels come out black. Colour DICOMs (RGB, YBR, palette) become RGB without windowing.

    Args:
        source: a path, or the file's content.
        fields: DICOM keywords (such as `"ViewPosition"`) of header fields to hand out beside the picture. They
            may identify the patient.
        name: what to call the file in error messages; by default its path.

    Raises:
        ImageReadError: naming the file and the reason: empty, truncated or damaged, no pixel data, several frames,
            a compression for which a plugin is missing (named), an unsupported photometric interpretation, too
            small or too large.
        ValueError: a keyword in `fields` that DICOM's dictionary does not know.
        FileNotFoundError: no such file.
        ModuleNotFoundError: pydicom is not installed.

    Source: DICOM PS3.3 C.7.6.3 (pixels), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.5.1.1.2 (padding).
    """
    pydicom = _load_pydicom()
    unknown = [keyword for keyword in fields if pydicom.datadict.tag_for_keyword(keyword) is None]
    if unknown:
        raise ValueError(f"not DICOM keywords: {', '.join(unknown)}; use names such as 'ViewPosition'")
    if isinstance(source, (str, Path)):
        name = name or str(source)
        content = Path(source).read_bytes()
    else:
        name = name or f"<{len(source)} bytes of DICOM>"
        content = source
    if not content:
        raise ImageReadError(name, "the file is empty")
    try:
        dataset = _parse(content, [*_PIXEL_FIELDS, *fields], name)
        image = _render(dataset, name)
    except ImageReadError:
        raise
    except _dicom_errors() as error:
        raise ImageReadError(name, f"damaged or truncated DICOM ({one_line(error)})") from error
    return DicomXray(image, {keyword: _header_field(dataset, keyword, name) for keyword in fields})


def _parse(content: bytes, keywords: list[str], name: str) -> _Dataset:
    # A DICOM without preamble is told by its file's name only, so the magic word is not asked for here.
    dataset = _load_pydicom().dcmread(BytesIO(content), force=True, specific_tags=keywords)
    if not is_dicom(content[:132]) and not any(keyword in dataset for keyword in _PIXEL_FIELDS):
        raise ImageReadError(name, "neither DICOM nor an image in a known format")
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageReadError(name, "DICOM without pixel data (a report, a plan, or a truncated file)")
    for keyword in ("Rows", "Columns", "PhotometricInterpretation"):
        if not dataset.get(keyword):
            raise ImageReadError(name, f"damaged DICOM: it lacks {keyword}")
    return dataset


def _render(dataset: _Dataset, name: str) -> Image.Image:
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageReadError(name, f"DICOM with {frames} frames; export the frame to read as a file of its own")
    check_size(int(dataset.Columns), int(dataset.Rows), name)
    stored = _decode(dataset, name)
    photometric = str(dataset.PhotometricInterpretation)
    if photometric in ("MONOCHROME1", "MONOCHROME2"):
        inverted = photometric == "MONOCHROME1"
        return Image.fromarray(by_value(lambda values: _grey(values, dataset, name, inverted=inverted), stored))
    return Image.fromarray(_colour(stored, dataset, photometric, name))


def _decode(dataset: _Dataset, name: str) -> np.ndarray:
    pydicom = _load_pydicom()
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        # Files without preamble have no file meta information; what `dcmread` found out stands in for it.
        implicit, little = dataset.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        syntax = dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else explicit
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        raise ImageReadError(name, f"DICOM compressed as {syntax.name}, which pydicom can't decode") from None
    plugin = _plugin(syntax)
    if not decoder.is_available:
        raise ImageReadError(name, f"DICOM compressed as {syntax.name}, which needs a plugin: pip install {plugin}")
    try:
        return pydicom.pixels.pixel_array(dataset)
    except _dicom_errors() as error:
        # Pillow decodes some variants of a syntax only, 12-bit JPEG not among them.
        advice = f"; if other software shows it: pip install {plugin}" if plugin else ""
        raise ImageReadError(name, f"truncated or damaged pixel data ({one_line(error)}){advice}") from error


def _plugin(syntax: str) -> str | None:
    return next((plugin for prefix, plugin in _PLUGINS.items() if syntax.startswith(prefix)), None)


def _grey(stored: np.ndarray, dataset: _Dataset, name: str, *, inverted: bool) -> np.ndarray:
    valid = _valid_pixels(stored, dataset)
    values, is_plain = _modality_values(stored, dataset)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageReadError(name, "NaN or infinite pixel values")
    if dataset.get("VOILUTSequence"):
        item = dataset.VOILUTSequence[0]
        grey = stretch(_look_up(np.rint(values).astype(np.int64), item, dataset), 0.0, 2.0 ** item.LUTDescriptor[2] - 1)
    elif (window := _usable_window(dataset)) is not None:
        grey = np.rint(_load_pydicom().pixels.apply_windowing(values, window)).astype(np.uint8)
    elif is_plain and dataset.get("PixelRepresentation") == 0 and dataset.get("BitsStored") == 8:
        grey = stored.astype(np.uint8)
    else:
        seen = values[valid] if valid.any() else values
        grey = stretch(values, float(seen.min()), float(seen.max()))
    if inverted:
        grey = np.uint8(255) - grey
    return np.where(valid, grey, np.uint8(0))


def _valid_pixels(stored: np.ndarray, dataset: _Dataset) -> np.ndarray:
    """Mask of the pixels that are not padding, compared before any look-up table as the standard says."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return np.ones(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(padding), int(padding if limit is None else limit)))
    return (stored < low) | (stored > high)


def _modality_values(stored: np.ndarray, dataset: _Dataset) -> tuple[np.ndarray, bool]:
    """Values after the modality LUT or rescale, and whether they are still the stored ones."""
    if dataset.get("ModalityLUTSequence"):
        return _look_up(stored, dataset.ModalityLUTSequence[0], dataset), False
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    if (slope, intercept) == (1.0, 0.0):
        return stored, True
    return stored.astype(np.float64) * slope + intercept, False


def _look_up(values: np.ndarray, item: _Dataset, dataset: _Dataset) -> np.ndarray:
    """Apply a LUT (PS3.3 C.11.1.1): inputs before its first entry take the first, those after its last the last.

    pydicom's own function is not used because it wraps around for 8-bit tables with more than 256 entries.
    """
    entries, first, _ = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        width = 1 if len(data) < 2 * entries else 2
        order = "<" if dataset.original_encoding[1] else ">"
        table = np.frombuffer(data, dtype=f"{order}u{width}", count=entries)
    else:
        table = np.asarray(data, dtype=np.uint16)
    return table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)]


def _usable_window(dataset: _Dataset) -> _Dataset | None:
    """The file's first window as a data set of its own whose output range is 0 to 255, or None."""
    center, width = (_first_number(dataset.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if not (width >= 1 if function == "LINEAR" else width > 0):
        return None
    window = _load_pydicom().Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, width, function
    window.PhotometricInterpretation = "MONOCHROME2"
    window.PixelRepresentation, window.BitsStored = 0, 8
    return window


def _first_number(value: Any) -> float | None:
    """The first value of an element that may have none, one or several."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    return None if value in (None, "") else float(value)


def _colour(stored: np.ndarray, dataset: _Dataset, photometric: str, name: str) -> np.ndarray:
    if photometric == "PALETTE COLOR":
        return to_8bit(_load_pydicom().pixels.apply_color_lut(stored, dataset), name)
    if stored.ndim == 3 and stored.shape[-1] == 3:  # pydicom has turned YBR into RGB
        return to_8bit(stored, name)
    raise ImageReadError(name, f"DICOM with photometric interpretation {photometric}, which is not supported")


def _header_field(dataset: _Dataset, keyword: str, name: str) -> Any:
    try:
        return _plain(dataset.get(keyword))
    except _dicom_errors() as error:
        # Neither the value nor pydicom's message, which may quote it.
        raise ImageReadError(name, f"header field {keyword} can't be read ({type(error).__name__})") from None


def _plain(value: Any) -> Any:
    """A header value without pydicom's types, so that it can be stored as JSON."""
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    return str(value)
