"""What encoders of one image size ask of their input."""

from torch import Tensor


def check_pixel_shape(pixel_values: Tensor, num_channels: int, image_size: int, advice: str) -> None:
    """Checks that images are as an encoder's configuration says.

    Args:
        pixel_values: what should be `(batch, num_channels, image_size, image_size)`.
        num_channels: channels of an image.
        image_size: its height and width in pixels.
        advice: what to do about another shape; it ends the message.

    Raises:
        ValueError: the shape is another.
    """
    expected = (num_channels, image_size, image_size)
    if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
        raise ValueError(
            f"expected pixel_values of shape (batch, {', '.join(map(str, expected))}), got "
            f"{tuple(pixel_values.shape)}; {advice}"
        )


__all__ = ["check_pixel_shape"]
