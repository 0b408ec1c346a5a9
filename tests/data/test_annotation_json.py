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
        ('{"train": [], "internal": []}', "the unknown split 'internal'; known are train, validation, test, val"),
        ('{"train": {"id": 5}}', "train must be a list of studies, got {'id': 5}"),
        ('{"train": ["a"]}', r"train\[0\] must hold id, report and image_path, got 'a'"),
        ('{"train": null}', "train must be a list of studies, got None"),
        ("[" * 100_000, "not valid JSON"),
        (
            '{"train": [{"id": null, "report": "a", "image_path": "a"}]}',
            r"train\[0\]: its id must be a text .*got None",
        ),
        ('{"train": [{"id": true, "report": "a", "image_path": "a"}]}', "its id must be a text .*got True"),
        ('{"train": [{"id": 1.5, "report": "a", "image_path": "a"}]}', "its id must be a text .*got 1.5"),
        ('{"train": [{"id": 5, "report": null, "image_path": "a"}]}', "study 5: its report must be a text, got None"),
        ('{"train": [{"id": 5, "report": NaN, "image_path": "a"}]}', "study 5: its report must be a text, got nan"),
        ('{"train": [{"id": 5, "report": 3, "image_path": "a"}]}', "study 5: its report must be a text, got 3"),
        ('{"train": [{"id": 5, "report": ["b"], "image_path": "a"}]}', r"study 5: its report must .*got \['b'\]"),
        ('{"train": [{"id": 5, "report": "a", "image_path": null}]}', "study 5: its image_path must be .*got None"),
        ('{"train": [{"id": 5, "report": "a", "image_path": []}]}', r"study 5: its image_path must be .*got \[\]"),
        ('{"train": [{"id": 5, "report": "a", "image_path": [1]}]}', r"study 5: its image_path must be .*got \[1\]"),
        ('{"train": [{"id": 5, "report": "a", "image_path": "a", "view": 3}]}', "study 5: its view must be .*got 3"),
        ('{"train": [{"id": 5, "report": "a", "image_path": "a", "view": ["PA", "AP"]}]}', "study 5: its view must be"),
        ('{"train": [{"id": 5, "report": "a", "image_path": "a", "patient_id": []}]}', "study 5: its patient_id must"),
    ],
)
def test_a_file_in_another_format_is_refused(tmp_path, content, message):
    (tmp_path / "annotation.json").write_text(content)
    with pytest.raises(AnnotationError, match=message):
        load_annotation_json(tmp_path)


def test_a_byte_order_mark_and_keys_that_are_no_splits_are_no_obstacle(tmp_path):
    write_source(tmp_path, STUDIES | {"info": "made by hand"})
    file = tmp_path / "annotation.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert set(load_annotation_json(tmp_path)) == {"train", "validation"}
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(AnnotationError, match="not a text in UTF-8"):
        load_annotation_json(tmp_path)


def test_a_study_that_occurs_twice_and_a_path_that_can_not_be_are_named(tmp_path):
    write_source(tmp_path, STUDIES | {"test": [STUDIES["val"][0] | {"patient_id": 9}]})
    with pytest.raises(ValueError, match="1 study ids occur more than once: 7"):
        load_annotation_json(tmp_path)
    for path in ("a\0b.png", "x" * 5000):
        write_source(tmp_path, {"train": [STUDIES["val"][0] | {"image_path": path}]})
        with pytest.raises(FileNotFoundError, match="1 images named by"):
            load_annotation_json(tmp_path)


def test_the_real_pairs_are_read(shared_data):
    data = load_annotation_json(shared_data / "nih_label_matched")
    assert {name: len(split) for name, split in data.items()} == {"train": 675, "validation": 66, "test": 129}
    patients = [set(split["patient_id"]) for split in data.values()]
    assert not patients[0] & patients[1]
    assert not (patients[0] | patients[1]) & patients[2]
    assert min(data["test"][0]["images"][0].size) == 320


def test_labels_which_the_format_does_not_define_are_said_not_to_be_read(tmp_path, caplog):
    studies = {"train": [STUDIES["train"][0] | {"labels": ["No Finding"]}]}
    load_annotation_json(write_source(tmp_path, studies))
    assert "its labels are not read" in caplog.text
    caplog.clear()
    load_annotation_json(write_source(tmp_path, STUDIES))
    assert "labels" not in caplog.text
