"""Folders of images without reports, for pre-training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets


def load_images(
    folders: Sequence[str | Path], streaming: bool = False
) -> "datasets.Dataset | datasets.IterableDataset":
    """All images below some folders, as rows with one `image` (`imagefolder` of `datasets`).

    Args:
        folders: searched recursively; files that are not images are skipped.
        streaming: read the images one after the other instead of listing them in a table first.

    Raises:
        FileNotFoundError: a folder is absent, or there is no image at all.
        ValueError: no folder is given.
    """
    import datasets

    from .xray_feature import read_by_us

    if not folders:
        raise ValueError("give at least one folder of images")
    absent = [str(folder) for folder in folders if not Path(folder).is_dir()]
    if absent:
        raise FileNotFoundError(f"no such folder: {', '.join(absent)}")
    patterns = [f"{Path(folder).absolute()}/**" for folder in folders]
    try:
        rows = datasets.load_dataset(
            "imagefolder",
            data_files={"train": patterns},
            split="train",
            streaming=streaming,
            drop_labels=True,
            drop_metadata=True,
        )
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(f"no images below {', '.join(map(str, folders))}: {error}") from error
    read_by_us(rows, "image", is_list=False)
    return rows


__all__ = ["load_images"]
