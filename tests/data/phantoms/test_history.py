"""Phantoms with a history: what changes is drawn, said and known, and phantoms without one stay as they were."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from mambaxray import make_phantoms
from mambaxray.data.phantoms import CHANGES, Finding, draw_phantom, make_study, sample_history
from mambaxray.data.phantoms.sampling import clash
from mambaxray.evaluation.labeler import CheXpertStyleLabeler

HISTORIES = 400


def test_phantoms_without_a_history_are_the_bytes_they_were():
    studies = [make_study(seed, image_size=64, views=("PA", "LATERAL", "AP")) for seed in range(40)]
    films = hashlib.sha256(b"".join(image.tobytes() for study in studies for image in study["images"]))
    texts = [{k: v for k, v in s.items() if k not in ("images", "technique", "prior")} for s in studies]
    assert films.hexdigest()[:12] == "bcead5ffabfa"
    assert hashlib.sha256(repr(texts).encode()).hexdigest()[:12] == "9ecb59dd310d"


def severity(findings, name):
    return next((finding.degree for finding in findings if finding.observation == name), None)


def test_the_changes_are_those_between_the_two_studies():
    for seed in range(HISTORIES):
        history = sample_history(seed)
        first, second = history.visits
        names = {f.observation for f in (*first, *second)} - {"Support Devices"}
        assert set(history.changes) == names
        for name, change in history.changes.items():
            before, after = severity(first, name), severity(second, name)
            expected = {
                "new": before is None,
                "resolved": after is None,
                "unchanged": before == after,
                "improved": None not in (before, after) and after < before,
                "worse": None not in (before, after) and after > before,
            }
            assert expected[change], (seed, name, change)
        assert [f for f in first if f.observation == "Support Devices"] == [
            f for f in second if f.observation == "Support Devices"
        ]
        assert set(history.gone) == {f for f in first if history.changes.get(f.observation) == "resolved"}


def test_no_finding_of_the_second_study_hides_another():
    for seed in range(HISTORIES):
        second = sample_history(seed).visits[1]
        assert not any(clash(one, other) for i, one in enumerate(second) for other in second[:i])


def test_every_change_is_common_enough_to_be_learned():
    counts = Counter(change for seed in range(HISTORIES) for change in sample_history(seed).changes.values())
    assert set(counts) == set(CHANGES)
    assert min(counts.values()) > 0.08 * sum(counts.values())


def test_fractures_do_not_heal_before_they_are_seen():
    for seed in range(HISTORIES):
        history = sample_history(seed)
        if history.changes.get("Fracture") == "new":
            assert next(f for f in history.visits[1] if f.observation == "Fracture").kind == "acute"


def test_the_labeler_reads_the_labels_and_every_change_of_a_follow_up():
    labeler = CheXpertStyleLabeler()
    for seed in range(HISTORIES):
        study = make_study(seed, image_size=32, visit=1)
        assert labeler(study["report"]) == study["labels"], study["report"]
        for section in ("findings", "impression"):
            read: dict[str, set[str]] = {}
            for mention in labeler.read(study[section]).mentions:
                for detail in mention.details:
                    if detail.change:
                        read.setdefault(mention.observation, set()).add(detail.change)
            assert read == {name: {change} for name, change in sample_history(seed).changes.items()}, study[section]


def test_a_first_report_compares_with_nothing():
    labeler = CheXpertStyleLabeler()
    for seed in range(100):
        mentions = labeler.read(make_study(seed, image_size=32, visit=0)["report"]).mentions
        assert not any(detail.change for mention in mentions for detail in mention.details)


def test_a_finding_stays_in_its_place_whatever_else_is_shown():
    nodule = Finding("Lung Lesion", "right", "mid", "moderate")
    other = Finding("Cardiomegaly")  # stands before it in the order of names

    def nodule_of(findings):
        shown = draw_phantom([*findings, nodule], seed=5, visit=0, image_size=128).astype(int)
        return np.abs(shown - draw_phantom(findings, seed=5, visit=0, image_size=128).astype(int)) > 10

    alone, beside = nodule_of([]), nodule_of([other])
    assert (alone & beside).sum() > 0.8 * (alone | beside).sum()


def test_the_second_film_of_a_person_has_a_pose_and_an_exposure_of_its_own():
    plain, first, second = (draw_phantom([], seed=3, visit=visit, image_size=64) for visit in (None, 0, 1))
    assert np.array_equal(plain, first)
    assert (first != second).mean() > 0.5


@pytest.fixture(scope="module")
def phantoms():
    return make_phantoms(40, seed=1, image_size=32, history=True)


def test_every_patient_has_two_studies_in_one_split_and_the_second_shows_the_first(phantoms):
    assert {name: len(split) for name, split in phantoms.items()} == {"train": 32, "validation": 4, "test": 4}
    patients = [set(split["patient_id"]) for split in phantoms.values()]
    assert len(set.union(*patients)) == sum(map(len, patients)) == 20
    for split in phantoms.values():
        for first, second in zip(list(split)[::2], list(split)[1::2], strict=True):
            assert first["patient_id"] == second["patient_id"]
            assert (first["prior"], second["prior"]) == ("", first["study_id"])
            assert second["prior_report"] == first["report"]
            assert np.array_equal(np.asarray(second["prior_images"][0]), np.asarray(first["images"][0]))
            assert first["prior_images"] == []


def test_it_is_the_same_for_any_number_of_processes(phantoms):
    again = make_phantoms(40, seed=1, image_size=32, history=True, num_proc=2)
    for name, split in phantoms.items():
        assert split.data.to_pydict() == again[name].data.to_pydict()


def test_impossible_histories_are_refused():
    with pytest.raises(ValueError, match="num_studies is 3: patients with a history have two studies each"):
        make_phantoms(3, history=True)
    with pytest.raises(ValueError, match="visit 2 must be 0 or 1"):
        make_study(1, visit=2)
    with pytest.raises(ValueError, match="its findings are those of the seed's history"):
        make_study(1, visit=1, findings=[])
