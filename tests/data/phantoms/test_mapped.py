"""Maps of where a phantom's findings show."""

import numpy as np
import pytest

from mambaxray.data.phantoms import Finding, draw_finding_maps, draw_phantom, make_mapped_phantoms, make_phantoms
from mambaxray.data.phantoms.findings import CHOICES
from mambaxray.data.schema import OBSERVATIONS

SEVERE = [
    Finding(name, str(choices.sides[0]), str(choices.zones[0]), "severe", str(choices.kinds[0]))
    for name, choices in CHOICES.items()
    if name != "Support Devices"
] + [Finding("Support Devices", kind="endotracheal tube")]


@pytest.mark.parametrize("finding", SEVERE, ids=lambda finding: finding.observation)
def test_a_map_covers_where_the_film_changes(finding):
    film, maps = draw_finding_maps([finding], seed=4, image_size=96)
    assert set(maps) == {finding.observation}
    shown = maps[finding.observation]
    assert shown.any()
    assert np.array_equal(film, draw_phantom([finding], seed=4, image_size=96))
    change = np.abs(film.astype(int) - draw_phantom([], seed=4, image_size=96))
    assert change[shown].mean() > 2 * change[~shown].mean()


def test_a_map_lies_on_the_finding_s_side():
    for side, half in (("right", np.s_[:, :48]), ("left", np.s_[:, 48:])):
        _, maps = draw_finding_maps([Finding("Lung Lesion", side, "mid", "severe")], seed=1, image_size=96)
        shown = maps["Lung Lesion"]
        assert shown[half].sum() > 0.95 * shown.sum()


def test_maps_of_several_findings_are_told_apart():
    findings = [Finding("Lung Lesion", "left", "upper", "severe"), Finding("Pleural Effusion", "right", "", "severe")]
    _, maps = draw_finding_maps(findings, seed=2, image_size=96)
    assert not (maps["Lung Lesion"] & maps["Pleural Effusion"]).any()


def test_rows_are_the_same_for_any_number_of_processes():
    one = make_mapped_phantoms(12, seed=3, image_size=64, grid_size=4)
    two = make_mapped_phantoms(12, seed=3, image_size=64, grid_size=4, num_proc=2)
    for a, b in zip(one, two, strict=True):
        assert a["finding_maps"] == b["finding_maps"]
        assert np.array_equal(np.asarray(a["images"][0]), np.asarray(b["images"][0]))


def test_every_observation_but_no_finding_is_shown_somewhere():
    maps = np.reshape(make_mapped_phantoms(60, seed=3, image_size=64, grid_size=4)["finding_maps"], (-1, 14))
    shown = dict(zip(OBSERVATIONS, maps.any(axis=0), strict=True))
    assert shown == {name: name != "No Finding" for name in OBSERVATIONS}


def test_mapped_phantoms_are_other_patients_than_those_of_the_data_set():
    studies = make_phantoms(8, seed=0, image_size=64, splits={"train": 1.0})["train"]
    films = {np.asarray(study["images"][0]).tobytes() for study in studies}
    mapped = make_mapped_phantoms(8, seed=0, image_size=64, grid_size=4)
    assert not films & {np.asarray(row["images"][0]).tobytes() for row in mapped}


def test_a_grid_that_does_not_divide_the_image_is_refused():
    with pytest.raises(ValueError, match="64 is not a multiple of grid_size 5"):
        make_mapped_phantoms(1, image_size=64, grid_size=5)
