"""Data sets in R2Gen's format."""

import json

import pytest
from PIL import Image

from mambaxray import load_annotation_json
from mambaxray.data.annotation_json import AnnotationError
from mambaxray.data.schema import STUDY_KEYS
from mambaxray.data.source import SharedPatientsError


def write_source(folder, annotation, images=("a/0.png", "a/1.png", "b.png")):
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 99).save(folder / name)
    (folder / "annotation.json").write_text(json.dumps(annotation), encoding="utf-8")
    return folder


STUDIES = {
    "train": [{"id": "CXR1", "report": "Clear lungs.", "image_path": ["a/0.png", "a/1.png"], "split": "train"}],
    "val": [{"id": 7, "report": "Größe normal.", "image_path": "b.png", "patient_id": 3, "view": "PA"}],
}


@pytest.mark.parametrize("below", ["", "images"])
def test_studies_views_and_splits_are_read_with_images_beside_or_below(tmp_path, below):
    write_source(tmp_path, STUDIES)
    if below:
        (tmp_path / "images").mkdir()
        for name in ("a", "b.png"):
            (tmp_path / name).rename(tmp_path / "images" / name)
    data = load_annotation_json(tmp_path)
    assert set(data) == {"train", "validation"}
    first, second = data["train"][0], data["validation"][0]
    assert set(first) == set(STUDY_KEYS)
    assert [image.size for image in first["images"]] == [(20, 20), (20, 20)]
    assert (first["patient_id"], first["views"], first["report"]) == ("CXR1", ["", ""], "Clear lungs.")
    assert (second["study_id"], second["patient_id"], second["views"]) == ("7", "3", ["PA"])
    assert all(value is None for value in first["labels"].values())


def test_section_and_cleaning_are_applied_and_unknown_ones_refused(tmp_path):
    write_source(tmp_path, STUDIES)
    study = load_annotation_json(tmp_path, section="findings", cleaning="iu-xray")["train"][0]
    assert (study["findings"], study["impression"], study["report"]) == ("Clear lungs.", "", "clear lungs .")
    for options in ({"section": "report"}, {"cleaning": "report"}):
        with pytest.raises(ValueError, match=r"unknown .* 'report'; "):
            load_annotation_json(tmp_path, **options)


def test_studies_whose_report_is_a_placeholder_are_left_out_and_named(tmp_path, caplog):
    train = [*STUDIES["train"], {"id": "CXR2", "report": "nan", "image_path": "b.png"}]
    data = load_annotation_json(write_source(tmp_path, {**STUDIES, "train": train}))
    assert data["train"]["study_id"] == ["CXR1"]
    assert "study CXR2 is left out" in caplog.text


def test_a_patient_in_two_splits_is_refused_unless_allowed(tmp_path):
    shared = {name: [{**rows[0], "patient_id": 3}] for name, rows in STUDIES.items()}
    write_source(tmp_path, shared)
    with pytest.raises(SharedPatientsError, match="1 patients are in more than one split"):
        load_annotation_json(tmp_path)
    assert set(load_annotation_json(tmp_path, allow_shared_patients=True)) == {"train", "validation"}


def test_absent_images_are_named(tmp_path):
    write_source(tmp_path, STUDIES, images=("b.png",))
    with pytest.raises(FileNotFoundError, match=r"2 images .* absent: .*a/0\.png"):
        load_annotation_json(tmp_path)


def test_an_absent_file_says_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"annotation\.json is absent"):
        load_annotation_json(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "none of the splits"),
        ('{"train": [{"id": 5, "image_path": []}]}', "study 5 lacks report"),
    ],
)
def test_a_file_in_another_format_is_refused(tmp_path, content, message):
    (tmp_path / "annotation.json").write_text(content)
    with pytest.raises(AnnotationError, match=message):
        load_annotation_json(tmp_path)


def test_the_real_pairs_are_read(shared_data):
    data = load_annotation_json(shared_data / "nih_label_matched")
    assert {name: len(split) for name, split in data.items()} == {"train": 675, "validation": 66, "test": 129}
    patients = [set(split["patient_id"]) for split in data.values()]
    assert not patients[0] & patients[1]
    assert not (patients[0] | patients[1]) & patients[2]
    assert min(data["test"][0]["images"][0].size) == 320
