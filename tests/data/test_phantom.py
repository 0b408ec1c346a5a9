"""Phantoms: what is drawn is what was asked for, and the data set holds its promises."""

import io

import numpy as np
import pytest
from PIL import Image

from mambaxray.data.phantom import (
    VIEWS,
    Finding,
    contact_sheet,
    draw_phantom,
    encode_study,
    make_phantoms,
    make_study,
)
from mambaxray.data.phantom_findings import CHOICES, DEVICES, SEVERITIES, SIDED_DEVICES
from mambaxray.data.schema import OBSERVATIONS, STUDY_KEYS

SIZE = 96


def some_finding(observation: str, severity: str = "severe") -> Finding:
    choices = CHOICES[observation]
    kind = choices.kinds[0]
    side = "" if observation == "Support Devices" else choices.sides[-1]
    return Finding(observation, side, choices.zones[-1], severity, kind)


def change(finding: Finding, seed: int = 3, view: str = "PA", size: int = SIZE) -> np.ndarray:
    """What a finding adds to the same person's film, in grey levels."""
    normal = draw_phantom([], seed=seed, view=view, image_size=size).astype(float)
    return draw_phantom([finding], seed=seed, view=view, image_size=size) - normal


def halves(film: np.ndarray) -> tuple[float, float]:
    """Mean absolute value on the patient's right (the image's left) and left."""
    middle = film.shape[1] // 2
    return float(np.abs(film[:, :middle]).mean()), float(np.abs(film[:, middle:]).mean())


@pytest.mark.parametrize("view", VIEWS)
def test_the_same_seed_draws_the_same_film_bit_by_bit(view):
    findings = [some_finding("Consolidation"), Finding("Support Devices")]
    one = draw_phantom(findings, seed=7, view=view, image_size=SIZE)
    again = draw_phantom(findings[::-1], seed=7, view=view, image_size=SIZE)
    other = draw_phantom(findings, seed=8, view=view, image_size=SIZE)
    assert one.dtype == np.uint8
    assert one.shape == (SIZE, SIZE)
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.5


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [32, 96, 224, 321])
def test_films_of_any_size_use_the_grey_scale_like_a_radiograph(view, size):
    film = draw_phantom([], seed=1, view=view, image_size=size)
    assert film.shape == (size, size)
    assert 60 < film.mean() < 190
    assert film.std() > 35
    assert np.percentile(film, 2) < 30
    assert np.percentile(film, 98) > 170


def test_lungs_are_darker_than_heart_and_abdomen():
    for seed in range(8):
        film = draw_phantom([], seed=seed, image_size=SIZE).astype(float) / 255
        row, column = int(0.45 * SIZE), int(0.25 * SIZE)
        lung = film[row - 8 : row + 8, column - 6 : column + 6].mean()
        abdomen = film[int(0.92 * SIZE) :, int(0.3 * SIZE) : int(0.45 * SIZE)].mean()
        spine = film[row - 8 : row + 8, SIZE // 2 - 3 : SIZE // 2 + 3].mean()
        assert lung < min(abdomen, spine) - 0.15, seed


@pytest.mark.parametrize("observation", CHOICES)
@pytest.mark.parametrize("size", [128, 224])
def test_every_finding_can_be_seen_at_every_severity(observation, size):
    for severity in SEVERITIES:
        strongest = np.sort(np.abs(change(some_finding(observation, severity), size=size)).ravel())[-size // 2 :]
        assert strongest.mean() > 18, severity


@pytest.mark.parametrize("observation", [name for name in CHOICES if name not in ("Fracture", "Support Devices")])
def test_a_more_severe_finding_changes_the_film_more(observation):
    seeds = range(6)
    amounts = [
        np.mean([np.abs(change(some_finding(observation, severity), seed)).mean() for seed in seeds])
        for severity in SEVERITIES
    ]
    assert amounts[0] < amounts[1] < amounts[2]


@pytest.mark.parametrize(
    "observation", [name for name, choices in CHOICES.items() if {"left", "right"} <= set(choices.sides)]
)
def test_a_finding_lies_on_the_side_that_was_asked_for(observation):
    zone = "lower" if "lower" in CHOICES[observation].zones else ""
    kind = "pacemaker" if observation == "Support Devices" else ""
    for seed in range(4):
        right, left = halves(change(Finding(observation, "right", zone, "moderate", kind), seed))
        assert right > 1.5 * left
        right, left = halves(change(Finding(observation, "left", zone, "moderate", kind), seed))
        assert left > 1.5 * right


def test_a_right_effusion_whitens_the_right_lower_zone_only():
    for seed in range(4):
        film = change(Finding("Pleural Effusion", "right", "", "moderate"), seed)
        low = slice(int(0.55 * SIZE), int(0.85 * SIZE))
        assert film[low, : SIZE // 2].mean() > 10
        assert abs(film[low, SIZE // 2 :].mean()) < 1
        assert abs(film[: int(0.4 * SIZE)].mean()) < 1


@pytest.mark.parametrize("observation", ["Lung Opacity", "Lung Lesion", "Consolidation", "Pneumonia"])
def test_a_finding_lies_in_the_zone_that_was_asked_for(observation):
    for seed in range(4):
        heights = []
        for zone in ("upper", "mid", "lower"):
            weight = np.clip(change(Finding(observation, "right", zone), seed), 5, None)[:, : SIZE // 2] - 5
            heights.append(float((weight.sum(axis=1) * np.arange(SIZE)).sum() / weight.sum()))
        assert heights[0] + 5 < heights[1] < heights[2] - 5


def test_a_large_heart_is_wider_on_the_film():
    for seed in range(4):
        film = change(Finding("Cardiomegaly", severity="severe"), seed)
        row = film[int(0.62 * SIZE) : int(0.66 * SIZE)].mean(axis=0)
        assert (row > 20).sum() > 0.08 * SIZE


def test_a_pneumothorax_is_darker_than_lung_and_has_no_vessels():
    for seed in range(4):
        film = change(Finding("Pneumothorax", "left", "", "severe"), seed)
        assert np.percentile(film[int(0.3 * SIZE) : int(0.6 * SIZE), int(0.7 * SIZE) : int(0.85 * SIZE)], 30) < -3


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("view", ["PA", "LATERAL"])
def test_every_device_is_bright(kind, view):
    film = change(Finding("Support Devices", "left" if kind in SIDED_DEVICES else "", kind=kind), view=view)
    assert np.sort(film.ravel())[-20:].mean() > 20
    assert film.min() > -5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"observation": "No Finding"}, "give no findings at all"),
        ({"observation": "Pneumonitis"}, "Pneumonitis"),
        ({"observation": "Pneumonia", "side": "right"}, "zone ''"),
        ({"observation": "Pneumonia", "side": "middle", "zone": "lower"}, "middle"),
        ({"observation": "Pneumothorax", "side": "bilateral"}, "bilateral"),
        ({"observation": "Cardiomegaly", "side": "left"}, "left"),
        ({"observation": "Cardiomegaly", "severity": "huge"}, "huge"),
        ({"observation": "Fracture", "side": "left", "zone": "mid", "kind": "pacemaker"}, "pacemaker"),
        ({"observation": "Support Devices", "kind": "pacemaker"}, "pacemaker"),
    ],
)
def test_a_finding_that_makes_no_sense_is_refused_with_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        Finding(**fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"view": "OBLIQUE"}, "OBLIQUE"),
        ({"image_size": 8}, "image_size 8"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_a_film_that_cannot_be_drawn_is_refused_with_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_phantom([], **{"seed": 0, **arguments})


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
