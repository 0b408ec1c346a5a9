"""Phantom reports: labels and statements agree, wording varies, and it reads like the real thing."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from mambaxray.data.phantoms import make_study
from mambaxray.data.phantoms.findings import CHOICES, SEVERITIES, SIDED_DEVICES, Finding
from mambaxray.data.phantoms.report import write_report
from mambaxray.data.schema import OBSERVATIONS

NAMED_BY = {
    "Cardiomegaly": r"cardiomegaly|heart|cardiac silhouette",
    "Enlarged Cardiomediastinum": r"mediastin",
    "Lung Opacity": r"opacit",
    "Lung Lesion": r"nodule|mass",
    "Edema": r"edema",
    "Consolidation": r"consolidation",
    "Pneumonia": r"pneumonia",
    "Atelectasis": r"atelectasis",
    "Pneumothorax": r"pneumothorax",
    "Pleural Effusion": r"effusion",
    "Pleural Other": r"pleural thickening|pleural plaques",
    "Fracture": r"fracture",
    "Support Devices": r"tube|catheter|central line|pacemaker",
}
DENIAL = re.compile(r"\b(no|negative for|without|normal|unremarkable|within normal limits)\b", re.IGNORECASE)
STUDIES = 500


@pytest.fixture(scope="module")
def studies():
    return [make_study(seed, image_size=32) for seed in range(STUDIES)]


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=\.)\s+(?:\d\. )?", text) if part.strip(" .")]


def stated(name: str, text: str) -> set[bool]:
    """Whether the observation is affirmed (True), denied (False), both or neither in a report."""
    naming = [part for part in sentences(text) if re.search(NAMED_BY[name], part, re.IGNORECASE)]
    return {DENIAL.search(part) is None for part in naming}


def test_a_report_affirms_what_is_present_denies_what_is_labelled_absent_and_names_nothing_else(studies):
    for study in studies:
        for name in NAMED_BY:
            expected = {1: {True}, 0: {False}, None: set()}[study["labels"][name]]
            assert stated(name, study["findings"]) == expected, (name, study["report"])
            assert stated(name, study["report"]) <= expected, (name, study["report"])


def test_no_finding_means_nothing_but_devices(studies):
    for study in studies:
        labels = study["labels"]
        present = {name for name, value in labels.items() if value == 1} - {"No Finding", "Support Devices"}
        assert labels["No Finding"] == (0 if present else 1)


def test_every_observation_is_common_enough_to_be_learned(studies):
    present = Counter(name for study in studies for name, value in study["labels"].items() if value == 1)
    for name in OBSERVATIONS:
        assert present[name] / STUDIES > 0.05, name
    assert 0.17 < present["No Finding"] / STUDIES < 0.28


def test_reports_hardly_ever_repeat(studies):
    assert len({study["report"] for study in studies}) > 0.95 * STUDIES


def test_reports_have_the_length_of_real_ones(studies):
    lengths = [len(study["report"].split()) for study in studies]
    assert min(lengths) >= 20
    assert max(lengths) <= 75
    assert 30 < np.mean(lengths) < 50


def test_reports_are_written_in_clean_sentences(studies):
    for study in studies:
        for part in sentences(study["findings"]):
            assert re.fullmatch(r"[A-Z][A-Za-z, -]+\.", part), part
            assert not re.search(r"  |\ba [aeio]|\ban [^aeio]", part), part


@pytest.mark.parametrize("observation", CHOICES)
def test_every_finding_is_described_with_its_side_and_in_several_ways(observation):
    choices = CHOICES[observation]
    for side in choices.sides:
        for severity in SEVERITIES:
            for kind in choices.kinds:
                if observation == "Support Devices" and bool(side) != (kind in SIDED_DEVICES):
                    continue
                finding = Finding(observation, side, choices.zones[-1], severity, kind)
                reports = [write_report([finding], np.random.default_rng(seed)) for seed in range(12)]
                ways = {
                    part for report in reports for part in sentences(report.findings) if is_about(part, observation)
                }
                assert len(ways) > 1, finding
                if side in ("left", "right") and observation != "Lung Opacity":
                    other = {"left": "right", "right": "left"}[side]
                    for way in ways:
                        assert other not in way.lower().replace("right atrium and right ventricle", ""), way
                        assert side in way.lower() or "lingula" in way.lower(), way


def is_about(sentence: str, observation: str) -> bool:
    return bool(re.search(NAMED_BY[observation], sentence, re.IGNORECASE)) and not DENIAL.search(sentence)


def test_the_order_of_the_sections_varies(studies):
    first = Counter(sentences(study["findings"])[0].split()[0] for study in studies)
    assert len(first) > 8
    assert first.most_common(1)[0][1] < 0.5 * STUDIES


def test_most_words_are_words_of_real_reports(studies, shared_data):
    real = json.loads((shared_data / "iu_reports" / "annotation.json").read_text())
    known = {word for split in real.values() for study in split for word in words(study["report"])}
    with (shared_data / "iu_reports" / "mesh_labels_dev.jsonl").open() as lines:
        for study in map(json.loads, lines):
            known.update(words(study["findings"] + " " + study["impression"]))
    ours = Counter(word for study in studies for word in words(study["report"]))
    unknown = {word: count for word, count in ours.items() if word not in known}
    assert sum(unknown.values()) < 0.02 * sum(ours.values()), unknown


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
