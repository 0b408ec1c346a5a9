"""Images of data sets, read on access by the package's own reader: DICOM too, and errors name the file."""

from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from ..processing.image_content import read_file
from ..processing.image_reading import NAME_ATTRIBUTE, load_xray

_ORIENTATION = 0x0112
_UPRIGHT = 1


class XrayImage(datasets.Image):
    """As `datasets.Image`, whose type it has in files, with `load_xray` as its decoder.

    A row gives PIL images of mode "L" or "RGB". JPEGs are opened and not decoded yet, so that an image processor can
    decode them at a part of their size; `load_xray` then names their file in errors.
    """

    def decode_example(self, value: dict[str, Any], token_per_repo_id: dict[str, Any] | None = None) -> Image.Image:
        """The image of a row's `{"bytes": …, "path": …}`.

        Raises:
            ImageReadError: the image can't be read; names its file.
            FileNotFoundError: there is no such file.
        """
        content, path = value.get("bytes"), value.get("path")
        if content is None and not Path(str(path)).exists():
            return super().decode_example(value, token_per_repo_id)  # in an archive, or somewhere else
        if content is None:
            content = read_file(Path(str(path)))
        if (jpeg := _upright_jpeg(content)) is not None:
            setattr(jpeg, NAME_ATTRIBUTE, str(path or ""))
            return jpeg
        # Whether blank images are wanted is for the image processor to say.
        return load_xray({"bytes": content, "path": path}, allow_blank=True)


def _upright_jpeg(content: bytes) -> Image.Image | None:
    """A JPEG that needs no turning and no conversion, not decoded yet; None for anything else."""
    try:
        picture = Image.open(BytesIO(content), formats=["JPEG"])
        is_plain = picture.mode in ("L", "RGB") and picture.getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT
    except (OSError, ValueError, SyntaxError):
        return None  # `load_xray` says what is wrong with it
    return picture if is_plain and picture.format == "JPEG" else None


def read_by_us(rows: "datasets.Dataset | datasets.IterableDataset", column: str, *, is_list: bool) -> None:
    """Let a loaded data set decode its images by `XrayImage`, in place.

    Args:
        rows: the data set.
        column: of its images.
        is_list: whether a row has a list of them.
    """
    rows.info.features[column] = datasets.List(XrayImage()) if is_list else XrayImage()


__all__ = ["XrayImage", "read_by_us"]
