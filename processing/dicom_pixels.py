"""The stored pixel values of a DICOM, where its header and its bytes agree on what they are."""

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from .codestream import (
    JPEG2000_BOX_START,
    JPEG2000_START,
    JPEG_START,
    FrameHeader,
    mixes_colours,
    read_frame_header,
    rle_segment_lengths,
)
from .dicom_header import DicomHeader
from .image_limits import check_size
from .pixel_rules import DECODE_ERRORS, ImageReadError, Levels, one_line, refuse_cut_jpeg

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
_NATIVE_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422")
_JPEG2000_COLOUR = ("RGB", "YBR_FULL", "YBR_ICT", "YBR_RCT")

# Plugins that decode what pydicom, numpy and Pillow can't (or not in full), by the start of the syntax's UID.
_PLUGINS = {
    "1.2.840.10008.1.2.4.5": "pylibjpeg pylibjpeg-libjpeg",  # JPEG baseline, extended, lossless
    "1.2.840.10008.1.2.4.70": "pylibjpeg pylibjpeg-libjpeg",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.8": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.9": "pylibjpeg pylibjpeg-openjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.20": "pylibjpeg pylibjpeg-openjpeg",  # high-throughput JPEG 2000
}
_JPEG2000_SYNTAXES = ("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20")
_RLE_SYNTAX = "1.2.840.10008.1.2.5"
# Some encoders add a few bytes to a segment; a wrong size is off by a row or a column at least.
_RLE_PADDING = 8
# Enough pixels to tell a smooth image from one with jumps.
_SAMPLE = 2**17
# Fewer are enough where rows are compared, and keep the check below a tenth of the reading.
_ROWS_SAMPLE = 2**16
_MUCH_ROUGHER = 2
_FLOAT_FIELDS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


@dataclass(frozen=True)
class PixelFormat:
    """What the header says of the pixels, made consistent.

    Attributes:
        keyword: the element that holds them.
        photometric: photometric interpretation.
        columns, rows, samples: width, height and number of channels.
        allocated, stored, high_bit: bits of a cell, of the value in it, and where its highest one lies.
        is_signed: whether values are two's complement.
        planar: planar configuration.
        is_float: whether values are floating-point numbers.
    """

    keyword: str
    photometric: str
    columns: int
    rows: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    is_signed: bool
    planar: int
    is_float: bool = False

    @property
    def shift(self) -> int:
        """Unused bits below the value."""
        return self.high_bit + 1 - self.stored

    @cached_property
    def value_range(self) -> tuple[int, int]:
        """The lowest and the highest value that can be stored."""
        half = 2 ** (self.stored - 1)
        return (-half, half - 1) if self.is_signed else (0, 2 * half - 1)

    def values_of(self, cells: np.ndarray) -> np.ndarray:
        """The values in cells as they are stored, without what other bits of a cell hold (PS3.5 8.1.1)."""
        if self.is_float:
            return cells
        values = (cells.astype(np.int64) >> self.shift) & (2**self.stored - 1)
        return np.where(values > self.value_range[1], values - 2**self.stored, values)

    def whole_cells(self, cells: np.ndarray) -> np.ndarray:
        """The values in cells if all their bits belonged to them."""
        return cells.astype(np.int64) >> self.shift


def read_format(header: DicomHeader) -> PixelFormat:
    """What the header says of the pixels.

    Raises:
        ImageReadError: a field is missing, or fields contradict each other; a size out of the limits; several frames.
    """
    keyword = next(name for name in (*_FLOAT_FIELDS, "PixelData") if name in header.dataset)
    rows, columns = (_required(header, name) for name in ("Rows", "Columns"))
    photometric = header.word("PhotometricInterpretation")
    if not photometric:
        raise ImageReadError(header.name, "damaged DICOM: it lacks PhotometricInterpretation")
    samples = header.whole("SamplesPerPixel") or (1 if photometric in (*MONOCHROME, PALETTE) else 3)
    _check_frames(header)
    check_size(columns, rows, header.name)
    if keyword in _FLOAT_FIELDS:
        allocated = _FLOAT_FIELDS[keyword]
        return PixelFormat(
            keyword, photometric, columns, rows, samples, allocated, allocated, allocated - 1, True, 0, True
        )
    allocated = _required(header, "BitsAllocated")
    stored = header.whole("BitsStored") or allocated
    high_bit = header.whole("HighBit")
    high_bit = stored - 1 if high_bit is None else high_bit
    if not (allocated in (1, 8, 16, 32) and 0 < stored <= high_bit + 1 <= allocated):
        raise ImageReadError(
            header.name,
            f"header that contradicts itself (BitsAllocated {allocated}, BitsStored {stored}, HighBit {high_bit})",
        )
    # Colours have no sign, whatever the header says (PS3.3 C.7.6.3.1.2).
    is_signed = bool(header.whole("PixelRepresentation")) and photometric in MONOCHROME
    planar = header.whole("PlanarConfiguration") or 0
    return PixelFormat(
        keyword, photometric, columns, rows, samples, allocated, stored, high_bit, is_signed, int(bool(planar))
    )


def _required(header: DicomHeader, keyword: str) -> int:
    found = header.whole(keyword)
    if not found:
        raise ImageReadError(header.name, f"damaged DICOM: it lacks {keyword}")
    return found


def _check_frames(header: DicomHeader, frames: int = 1) -> None:
    stated = header.numbers("NumberOfFrames")
    frames = max(frames, int(stated[0] or 1) if stated else 1)
    if frames > 1:
        raise ImageReadError(header.name, f"DICOM with {frames} frames; export the frame to read as a file of its own")


def read_cells(header: DicomHeader, pydicom: ModuleType, syntax: Any) -> tuple[np.ndarray, PixelFormat]:
    """The cells of a single frame, `(rows, columns)` or `(rows, columns, 3)`, and what their bits mean.

    Cells of one channel are unsigned (floating-point ones excepted): `PixelFormat.values_of` gives the values. Colours
    are RGB.

    Raises:
        ImageReadError: see `dicom.read_dicom`.
    """
    described = read_format(header)
    _check_colours(header, described, syntax)
    content = header.content(described.keyword)
    if syntax.is_encapsulated:
        frame = _only_frame(header, pydicom, content, syntax)
        content = pydicom.encaps.encapsulate([frame + bytes(len(frame) % 2)], has_bot=False)
        if syntax == _RLE_SYNTAX:
            _check_rle(header, described, frame)
        else:
            described = _as_coded(header, described, frame)
    else:
        frame = None
        _check_length(header, described, len(content))
    cells = _decode(header, pydicom, syntax, content, described, frame)
    if frame is not None and frame.startswith(JPEG_START) and cells.dtype == np.uint8:
        refuse_cut_jpeg(cells, header.name)
    if described.samples > 1 or described.is_float:
        return cells, described
    cells = cells if cells.dtype.kind == "u" else cells.view(f"{cells.dtype.byteorder}u{cells.dtype.itemsize}")
    if frame is None:
        _check_order(header, described, cells)
    _check_unused_bits(header, described, cells)
    if described.is_signed:
        _check_sign(header, described, cells)
    return cells, described


def _check_colours(header: DicomHeader, described: PixelFormat, syntax: Any) -> None:
    photometric, samples = described.photometric, described.samples
    colours = _JPEG2000_COLOUR if syntax.startswith(_JPEG2000_SYNTAXES) else _NATIVE_COLOUR
    if photometric not in (*MONOCHROME, PALETTE, *colours):
        raise ImageReadError(
            header.name,
            "DICOM with a photometric interpretation that is not supported; supported are "
            f"{', '.join((*MONOCHROME, PALETTE, *colours))}",
        )
    if samples != (3 if photometric in colours else 1):
        raise ImageReadError(
            header.name, f"header that contradicts itself ({photometric} with SamplesPerPixel {samples})"
        )


def _check_length(header: DicomHeader, described: PixelFormat, found: int) -> None:
    """Whether uncompressed pixels are as many bytes as the header asks for (PS3.5 8.1.1: padded to an even number)."""
    samples = 2 if described.photometric == "YBR_FULL_422" else described.samples
    bits = described.rows * described.columns * samples * described.allocated
    expected = -(-bits // 8)
    if expected <= found <= expected + expected % 2:
        return
    if found < expected:
        raise ImageReadError(
            header.name, f"truncated pixel data ({found:,} bytes, but the header asks for {expected:,})"
        )
    if found // expected > 1 and found % expected <= 1:
        _check_frames(header, found // expected)
    raise ImageReadError(
        header.name,
        f"Rows, Columns or BitsAllocated is wrong ({found:,} bytes of pixel data, the header asks for {expected:,})",
    )


def _only_frame(header: DicomHeader, pydicom: ModuleType, content: bytes, syntax: Any) -> bytes:
    """The compressed bytes of the only frame."""
    try:
        fragments = list(pydicom.encaps.generate_fragments(content))[1:]
    except DECODE_ERRORS as error:
        raise ImageReadError(header.name, f"truncated or damaged pixel data ({one_line(error)})") from error
    starts = (JPEG_START, JPEG2000_START, JPEG2000_BOX_START)
    is_rle = syntax == _RLE_SYNTAX
    _check_frames(header, sum(is_rle or fragment.startswith(starts) for fragment in fragments))
    frame = b"".join(fragments)
    if not frame:
        raise ImageReadError(header.name, "truncated or damaged pixel data (no compressed bytes)")
    if not frame.startswith(JPEG2000_BOX_START):
        return frame
    # Without the boxes around a codestream, for pydicom would not come to an end of damaged ones.
    start = frame.find(JPEG2000_START)
    if start < 0:
        raise ImageReadError(header.name, "truncated or damaged pixel data (JPEG 2000 without a codestream)")
    return frame[start:]


def _check_rle(header: DicomHeader, described: PixelFormat, frame: bytes) -> None:
    """Whether each segment unpacks to one byte for each pixel; pydicom cuts what is longer."""
    expected = described.rows * described.columns
    try:
        lengths = rle_segment_lengths(frame)
    except DECODE_ERRORS as error:
        raise ImageReadError(header.name, f"truncated or damaged pixel data ({one_line(error)})") from error
    if any(length > expected + _RLE_PADDING for length in lengths):
        raise ImageReadError(
            header.name, "damaged DICOM: its compressed rows and columns are more than the header says"
        )


def _as_coded(header: DicomHeader, described: PixelFormat, frame: bytes) -> PixelFormat:
    """The format with what the codestream says better, where header and codestream agree on the image."""
    coded = read_frame_header(frame)
    if coded is None:
        return described
    if described.photometric == "YBR_FULL" and mixes_colours(frame):
        raise ImageReadError(
            header.name,
            "header that contradicts the pixels (YBR_FULL, but JPEG 2000 turns the colours into RGB itself)",
        )
    wanted = FrameHeader(described.columns, described.rows, described.samples, coded.precision)
    if coded != wanted:
        raise ImageReadError(
            header.name,
            f"the header asks for {_in_words(wanted)}, but the compressed image has {_in_words(coded)}",
        )
    if coded.precision > described.allocated:
        raise ImageReadError(
            header.name, f"{coded.precision}-bit compressed pixels, but BitsAllocated {described.allocated}"
        )
    changes = vars(described).copy()
    changes.pop("value_range", None)
    if coded.precision < described.stored and described.shift == 0:
        # What has fewer bits than the header says is taken for what it is.
        changes |= {"stored": coded.precision, "high_bit": coded.precision - 1}
    if coded.precision <= 8:
        changes["allocated"] = 8
    return PixelFormat(**changes)


def _in_words(header: FrameHeader) -> str:
    return f"{header.width} x {header.height} pixels of {header.components} channel(s)"


def _decode(
    header: DicomHeader,
    pydicom: ModuleType,
    syntax: Any,
    content: bytes,
    described: PixelFormat,
    frame: bytes | None,
) -> np.ndarray:
    plugin = next((plugin for prefix, plugin in _PLUGINS.items() if syntax.startswith(prefix)), None)
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        raise ImageReadError(header.name, f"DICOM compressed as {syntax.name}, which pydicom can't decode") from None
    if not decoder.is_available:
        raise ImageReadError(
            header.name, f"DICOM compressed as {syntax.name}, which needs a plugin: pip install {plugin}"
        )
    try:
        return decoder.as_array(
            content,
            pixel_keyword=described.keyword,
            pixel_vr=header.kind(described.keyword) or "OW",
            rows=described.rows,
            columns=described.columns,
            number_of_frames=1,
            samples_per_pixel=described.samples,
            photometric_interpretation=described.photometric,
            pixel_representation=int(described.is_signed),
            planar_configuration=described.planar,
            bits_allocated=described.allocated,
            bits_stored=described.stored,
            correct_unused_bits=False,
            view_only=described.samples == 1,
            as_rgb=True,
        )[0]
    except (*DECODE_ERRORS, AttributeError, RuntimeError, TypeError) as error:
        # Nothing but pydicom and its plugins runs here. Pillow decodes some variants of a syntax only.
        coded = None if frame is None else read_frame_header(frame)
        is_beyond_pillow = coded is not None and coded.precision > 8 and not set(decoder.available_plugins) - {"pillow"}
        advice = f"; to decode {coded.precision} bits: pip install {plugin}" if coded and is_beyond_pillow else ""
        raise ImageReadError(header.name, f"truncated or damaged pixel data ({one_line(error)}){advice}") from error


def _check_unused_bits(header: DicomHeader, described: PixelFormat, cells: np.ndarray) -> None:
    """Bits beside the value may hold an overlay; where they are needed to get a smooth image, the header is wrong."""
    if described.shift and (cells & (2**described.shift - 1)).any():
        raise ImageReadError(
            header.name,
            f"header that contradicts itself (HighBit {described.high_bit} with BitsStored {described.stored}, but "
            f"the {described.shift} bits below the value are in use)",
        )
    if described.high_bit + 1 == cells.dtype.itemsize * 8 or not _has_more_bits(cells, described):
        return
    if _roughness(described.values_of(cells)) > _roughness(described.whole_cells(cells)):
        raise ImageReadError(
            header.name, f"BitsStored {described.stored} is wrong: the pixel values have more bits than that"
        )


def _check_order(header: DicomHeader, described: PixelFormat, cells: np.ndarray) -> None:
    """Whether uncompressed bytes are pixels in the order that is stated: in another, neighbours differ."""
    middle = _middle_rows(cells)
    found = _vertical_roughness(described.values_of(middle))
    if described.rows != described.columns:
        turned = _middle_rows(cells.reshape(described.columns, described.rows))
        if found > _MUCH_ROUGHER * _vertical_roughness(described.values_of(turned)):
            raise ImageReadError(header.name, "Rows and Columns are exchanged (the image is smooth the other way)")
    if described.allocated == 16:
        # With bits beside the value, which hold the upper ones where bytes are exchanged.
        found = _vertical_roughness(described.whole_cells(middle))
        if found > _MUCH_ROUGHER * _vertical_roughness(described.whole_cells(middle.byteswap())):
            raise ImageReadError(
                header.name, "the bytes of its pixels are in another order than the transfer syntax says"
            )


def _middle_rows(cells: np.ndarray) -> np.ndarray:
    start = max(0, (len(cells) - _ROWS_SAMPLE // cells.shape[1]) // 2)
    return cells[start : len(cells) - start]


def _vertical_roughness(values: np.ndarray) -> float:
    """The mean difference between neighbours in a column, as a share of the range in which most values lie."""
    low, high = np.percentile(values, [2, 98])
    return float(np.abs(np.diff(np.clip(values, low, high), axis=0)).mean() / max(high - low, 1))


def _check_sign(header: DicomHeader, described: PixelFormat, cells: np.ndarray) -> None:
    """Values without a sign that are read as if they had one jump from the highest to the lowest."""
    some_rows = cells[:: max(1, cells.size // _SAMPLE)]
    values = described.values_of(some_rows)
    if _roughness(values) > _roughness(values % 2**described.stored):
        raise ImageReadError(header.name, "PixelRepresentation is wrong (the pixel values have no sign)")


def _has_more_bits(cells: np.ndarray, described: PixelFormat) -> bool:
    if not described.is_signed:
        return bool((np.bitwise_or.reduce(cells, axis=None) >> (described.high_bit + 1)) != 0)
    found = Levels(cells).values.astype(np.int64)
    above = found >> (described.high_bit + 1)
    sign = (found >> described.high_bit) & 1
    filled = 2 ** (cells.dtype.itemsize * 8 - described.high_bit - 1) - 1
    # Repeated sign bits are no more bits, and neither are empty ones.
    return bool(((above != 0) & (above != sign * filled)).any())


def _roughness(values: np.ndarray) -> int:
    """The sum of the differences between neighbours in a row."""
    return int(np.abs(np.diff(values, axis=1)).sum())
