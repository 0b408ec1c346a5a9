"""One way to name studies."""

import pytest

from mambaxray import load_studies
from mambaxray.data.schema import STUDY_KEYS


def test_phantoms_are_named_by_name_with_their_options():
    data = load_studies("phantoms", num_studies=10, seed=3, image_size=32, views=["PA", "LATERAL"])
    assert {name: len(split) for name, split in data.items()} == {"train": 8, "validation": 1, "test": 1}
    study = data["train"][0]
    assert set(study) == set(STUDY_KEYS)
    assert [image.size for image in study["images"]] == [(32, 32), (32, 32)]


def test_a_folder_with_an_annotation_is_read(shared_data):
    data = load_studies(shared_data / "nih_label_matched")
    assert {name: len(split) for name, split in data.items()} == {"train": 675, "validation": 66, "test": 129}


def test_an_unknown_option_is_refused_with_those_there_are():
    with pytest.raises(TypeError, match=r"phantoms has no option image_sise; its options: num_studies, seed, image_"):
        load_studies("phantoms", num_studies=2, image_sise=32)


def test_an_absent_option_is_named():
    with pytest.raises(TypeError, match="phantoms needs the option num_studies"):
        load_studies("phantoms", image_size=32)


def test_a_source_that_is_none_says_what_there_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere' names no studies: give 'phantoms', a folder finished by"):
        load_studies(tmp_path / "nowhere")
