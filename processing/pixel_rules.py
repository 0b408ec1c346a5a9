"""How the values of an image become 8-bit grey values, whatever file it came from, and which images are blank."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

_BIT_DEPTHS = (8, 10, 12, 14, 16)
# Values beyond these shares at either end may be outliers: hot pixels, a marker, a row that a detector lost.
_TAIL = 0.02
# An image is blank, and a window useless, when so large a share of the pixels lies within a few grey levels.
_FLAT_SHARE = 0.97
_BLANK_BAND = 8
# More pixels tell no more about percentiles.
_SAMPLE = 2**20
_PREVIEW_SIDE = 256
# Grey levels within which a border of a radiograph is black or white; the least that is cut off a JPEG.
_DARKEST = 12
_FEWEST_ROWS, _CUT_SHARE = 8, 0.03
# Rows of a JPEG's largest blocks.
_BLOCK = 16

DECODE_ERRORS = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's, pydicom's and numpy's decoders raise on damaged data. Errors of programs (TypeError, AttributeError,
RuntimeError) are not among them: they must be seen as what they are."""


class ImageReadError(ValueError):
    """An image that can't be used. The message is `<file>: <reason>`.

    Args:
        name: the file, or a description of what was given instead of a file.
        reason: why it can't be read and, where there is one, the way to mend it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple:
        # Exceptions are rebuilt from `args`; data loader workers send them between processes.
        return type(self), (self.name, self.reason)


def one_line(error: Exception) -> str:
    """What a decoder says went wrong, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def pillow_decodes(name: str) -> Iterator[None]:
    """For lines in which nothing but Pillow works: whatever it raises is the file's fault.

    Raises:
        ImageReadError: in place of Pillow's errors.
    """
    try:
        yield
    except (*DECODE_ERRORS, AttributeError, RuntimeError, TypeError) as error:
        raise ImageReadError(name, f"truncated or damaged image ({one_line(error)})") from error


class Levels:
    """The values that occur in an image, so that a function of the value is computed once for each of them.

    An image has millions of pixels but at most 65,536 values of 16 bits. Other kinds of values are kept pixel by pixel.

    Attributes:
        values: `(n,)`, ascending where each occurs once.
        counts: `(n,)`, how often each occurs, in large images among a part of the pixels.

    Args:
        pixels: an array of any shape and any numeric type.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        if not pixels.dtype.isnative:
            pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        self._pixels = pixels
        self._is_table = pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2
        if not self._is_table:
            self.values = pixels.ravel()
            self.counts = np.ones(self.values.size, dtype=np.int64)
            return
        codes = self._codes()
        sample = codes.ravel()[:: max(1, codes.size // _SAMPLE)]
        counts = np.bincount(sample, minlength=self._table_size())
        occurs = counts > 0
        if sample.size < codes.size:
            occurs[codes] = True
        found = np.flatnonzero(occurs).astype(codes.dtype)
        order = np.argsort(found.view(pixels.dtype), kind="stable")
        self._found = found[order]
        self.values = self._found.view(pixels.dtype)
        self.counts = counts[self._found]

    def _codes(self) -> np.ndarray:
        return self._pixels.view(f"u{self._pixels.dtype.itemsize}")

    def _table_size(self) -> int:
        return 2 ** (8 * self._pixels.dtype.itemsize)

    def paint(self, grey: np.ndarray) -> np.ndarray:
        """The image in which each of `values` has its own of the grey values `(n,)` uint8."""
        if not self._is_table:
            return grey.reshape(self._pixels.shape)
        table = np.zeros(self._table_size(), dtype=np.uint8)
        table[self._found] = grey
        return table[self._codes()]


def middle_range(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The 2nd and the 98th percentile of values `(n,)` that occur so often."""
    if counts.size > _SAMPLE:
        step = counts.size // _SAMPLE
        values, counts = values[::step], counts[::step]
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    places = np.searchsorted(below, [_TAIL * below[-1], (1 - _TAIL) * below[-1]])
    low, high = values[order[np.minimum(places, len(order) - 1)]]
    return float(low), float(high)


def stretch_range(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest of values `(n,)` that are no outliers.

    Outliers lie outside of the 2nd to the 98th percentile by more than half the distance between these two.
    """
    low, high = middle_range(values, counts)
    margin = (high - low) / 2
    return float(values[values >= low - margin].min()), float(values[values <= high + margin].max())


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to 0 and `high` to 255, linear between and clipped outside, rounded to `uint8`."""
    span = high - low
    # In double precision only where single precision can't tell neighbouring values apart.
    kind = np.float32 if max(abs(low), abs(high)) < 2**20 else np.float64
    with np.errstate(over="ignore"):
        scaled = (values.astype(kind) - kind(low)) * kind(255 / span if span > 0 else 0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def bit_depth(highest: float) -> int:
    """The smallest of 8, 10, 12, 14 and 16 bits that hold a value from 0 to 65535."""
    return next(bits for bits in _BIT_DEPTHS if highest <= 2**bits - 1)


def to_8bit(values: np.ndarray, name: str) -> np.ndarray:
    """Grey or colour values of any type as `uint8`, the same shape.

    - `uint8` stays as it is, `bool` becomes 0 and 255.
    - Floating-point values within [0, 1] are multiplied by 255. A maximum a little above 1 (below 2, as resampling
      leaves it) is clipped.
    - Other values from 0 up to 65535 are divided by the full range of the smallest of 8, 10, 12, 14 and 16 bits
      that holds their maximum: 12-bit data in a 16-bit file fills the range, and an 8-bit image stored in 16
      bits comes out unchanged.
    - Anything else (negative values, or beyond 16 bits) is stretched from its minimum to its maximum.

    Maximum and minimum are those of `stretch_range`, which leaves outliers aside.

    Raises:
        ImageReadError: NaN or infinite values, or a type that is not numeric.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise ImageReadError(name, f"pixels of type {values.dtype}; expected integers or floating-point numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageReadError(name, "NaN or infinite pixel values")
    levels = Levels(values)
    low, high = stretch_range(levels.values, levels.counts)
    if low >= 0 and high <= 2**16 - 1:
        is_share = values.dtype.kind == "f" and high < 2
        low, high = 0.0, 1.0 if is_share else float(2 ** bit_depth(high) - 1)
    return levels.paint(stretch(levels.values, low, high))


def is_flat(grey: np.ndarray, counts: np.ndarray, band: int = _BLANK_BAND) -> bool:
    """Whether nearly all pixels (97 %) lie within `band` neighbouring grey levels.

    Args:
        grey: `(n,)` uint8.
        counts: `(n,)`, how many pixels have each.
        band: grey levels.
    """
    histogram = np.bincount(grey, weights=counts, minlength=256)
    below = np.concatenate([[0], np.cumsum(histogram)])
    return bool((below[band:] - below[:-band]).max() >= _FLAT_SHARE * below[-1])


def refuse_cut_jpeg(values: np.ndarray, name: str) -> None:
    """Refuse a decoded JPEG whose data ended early: its decoder repeats the last block to the end, without a word.

    Args:
        values: `(height, width)` or `(height, width, channels)`, of 8 bits, as it was decoded.
        name: of the file, for the message.

    Raises:
        ImageReadError: the lowest rows repeat exactly, and are neither black nor white, as borders are; the uppermost
            row has several values, as it would not in an image on a grey page.
    """
    lowest = values[-_BLOCK:]
    is_border = lowest.min() <= _DARKEST or lowest.max() >= 255 - _DARKEST
    if is_border or len(values) <= _BLOCK or (values[-1] != values[-1 - _BLOCK]).any():
        return
    differs = (values[:-_BLOCK] != values[_BLOCK:]).reshape(len(values) - _BLOCK, -1).any(axis=1)
    rest = len(values) - 1 - int(np.flatnonzero(differs)[-1]) if differs.any() else 0
    if rest >= max(_BLOCK + _FEWEST_ROWS, _CUT_SHARE * len(values)) and (values[0] != values[0, 0]).any():
        raise ImageReadError(name, f"truncated or damaged image (its data end early, {rest} rows above its end)")


def refuse_blank(picture: Image.Image, name: str, reason: str = "nearly all pixels have one grey value") -> None:
    """Refuse an image of mode "L" or "RGB" in which there is nothing to see.

    Raises:
        ImageReadError: 97 % of the pixels lie within 8 grey levels of 256, in every channel.
    """
    size = (min(picture.width, _PREVIEW_SIDE), min(picture.height, _PREVIEW_SIDE))
    counts = picture.resize(size, Image.Resampling.NEAREST).histogram()
    grey = np.arange(256, dtype=np.uint8)
    if all(is_flat(grey, np.array(counts[start : start + 256])) for start in range(0, len(counts), 256)):
        raise blank_error(name, reason)


def blank_error(name: str, reason: str) -> ImageReadError:
    """The error of an image in which there is nothing to see, with the reason."""
    return ImageReadError(name, f"blank image ({reason}); allow_blank (--allow-blank) reads it all the same")
