"""The papers' report cleaning."""

import hashlib
import json

import pytest

from mambaxray.processing.report_cleaning import CLEANINGS, clean_report


@pytest.mark.parametrize(
    ("style", "digest"),
    [
        ("iu-xray", "14882b7bda2e0031447311b87700ba971fe57a52a7ce417c7d0a8485a0996eb8"),
        ("mimic-cxr", "6898f66a07056163d54902e8e993d9d3f28278fbac63c58669f5535a5bf2fe4b"),
        ("r2gengpt", "3156d7e28a7ed10538c00fbf216e9df4605a4df4925cbcefb3021ec651fa2a32"),
    ],
)
def test_all_real_reports_come_out_as_from_the_released_code(shared_data, style, digest):
    annotation = json.loads((shared_data / "iu_reports" / "annotation.json").read_text(encoding="utf-8"))
    reports = [study["report"] for split in ("train", "val", "test") for study in annotation[split]]
    assert len(reports) == 2955
    cleaned = "\n".join(clean_report(report, style) for report in reports)
    # SHA-256 of what the released functions make of the same reports, joined by line breaks.
    assert hashlib.sha256(cleaned.encode()).hexdigest() == digest


@pytest.mark.parametrize(
    ("style", "report", "cleaned"),
    [
        ("iu-xray", "The heart is normal. Lungs are clear.", "the heart is normal . lungs are clear ."),
        (
            "iu-xray",
            "1. No pneumonia. 2. Stable scarring 3. Old fracture.",
            "no pneumonia . stable scarring . old fracture .",
        ),
        ("iu-xray", 'T-spine; "mild" and/or 5 < 6: [XXXX].', "t-spine mild andor 5  6 xxxx ."),
        ("iu-xray", "No effusion.. Heart\nlarge.", "no effusion . heart\nlarge ."),
        ("iu-xray", "", " ."),
        ("mimic-cxr", "In ___ year,\n lungs:  clear.", "in  year lungs clear ."),
        ("mimic-cxr", "Tip at 4.5 cm. PICC: ok", "tip at 45 cm . picc ok ."),
        ("r2gengpt", "Tip at 4.5 cm. PICC: ok @ 7", "tip at 45 cm . picc : ok @ 7 ."),
    ],
)
def test_worked_examples(style, report, cleaned):
    assert clean_report(report, style) == cleaned


def test_runs_are_halved_as_often_as_in_each_style_and_no_further():
    assert clean_report("a" + "." * 8 + " b", "iu-xray") == "a . b ."
    assert clean_report("a" + "." * 9 + " b", "iu-xray") == "a . b ."
    assert clean_report("." * 64 + " b", "iu-xray") == " . b ."
    assert clean_report("a" + " " * 64 + "b", "mimic-cxr") == "a b ."
    assert clean_report("a" + " " * 65 + "b", "mimic-cxr") == "a  b ."


def test_an_unknown_style_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="unknown report cleaning 'iu'; there are iu-xray, mimic-cxr, r2gengpt"):
        clean_report("Clear.", "iu")
    assert CLEANINGS == ("iu-xray", "mimic-cxr", "r2gengpt")
