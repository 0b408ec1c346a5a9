"""Images of data sets are read by the package's reader: DICOM, 16 bits, large JPEGs, and errors with names."""

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_files import make_dicom
from PIL import Image

from mambaxray import MambaXrayImageProcessor, load_annotation_json, load_prepared
from mambaxray.data.image_folder import load_images
from mambaxray.data.prepare import prepare_studies, read_source
from mambaxray.processing.image_reading import ImageReadError

FILM = np.asarray(Image.linear_gradient("L").resize((640, 512)))


def _write_source(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    study = {"id": "1", "report": "Clear lungs.", "image_path": [name]}
    (folder / "annotation.json").write_text(json.dumps({"train": [study]}))
    return folder


def _encoded(picture: Image.Image, path: Path, **options: object) -> bytes:
    picture.save(path, **options)
    return path.read_bytes()


def test_dicom_named_in_annotation_json_is_decoded_on_access(tmp_path: Path) -> None:
    deep = np.rint(FILM * (4095 / 255)).astype(np.uint16)
    content = make_dicom(deep, bits=12, WindowCenter="2048", WindowWidth="4096")
    row = load_annotation_json(_write_source(tmp_path, "film.dcm", content))["train"][0]
    assert np.abs(np.asarray(row["images"][0]).astype(int) - FILM).max() <= 1


def test_png_of_16_bits_and_an_upside_down_jpeg_come_as_the_reader_gives_them(tmp_path: Path) -> None:
    deep = _encoded(Image.fromarray(FILM.astype(np.uint16) * 16), tmp_path / "deep.png")
    image = load_annotation_json(_write_source(tmp_path, "deep.png", deep))["train"][0]["images"][0]
    assert image.mode == "L"
    assert np.abs(np.asarray(image).astype(int) - FILM).max() <= 1
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = _encoded(Image.fromarray(FILM[::-1, ::-1]), tmp_path / "turned.jpg", exif=exif, quality=95)
    image = load_annotation_json(_write_source(tmp_path, "turned.jpg", turned))["train"][0]["images"][0]
    assert np.abs(np.asarray(image).astype(int) - FILM).max() <= 3


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.dcm"])
def test_truncated_image_is_named_when_it_is_read_for_training(name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, FILM.shape, dtype=np.uint8)
    content = make_dicom(noise) if name.endswith("dcm") else _encoded(Image.fromarray(noise), tmp_path / name)
    data = load_annotation_json(_write_source(tmp_path, name, content[: len(content) // 2]))["train"]
    with pytest.raises(ImageReadError) as caught:
        MambaXrayImageProcessor(size=32)([data[0]["images"]])
    assert caught.value.name == str(tmp_path / name)


def test_jpeg_is_left_to_be_decoded_at_a_part_of_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = _encoded(Image.fromarray(FILM), tmp_path / "film.jpg", quality=90)
    row = load_annotation_json(_write_source(tmp_path, "film.jpg", content))["train"][0]
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda picture, *a, **k: sizes.append(picture.size) or resize(picture, *a, **k)
    )
    processor = MambaXrayImageProcessor(size=64, reducing_gap=2.0)
    processor([row["images"]])
    assert max(sizes) == (160, 128)


def test_prepared_studies_and_image_folders_name_what_is_damaged(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _write_source(source, "film.jpg", _encoded(Image.fromarray(FILM), tmp_path / "film.jpg", quality=90))
    found = read_source("annotation-json", source, section="findings")
    prepare_studies(found, tmp_path / "prepared", num_proc=1)
    image = load_prepared(tmp_path / "prepared")["train"][0]["images"][0]
    assert image.size == (640, 512)
    folder = tmp_path / "folder"
    folder.mkdir()
    content = (tmp_path / "film.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageReadError, match=r"broken\.jpg: truncated"):
        MambaXrayImageProcessor(size=32)([[load_images([folder])[0]["image"]]])


def test_rows_stay_images_through_selecting_shuffling_and_mapping(tmp_path: Path) -> None:
    content = _encoded(Image.fromarray(FILM), tmp_path / "film.jpg", quality=90)
    data = load_annotation_json(_write_source(tmp_path, "film.jpg", content))["train"]
    for rows in (data.select([0]), data.shuffle(seed=0), data.filter(lambda row: row["report"])):
        assert rows[0]["images"][0].size == (640, 512)
    mapped = data.map(lambda row: {"images": row["images"], "report": "x"})
    assert mapped[0]["images"][0].size == (640, 512)
