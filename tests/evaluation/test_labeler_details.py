"""Where the labeler reads a finding to be, how large and how changed: statements, real reports, phantoms'."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mambaxray.data.phantoms.drawing import complete_findings
from mambaxray.data.phantoms.findings import Finding
from mambaxray.data.phantoms.report import write_report
from mambaxray.data.phantoms.sampling import sample_findings
from mambaxray.data.phantoms.streams import REPORT, stream
from mambaxray.data.schema import ABSENT, PRESENT
from mambaxray.evaluation.labeler import CheXpertStyleLabeler
from mambaxray.evaluation.labeler_detail_words import LOBES, level_of
from mambaxray.evaluation.labeler_details import Detail
from mambaxray.evaluation.located_labels import LocatedFinding, locate

labeler = CheXpertStyleLabeler()
HERE = Path(__file__).parent

SHORT = {
    "ptx": "Pneumothorax",
    "eff": "Pleural Effusion",
    "ed": "Edema",
    "con": "Consolidation",
    "frac": "Fracture",
    "dev": "Support Devices",
    "pna": "Pneumonia",
    "atel": "Atelectasis",
    "les": "Lung Lesion",
    "op": "Lung Opacity",
    "card": "Cardiomegaly",
    "med": "Enlarged Cardiomediastinum",
    "plo": "Pleural Other",
}
ABBREVIATIONS = {name: short for short, (_, _, name) in LOBES.items()}


def annotations(file: str) -> dict[str, list[tuple[str, dict[str, set[str]]]]]:
    """Statements by kind, each with what it says of each finding."""
    kinds: dict[str, list[tuple[str, dict[str, set[str]]]]] = {"": []}
    rows = kinds[""]
    for line in (HERE / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kinds[line.strip("[]")] = rows = []
        elif " | " in line:
            text, _, said = line.rpartition(" | ")
            findings = (part.split() for part in said.split("; "))
            rows.append((text, {SHORT[name]: set(words) for name, *words in findings}))
    return {kind: rows for kind, rows in kinds.items() if rows}


def said_of_findings(text: str) -> dict[str, set[str]]:
    """The same as the labeler reads it, of what is stated or suspected."""
    details: dict[str, list[Detail]] = {}
    for mention in labeler.mentions(text):
        if mention.value != ABSENT:
            details.setdefault(mention.observation, []).extend(d for d in mention.details if d != Detail())
    said = {}
    for name, each in details.items():
        finding = LocatedFinding(tuple(each))
        words = [finding.side, *finding.zones, *(ABBREVIATIONS[lobe] for lobe in finding.lobes)]
        said[name] = {word for word in (*words, "-".join(finding.severity()), finding.change) if word}
    return said


STATEMENTS = annotations("located_statements.txt")


@pytest.mark.parametrize("kind", STATEMENTS)
def test_statements_say_where_how_large_and_how_changed(kind: str) -> None:
    wrong = [(text, want, got) for text, want in STATEMENTS[kind] if (got := said_of_findings(text)) != want]
    assert not wrong


def test_statements_of_real_reports_agree_with_annotations_by_hand(shared_data: Path) -> None:
    wanted = dict(annotations("located_iu_statements.txt")[""])
    assert len(wanted) >= 150
    found = {key: text for text in real_sentences(shared_data) if (key := digest(text)) in wanted}
    assert found.keys() == wanted.keys()
    wrong = []
    for key, text in found.items():
        said = said_of_findings(text)
        if any(said.get(name) != words for name, words in wanted[key].items()):
            wrong.append((text, wanted[key], said))
    assert len(wrong) <= 0.02 * len(wanted), wrong


def real_sentences(shared_data: Path) -> Iterator[str]:
    for line in (shared_data / "iu_reports" / "mesh_labels_dev.jsonl").read_text(encoding="utf-8").splitlines():
        report = json.loads(line)
        for section in (report["findings"], report["impression"]):
            yield from (sentence.strip() for sentence in re.split(r"(?<=[.;])\s+", section or ""))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


GRADES = {"mild": {"minimal", "small"}, "moderate": {"moderate"}, "severe": {"large"}}
# What the phantoms' sentences leave out: edema is on both sides as a matter of course, ribs and devices have no zone
# and no size, thickening of the pleura at mid height is "lateral", plaques are only on a side.
NO_SIDE, NO_ZONE, NO_SIZE = {"Edema"}, {"Fracture", "Pleural Other"}, {"Fracture", "Support Devices"}


def test_phantoms_reports_say_what_was_drawn() -> None:
    checks: dict[str, list[bool]] = {"side": [], "zone": [], "severity": []}
    for seed in range(2000):
        drawn: dict[str, list[Finding]] = {}
        findings = complete_findings(sample_findings(seed), seed)
        for finding in findings:
            drawn.setdefault(finding.observation, []).append(finding)
        read = locate(labeler.read(write_report(findings, stream(seed, REPORT)).text)).present
        assert set(read) - {"No Finding"} == set(drawn)
        for name, each in drawn.items():
            sides = set() if name in NO_SIDE else {side for finding in each for side in finding.sides}
            checks["side"].append(read[name].sides == sides)
            zones = {finding.zone for finding in each} - {""}
            if zones and name not in NO_ZONE:
                checks["zone"].append({level_of(zone) for zone in read[name].zones} == zones)
            if name not in NO_SIZE:
                size = read[name].severity()
                checks["severity"].append(bool(size) and set(size) <= GRADES[each[0].severity])
    assert all(len(results) > 1000 for results in checks.values())
    shares = {name: sum(results) / len(results) for name, results in checks.items()}
    assert min(shares.values()) >= 0.99, shares


def test_a_side_that_stands_for_a_finding_has_a_label_of_its_own() -> None:
    assert labeler("No left effusion but small right.")["Pleural Effusion"] == PRESENT
    assert labeler("Left effusion but none on the right.")["Pleural Effusion"] == PRESENT
    assert labeler("No effusion on the left or right.")["Pleural Effusion"] == ABSENT
    assert labeler("No effusion on the left, and none on the right.")["Pleural Effusion"] == ABSENT


def test_what_is_gone_is_resolved() -> None:
    (mention,) = labeler.mentions("The left effusion has resolved.")
    assert (mention.value, mention.details) == (ABSENT, (Detail("left", change="resolved"),))


def test_sizes_of_both_sides_are_told_apart() -> None:
    (mention,) = labeler.mentions("Small left and moderate right pleural effusions.")
    assert mention.details == (Detail("left", severity=("small",)), Detail("right", severity=("moderate",)))
    (mention,) = labeler.mentions("Right lower lobe and left base opacities.")
    assert mention.details == (Detail("right", ("lower",), ("right lower lobe",)), Detail("left", ("basal",)))
