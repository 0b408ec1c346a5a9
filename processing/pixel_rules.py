"""What every picture must meet and how its grey values become 8-bit ones, whatever file it came from."""

import struct
import zlib
from collections.abc import Callable

import numpy as np

# Between the largest chest film scans (35 x 43 cm at 50 micrometres: 60 million pixels) and the size from which
# Pillow itself warns (89 million).
MAX_PIXELS = 64 * 2**20
# Smaller than one patch of the encoder: there is nothing to see.
MIN_SIDE = 16

# What Pillow's, pydicom's and their libraries' decoders raise on damaged data.
DECODE_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

_BIT_DEPTHS = (8, 10, 12, 14, 16)


class ImageReadError(ValueError):
    """A picture that can't be used. The message is `<file>: <reason>`.

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


def check_size(width: int, height: int, name: str) -> None:
    """Refuse what is too small to hold a radiograph or too large to be one, before it is decoded.

    Raises:
        ImageReadError: a side shorter than `MIN_SIDE` or more than `MAX_PIXELS` pixels.
    """
    if min(width, height) < MIN_SIDE:
        raise ImageReadError(name, f"too small ({width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE})")
    if width * height > MAX_PIXELS:
        raise ImageReadError(
            name,
            f"too large ({width} x {height} pixels; at most {MAX_PIXELS // 2**20} x 2^20, a larger picture is taken "
            "for a decompression bomb): downsample it first",
        )


def to_8bit(values: np.ndarray, name: str) -> np.ndarray:
    """Grey or colour values of any type as `uint8`, the same shape.

    - `uint8` stays as it is, `bool` becomes 0 and 255.
    - Floating-point values within [0, 1] are multiplied by 255. A maximum a little above 1 (below 2, as resampling
      leaves it) is clipped.
    - Other values from 0 up to 65535 are divided by the full range of the smallest of 8, 10, 12, 14 and 16 bits
      that holds their maximum: 12-bit data in a 16-bit file fills the range, and an 8-bit picture stored in 16
      bits comes out unchanged.
    - Anything else (negative values, or beyond 16 bits) is stretched from its minimum to its maximum.

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
    lowest, highest = float(values.min()), float(values.max())
    if lowest < 0 or highest > 2**16 - 1:
        low, high = lowest, highest
    elif values.dtype.kind == "f" and highest < 2:
        low, high = 0.0, 1.0
    else:
        low, high = 0.0, float(2 ** next(bits for bits in _BIT_DEPTHS if highest <= 2**bits - 1) - 1)
    return by_value(lambda found: stretch(found, low, high), values)


def by_value(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """`function(values)` for a function to `uint8` that depends on a pixel's value and on which values there are.

    A picture has millions of pixels but at most 65,536 values of 16 bits, so the function is asked for each value that
    occurs and the pixels look the answer up. The result is the same to the bit.

    Args:
        function: takes an array of any shape, here the values that occur in ascending order of their bit patterns.
        values: pixels of any type; others than integers of 16 bits are given to the function as they are.
    """
    # With fewer pixels than values there is nothing to gain.
    if values.dtype not in (np.uint16, np.int16) or not values.dtype.isnative or values.size < 2**16:
        return function(values)
    codes = values.view(np.uint16)
    occurs = np.zeros(2**16, dtype=bool)
    occurs[codes] = True
    found = np.flatnonzero(occurs).astype(np.uint16)
    table = np.zeros(2**16, dtype=np.uint8)
    table[found] = function(found.view(values.dtype))
    return table[codes]


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to 0 and `high` to 255, linear between and clipped outside, rounded to `uint8`."""
    span = high - low
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / span if span > 0 else 0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
