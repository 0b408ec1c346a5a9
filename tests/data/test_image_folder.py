"""Which files below a folder are images, for reports and for pre-training alike."""

from pathlib import Path

import numpy as np
import pytest
from dicom_files import make_dicom
from PIL import Image

from mambaxray.data.image_folder import find_images, load_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in folders with names that are patterns elsewhere, behind links, with and without a suffix."""
    folder = tmp_path / "scans [1] ü*"
    (folder / "p2").mkdir(parents=True)
    (tmp_path / "archive").mkdir()
    for path in (folder / "p2/x10.png", folder / "p2/x9.png", folder / "p2/.hidden.png", tmp_path / "archive/a.png"):
        Image.linear_gradient("L").resize((40, 40)).save(path)
    ramp = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40)
    (folder / "IM0001").write_bytes(make_dicom(ramp))
    (folder / "notes.txt").write_text("no image")
    (folder / "linked").symlink_to(tmp_path / "archive")
    (folder / "p2/up").symlink_to(folder)
    (folder / "p2/z.png").symlink_to(folder / "gone.png")
    return folder


def test_images_are_found_behind_links_and_by_content_each_once_in_natural_order(folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert names == ["IM0001", "linked/a.png", "p2/x9.png", "p2/x10.png", "p2/z.png"]


@pytest.mark.parametrize("streaming", [False, True])
def test_pretraining_reads_all_of_them_dicom_too(folder: Path, streaming: bool) -> None:
    (folder / "p2/z.png").unlink()
    assert len([row["image"].size for row in load_images([folder, folder / "p2"], streaming)]) == 4


def test_an_image_that_is_gone_is_named(folder: Path) -> None:
    rows = load_images([folder])
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        rows[-1]
