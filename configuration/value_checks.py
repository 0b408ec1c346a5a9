"""Checks of values that the configurations of several families have."""

from typing import Any


def check_positive_integer(name: str, value: Any) -> None:
    """Refuses a field that is no positive integer.

    Raises:
        ValueError: it is none; the message names the field.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_whole_patches(image_size: int, patch_size: int) -> None:
    """Refuses an image whose side is not a whole number of patches, both in pixels.

    Raises:
        ValueError: it is not; the message names the nearest size.
    """
    if image_size % patch_size:
        raise ValueError(
            f"image_size {image_size} is not a multiple of patch_size {patch_size}; "
            f"the nearest below is {image_size // patch_size * patch_size}"
        )


def check_time_steps(time_step_min: float, time_step_max: float) -> None:
    """Refuses a range of step sizes of a state-space model that is empty or not positive.

    Raises:
        ValueError: it is.
    """
    if not 0 < time_step_min <= time_step_max:
        raise ValueError(f"need 0 < time_step_min <= time_step_max, got {time_step_min} and {time_step_max}")


__all__ = ["check_positive_integer", "check_time_steps", "check_whole_patches"]
