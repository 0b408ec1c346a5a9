"""From stored values of a DICOM to 8-bit grey values: modality LUT, VOI LUT or window, padding, polarity.

No step may leave an image without anything to see: what would (a window that lies beside the values, an empty table)
is passed over with a word in the log, and the next way is tried.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .dicom_header import DicomHeader
from .dicom_pixels import PixelFormat
from .pixel_rules import ImageReadError, Levels, bit_depth, blank_error, is_flat, middle_range, stretch, stretch_range

# A window is useless that leaves nearly all pixels within this many grey levels.
_USELESS_BAND = 16
# Values of more than 8 bits whose middle 96 % lie within so few steps are noise around one value.
_FEWEST_STEPS = 16
_FEWEST_STEPS_OF_8_BITS = 8
_WINDOW_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def grey_picture(cells: np.ndarray, described: PixelFormat, header: DicomHeader, *, allow_blank: bool) -> np.ndarray:
    """Cells of one channel `(rows, columns)` as they appear on a screen, `uint8`, bone bright and air dark.

    Raises:
        ImageReadError: nothing but padding, values that are all nearly the same, NaN or infinite values, or a look-up
            table that lacks entries.

    Source: DICOM PS3.3 C.7.6.3 (pixels), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.5.1.1.2 (padding).
    """
    if described.is_float and not np.isfinite(cells).all():
        raise ImageReadError(header.name, "NaN or infinite pixel values")
    levels = Levels(cells)
    stored = described.values_of(levels.values)
    valid = ~_is_padding(levels.values, stored, described, header)
    counts = levels.counts * valid
    grey = np.zeros(len(stored), dtype=np.uint8)
    if counts.any():
        seen = _grey(stored[valid], counts[valid], described, header, allow_blank=allow_blank)
        grey[valid] = np.uint8(255) - seen if described.photometric == "MONOCHROME1" else seen
    elif not allow_blank:
        raise blank_error(header.name, "all pixels are padding")
    return levels.paint(grey)


def _is_padding(cells: np.ndarray, stored: np.ndarray, described: PixelFormat, header: DicomHeader) -> np.ndarray:
    """Mask of padding, compared before any look-up table as the standard says.

    The value may be written with either sign, and with the bits of the cell or of the value in it.
    """
    if not header.numbers("PixelPaddingValue"):
        return np.zeros(len(stored), dtype=bool)
    ends = header.numbers("PixelPaddingValue")[:1] + header.numbers("PixelPaddingRangeLimit")[:1]
    if None in ends:
        header.doubt("PixelPaddingValue or PixelPaddingRangeLimit is no usable number and is passed over")
        return np.zeros(len(stored), dtype=bool)
    if described.is_float:
        return _between(stored, ends)
    of_cell = [_modulo(end, described.allocated, described.is_signed) for end in ends]
    whole = described.whole_cells(cells)
    found = _between(_modulo(whole, described.allocated, described.is_signed), of_cell)
    lowest, highest = described.value_range
    if all(lowest <= end <= highest for end in of_cell):
        return found | _between(stored, of_cell)
    if found.any():
        return found
    return _between(stored, [_modulo(end, described.stored, described.is_signed) for end in ends])


def _between(values: np.ndarray, ends: list[float]) -> np.ndarray:
    return (values >= min(ends)) & (values <= max(ends))


def _modulo(value: Any, bits: int, is_signed: bool) -> Any:
    """A number or an array modulo 2^bits, from -2^(bits-1) on if it is signed and from 0 on if not."""
    half = 2 ** (bits - 1) if is_signed else 0
    return (value + half) % 2**bits - half


def _grey(
    stored: np.ndarray, counts: np.ndarray, described: PixelFormat, header: DicomHeader, *, allow_blank: bool
) -> np.ndarray:
    """Grey values of the values that occur, before any inversion."""
    is_empty = _is_nearly_constant(stored, counts, described)
    if is_empty and not allow_blank:
        raise blank_error(header.name, "its pixels have nearly one value")
    values, is_plain = _modality_values(stored, described, header)
    for grey, what in _presented(values, described, header):
        if is_empty or not is_flat(grey, counts, _USELESS_BAND):
            return grey
        header.doubt(f"{what} leaves nothing to see and is passed over")
    if is_plain and described.stored == 8 and not described.is_signed:
        return stored.astype(np.uint8)
    return stretch(values, *stretch_range(values, counts))


def _is_nearly_constant(stored: np.ndarray, counts: np.ndarray, described: PixelFormat) -> bool:
    low, high = middle_range(stored, counts)
    if described.is_float or described.stored < 8:
        return low == high
    return high - low < (_FEWEST_STEPS_OF_8_BITS if described.stored == 8 else _FEWEST_STEPS)


def _modality_values(stored: np.ndarray, described: PixelFormat, header: DicomHeader) -> tuple[np.ndarray, bool]:
    """Values after the modality LUT or rescale, and whether they are still the stored ones."""
    for item in header.items("ModalityLUTSequence"):
        table = _LookUpTable.read(item, stored, is_signed=described.is_signed)
        if table is not None and len(np.unique(found := table.look_up(stored))) > 1:
            return found, False
        header.doubt("the modality LUT is empty and is passed over")
    slope, intercept = header.numbers("RescaleSlope")[:1] or [1.0], header.numbers("RescaleIntercept")[:1] or [0.0]
    if None in (slope[0], intercept[0]) or slope[0] == 0:
        header.doubt("RescaleSlope or RescaleIntercept is no usable number and both are passed over")
        return stored, True
    if (slope[0], intercept[0]) == (1.0, 0.0):
        return stored, True
    with np.errstate(over="ignore"):
        found = stored * np.float64(slope[0]) + np.float64(intercept[0])
    if not np.isfinite(found).all() or found.min() == found.max() != stored.min():
        header.doubt("RescaleSlope or RescaleIntercept is no usable number and both are passed over")
        return stored, True
    return found, False


def _presented(values: np.ndarray, described: PixelFormat, header: DicomHeader) -> Iterator[tuple[np.ndarray, str]]:
    """Grey values by each VOI LUT and then by each window that can be used, with a word for it."""
    indices = np.rint(np.clip(values, -(2**31), 2**31)).astype(np.int64)
    is_signed = _may_be_negative(described, header)
    for item in header.items("VOILUTSequence"):
        table = _LookUpTable.read(item, indices, is_signed=is_signed)
        if table is None:
            header.doubt("a VOI LUT without entries is passed over")
        else:
            yield stretch(table.look_up(indices), 0.0, 2.0**table.bits - 1), "a VOI LUT"
    centers, widths = header.numbers("WindowCenter"), header.numbers("WindowWidth")
    function = header.word("VOILUTFunction") or _WINDOW_FUNCTIONS[0]
    if centers and widths and function not in _WINDOW_FUNCTIONS:
        header.doubt("an unknown VOILUTFunction is taken for LINEAR")
    for center, width in zip(centers, widths, strict=False):
        if center is None or width is None or width <= 0:
            header.doubt("a window whose center or width is no usable number is passed over")
        else:
            yield (
                apply_window(values, center, width, function),
                "a window beside the values, or far wider than they are,",
            )


def _may_be_negative(described: PixelFormat, header: DicomHeader) -> bool:
    """Whether the values that VOI LUTs are applied to can be below zero."""
    if header.items("ModalityLUTSequence"):
        return False
    slope, intercept = header.numbers("RescaleSlope")[:1] or [1.0], header.numbers("RescaleIntercept")[:1] or [0.0]
    if described.is_float or None in (slope[0], intercept[0]) or slope[0] == 0:
        return described.is_signed
    return min(end * slope[0] + intercept[0] for end in described.value_range) < 0


def apply_window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Grey values of a window, `uint8`. `LINEAR` (also for any unknown function) below a width of 1 is `LINEAR_EXACT`.

    Source: PS3.3 C.11.2.1.2 and C.11.2.1.3.
    """
    distance = values.astype(np.float64) - center
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(-np.clip(4 * distance / width, -500, 500)))
    elif function == "LINEAR_EXACT" or width < 1:
        # With values that are no whole numbers, the standard's "- 1" would turn such windows over.
        share = distance / width + 0.5
    elif width == 1:
        share = (distance > -0.5).astype(np.float64)
    else:
        share = (distance + 0.5) / (width - 1) + 0.5
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


class _LookUpTable:
    """A modality or VOI LUT: inputs before its first entry take the first, those after its last the last.

    pydicom's own function is not used because it wraps around for 8-bit tables with more than 256 entries.

    Attributes:
        bits: of its entries.

    Source: PS3.3 C.11.1.1.
    """

    def __init__(self, entries: np.ndarray, first: int, bits: int) -> None:
        self._entries, self._first, self.bits = entries, first, bits

    def look_up(self, values: np.ndarray) -> np.ndarray:
        return self._entries[np.clip(values - self._first, 0, len(self._entries) - 1)]

    @classmethod
    def read(cls, item: DicomHeader, values: np.ndarray, *, is_signed: bool) -> "_LookUpTable | None":
        """The table of an item, or None where it has no entries.

        Args:
            item: of a LUT sequence.
            values: what it will be applied to, whole numbers.
            is_signed: whether those may be negative.

        Raises:
            ImageReadError: it holds fewer entries than it says, and values ask for those that are missing.
        """
        descriptor, content = item.numbers("LUTDescriptor"), item.content("LUTData")
        if len(descriptor) < 3 or None in descriptor[:3] or len(content) < 2 or values.dtype.kind == "f":
            return None
        count = int(descriptor[0]) % 2**16 or 2**16
        bits = int(descriptor[2]) % 2**16
        # Entries of up to 8 bits may be packed two in a word.
        size = 1 if bits <= 8 and len(content) <= count + 1 else 2
        order = "<" if item.is_little_endian() else ">"
        entries = np.frombuffer(content[: len(content) // size * size], f"{order}u{size}")[:count].astype(np.int64)
        first = _first_input(int(descriptor[1]) % 2**16, count, values, is_signed=is_signed)
        if (np.clip(values - first, 0, count - 1) >= len(entries)).any():
            raise ImageReadError(
                item.name, f"damaged DICOM: a look-up table of {count:,} entries holds only {len(entries):,}"
            )
        return cls(entries, first, _entry_bits(bits, int(entries.max())))


def _first_input(number: int, count: int, values: np.ndarray, *, is_signed: bool) -> int:
    """The input of a table's first entry, which has the sign of the inputs, whatever the field's own.

    Where that leaves all inputs beside the table, it has the other sign.
    """
    readings = [number - 2**16, number] if is_signed and number >= 2**15 else [number, number - 2**16]
    inside = [bool(((values >= first) & (values < first + count)).any()) for first in readings]
    return readings[1] if inside == [False, True] else readings[0]


def _entry_bits(stated: int, highest: int) -> int:
    """The bits of a table's entries: those stated, unless entries don't fit in, or fill less than a quarter.

    Some devices state the 16 bits of a word for entries of 12.
    """
    if 1 <= stated <= 16 and 2.0 ** (stated - 2) <= highest < 2**stated:
        return stated
    return bit_depth(highest)
