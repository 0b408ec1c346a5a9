"""Folders of images without reports: which files of theirs are images, and images for pre-training."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets


_DICOM_SUFFIXES = {".dcm", ".dicom"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"} | _DICOM_SUFFIXES
# Parts of a stream that worker processes can share out.
_SHARDS = 64


def find_images(folder: str | Path, on_skip: Callable[[str], None] | None = None) -> list[Path]:
    """All images below a folder, in natural order: files with the suffix of an image, and DICOM files of any name.

    Links to folders are followed, hidden files and folders are left out. A link to nothing is an image by its suffix,
    so that what is missing is named when it is to be read.

    Args:
        folder: where to look.
        on_skip: called for each DICOM file without an image (`DICOMDIR`, presentation states, structured reports …)
            with what it holds, in the standard's words; such files are left out.
    """
    images = []
    for path in _files_below(Path(folder)):
        is_image, held = _look_at(path)
        if held is not None:
            if on_skip is not None:
                on_skip(held)
        elif is_image:
            images.append(path)
    return sorted(images, key=_natural_order)


def _files_below(folder: Path) -> Iterator[Path]:
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # by another link, such as one to a folder above
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(parent, name)
            if not name.startswith(".") and (path.is_file() or path.is_symlink()):
                yield path


def _look_at(path: Path) -> tuple[bool, str | None]:
    """Whether a file is an image by its suffix or as a DICOM, and what a DICOM holds if it is none.

    DICOM files often have no suffix, or a part of their UID in its place, and are identified by content.
    """
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            # As `processing.dicom.is_dicom`, whose package takes seconds to load.
            if file.read(132)[128:] == b"DICM" or suffix in _DICOM_SUFFIXES:
                from ..processing.dicom import class_without_image

                file.seek(0)
                return True, class_without_image(file)
    except OSError:
        pass  # what can't be opened is named when it is to be read
    return suffix in IMAGE_SUFFIXES, None


def _natural_order(path: Path) -> list[list[str | int]]:
    """Sorts `image2` before `image10`."""
    return [
        [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", part.lower())]
        for part in path.parts
    ]


def load_images(
    folders: Sequence[str | Path], streaming: bool = False
) -> "datasets.Dataset | datasets.IterableDataset":
    """All images below some folders, as rows with one `image`.

    Args:
        folders: searched as `find_images` does.
        streaming: read the images one after the other, in parts that worker processes share out.

    Raises:
        FileNotFoundError: a folder is absent, or there is no image at all.
        ValueError: no folder is given.
    """
    import datasets

    from .xray_feature import XrayImage

    if not folders:
        raise ValueError("give at least one folder of images")
    absent = [str(folder) for folder in folders if not Path(folder).is_dir()]
    if absent:
        raise FileNotFoundError(f"no such folder: {', '.join(absent)}")
    # An image that is found twice, in two of the folders or by a link, is one.
    images = dict.fromkeys(os.path.realpath(path) for folder in folders for path in find_images(folder))
    if not images:
        raise FileNotFoundError(
            f"no images below {', '.join(map(str, folders))} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    rows = datasets.Dataset.from_dict({"image": list(images)}, features=datasets.Features({"image": XrayImage()}))
    return rows.to_iterable_dataset(num_shards=min(_SHARDS, len(images))) if streaming else rows


__all__ = ["IMAGE_SUFFIXES", "find_images", "load_images"]
