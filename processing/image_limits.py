"""How large an image may be. The limits hold before memory is taken for it, whatever file or address it comes from."""

import os

from .pixel_rules import ImageReadError

MAX_MEGABYTES_VARIABLE = "MAMBAXRAY_MAX_IMAGE_MB"
"""Environment variable with the one setting: the most memory, in MiB, that one image may take."""

_DEFAULT_MEGABYTES = 512
# What reading needs per pixel at most, so that the default allows 64 x 2^20 pixels. The largest chest film scans
# (35 x 43 cm at 50 micrometres) have 60 million.
_BYTES_PER_PIXEL = 8
# Smaller than one patch of the encoder: there is nothing to see.
MIN_SIDE = 16


def max_bytes() -> int:
    """The most bytes of a file, a download or unpacked data; `MAMBAXRAY_MAX_IMAGE_MB` sets it (512 MiB by default).

    Raises:
        ValueError: the variable is not a positive whole number.
    """
    value = os.environ.get(MAX_MEGABYTES_VARIABLE) or str(_DEFAULT_MEGABYTES)
    if not value.isdecimal() or int(value) == 0:
        raise ValueError(f"{MAX_MEGABYTES_VARIABLE} is {value!r}; give a positive number of MiB")
    return int(value) * 2**20


def max_pixels() -> int:
    """The most pixels of an image: one for every 8 of `max_bytes`."""
    return max_bytes() // _BYTES_PER_PIXEL


def check_bytes(count: int, name: str, what: str = "bytes") -> None:
    """Refuse more bytes than one image may take.

    Raises:
        ImageReadError: `count` is above `max_bytes`.
    """
    if count > (limit := max_bytes()):
        raise ImageReadError(
            name, f"too large (more than {limit // 2**20} MiB of {what}); {MAX_MEGABYTES_VARIABLE} sets the limit"
        )


def check_size(width: int, height: int, name: str) -> None:
    """Refuse what is too small to hold a radiograph or too large to be one, before it is decoded.

    Raises:
        ImageReadError: a side shorter than `MIN_SIDE` or more than `max_pixels` pixels.
    """
    if min(width, height) < MIN_SIDE:
        raise ImageReadError(name, f"too small ({width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE})")
    if width * height > (limit := max_pixels()):
        raise ImageReadError(
            name,
            f"too large ({width} x {height} pixels; at most {limit:,}, a larger image is taken for a decompression "
            f"bomb): downsample it first, or set {MAX_MEGABYTES_VARIABLE}",
        )
