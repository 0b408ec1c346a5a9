"""Phantom studies follow the schema, and data sets of them keep their splits, patients and bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from mambaxray.data.phantoms import contact_sheet, encode_study, make_phantoms, make_study
from mambaxray.data.schema import OBSERVATIONS, STUDY_KEYS

SIZE = 96


def test_a_study_follows_the_schema():
    study = make_study(5, image_size=64, views=("PA", "LATERAL"))
    assert tuple(study) == STUDY_KEYS
    assert [image.mode for image in study["images"]] == ["L", "L"]
    assert [image.size for image in study["images"]] == [(64, 64)] * 2
    assert study["views"] == ["PA", "LATERAL"]
    assert tuple(study["labels"]) == OBSERVATIONS
    assert study["report"] == f"{study['findings']} {study['impression']}"


def test_a_study_without_views_is_refused():
    with pytest.raises(ValueError, match="at least one view"):
        make_study(0, views=())


def test_a_stored_film_is_read_back_without_loss():
    study = make_study(5, image_size=65)
    stored = encode_study(study)["images"][0]["bytes"]
    read = Image.open(io.BytesIO(stored))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(study["images"][0]))


@pytest.fixture(scope="module")
def phantoms():
    return make_phantoms(40, seed=1, image_size=32, views=("PA", "LATERAL"))


def test_the_data_set_has_the_schemas_columns_and_splits(phantoms):
    assert {name: len(split) for name, split in phantoms.items()} == {"train": 32, "validation": 4, "test": 4}
    for name, split in phantoms.items():
        assert tuple(split.column_names) == STUDY_KEYS
        assert set(split["split"]) == {name}
        row = split[0]
        assert [image.size for image in row["images"]] == [(32, 32)] * 2
        assert tuple(row["labels"]) == OBSERVATIONS


def test_no_patient_is_in_two_splits_or_twice(phantoms):
    patients = [patient for split in phantoms.values() for patient in split["patient_id"]]
    assert len(set(patients)) == len(patients) == 40


def test_the_data_set_is_the_same_for_any_number_of_processes(phantoms):
    again = make_phantoms(40, seed=1, image_size=32, views=("PA", "LATERAL"), num_proc=2)
    for name, split in phantoms.items():
        assert split.data.to_pydict() == again[name].data.to_pydict()


def test_another_seed_gives_other_patients(phantoms):
    other = make_phantoms(40, seed=2, image_size=32)
    assert not set(other["train"]["report"]) & set(phantoms["train"]["report"])
    assert not set(other["train"]["patient_id"]) & set(phantoms["train"]["patient_id"])


def test_splits_may_be_chosen_and_must_add_up():
    phantoms = make_phantoms(6, image_size=32, splits={"train": 0.5, "test": 0.5})
    assert {name: len(split) for name, split in phantoms.items()} == {"train": 3, "test": 3}
    with_empty = make_phantoms(1, image_size=32)
    assert {name: len(split) for name, split in with_empty.items()} == {"train": 1, "validation": 0, "test": 0}
    assert with_empty["test"].features == with_empty["train"].features
    with pytest.raises(ValueError, match="add up to 1"):
        make_phantoms(6, image_size=32, splits={"train": 0.5})
    with pytest.raises(ValueError, match="num_studies is 0"):
        make_phantoms(0)


def test_a_contact_sheet_shows_every_image():
    studies = [make_study(seed, image_size=64, views=("PA", "LATERAL")) for seed in range(3)]
    sheet = contact_sheet(studies, columns=4)
    assert sheet.width == 4 * 68
    assert np.asarray(sheet)[-60:, :60].std() > 20
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet([])
