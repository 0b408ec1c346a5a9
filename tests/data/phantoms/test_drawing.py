"""Phantoms: what is drawn is what was asked for."""

import numpy as np
import pytest

from mambaxray.data.phantoms import (
    VIEWS,
    Finding,
    draw_phantom,
)
from mambaxray.data.phantoms.findings import CHOICES, DEVICES, SEVERITIES, SIDED_DEVICES

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
