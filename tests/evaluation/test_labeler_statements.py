"""Kinds of statements: single ones with what they say, and hundreds made from templates that know it."""

import json
import random
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.labeler import CheXpertStyleLabeler

labeler = CheXpertStyleLabeler()

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
    "nf": "No Finding",
}


def statements() -> dict[str, list[tuple[str, dict[str, int | None]]]]:
    """Sentences by kind, each with the values that it gives."""
    kinds: dict[str, list[tuple[str, dict[str, int | None]]]] = {}
    for line in (Path(__file__).parent / "labeled_statements.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kinds[line.strip("[]")] = rows = []
        elif " | " in line:
            text, _, values = line.rpartition(" | ")
            pairs = re.findall(r"([a-z]+?)(-?\d|n)(?: |$)", values)
            assert len(pairs) == len(values.split())
            expected = {SHORT[name]: None if value == "n" else int(value) for name, value in pairs}
            rows.append((text.replace("^", "\n"), expected))
    return kinds


STATEMENTS = statements()


@pytest.mark.parametrize("kind", STATEMENTS)
def test_statements_of_a_kind_are_read_as_they_are_meant(kind):
    wrong = []
    for text, expected in STATEMENTS[kind]:
        labels = labeler(text)
        if any(labels[name] != value for name, value in expected.items()):
            wrong.append((text, expected, {name: value for name, value in labels.items() if value is not None}))
    assert not wrong


FINDINGS = {
    "pneumothorax": "Pneumothorax",
    "pleural effusion": "Pleural Effusion",
    "consolidation": "Consolidation",
    "pulmonary edema": "Edema",
    "pneumonia": "Pneumonia",
    "atelectasis": "Atelectasis",
    "pulmonary nodule": "Lung Lesion",
    "rib fracture": "Fracture",
    "airspace opacity": "Lung Opacity",
    "cardiomegaly": "Cardiomegaly",
}
# What stands for a word in braces; a, b and c are findings.
WORDS = {
    "no": "No|No evidence of|There is no|Without|No definite|Negative for|Free of|Without evidence of|No acute"
    "|No large",
    "opens": "small|mild|moderate|worsening|stable|unchanged|persistent|left|bilateral|improving|trace"
    "|unchanged small left",
    "has": "is unchanged|has worsened|has improved|is stable|persists|is slightly larger|has decreased in size"
    "|is again seen",
    "hedge": "Possible|Questionable|Cannot exclude|Suspected|May represent|Suggestive of|Concerning for"
    "|Cannot rule out|Difficult to exclude|Unable to exclude|Query|Consider|?|Findings may reflect"
    "|Equivocal",
    "hedged": "is possible|is suspected|cannot be excluded|is not excluded|is less likely|is thought unlikely"
    "|is doubtful|?|may be present|cannot be ruled out|is difficult to exclude|is not likely|suspected"
    "|not excluded|less likely|is unlikely",
    "gone": "has resolved|is no longer seen|is not seen|has cleared|is absent|has been ruled out"
    "|is no longer visualized|is gone|has since resolved|is not visualized on the current study|not seen",
    "partly": "has nearly resolved|has partially resolved|has mostly resolved|has incompletely resolved"
    "|is nearly gone|has not resolved|is resolving|has almost completely resolved"
    "|is not significantly changed|shows no change",
    "less": "Incomplete resolution of the|Partial resolution of the|Slow resolution of the|Some clearing of the"
    "|Near complete resolution of the|No relevant change in the|No further increase in the"
    "|No real change in the|Little change in the|Without significant change in the|Nearly resolved"
    "|Unresolved|No short-term change of the",
    "new": "not previously seen|not present yesterday|not seen on the prior study|not evident before"
    "|not seen previously|that was not present on the prior exam|which was not seen yesterday"
    "|previously not seen",
    "given": "despite the|after development of|in the presence of|within the|adjacent to the|associated with the"
    "|around the",
    "limited": "limited by|limited due to|limited because of|hampered by|difficult given|obscured by",
    "nothing": "Nothing to suggest|Absent|Ruled out|No longer visualized|Fails to demonstrate|Lack of"
    "|Interval resolution of|Resolved|Does not demonstrate|Interval clearing of",
    "task": "Evaluate for|History of|Rule out|Recommend CT to exclude|If clinically concerned for"
    "|Correlate clinically for",
    "rather": "as opposed to|instead of|rather than",
    "stop": ", |; | - |. | and | but | with |; however, | though ",
}
TEMPLATES = {  # values of a, b and c; what a template does not name is not mentioned
    "a negated list stays negated": (
        ("{no} {a}, {b} or {c}.", (0, 0, 0)),
        ("{no} {a}, large {b} or focal {c}.", (0, 0, 0)),
        ("{no} {a}, new {b} and large {c}.", (0, 0, 0)),
        ("{no} {a} or {b} is seen.", (0, 0)),
    ),
    "a negation ends at a new statement": (
        ("{no} {a}{stop}{opens} {b}.", (0, 1)),
        ("{no} {a} ({opens} {b}).", (0, 1)),
        ("{no} {a} or {b}{stop}{opens} {c}.", (0, 0, 1)),
        ("{no} {a} with {opens} {b} and {c}.", (0, 1, 1)),
    ),
    "a predicate makes a new statement": (
        ("{no} {a}, {b} {has}.", (0, 1)),
        ("{no} {a} and the {b} {has}.", (0, 1)),
        ("{no} {a} (left {b} {has}).", (0, 1)),
        ("{no} {a}, the {b} {partly}.", (0, 1)),
    ),
    "a hedge in front": (("{hedge} {a}.", (-1,)), ("{hedge} {a} or {b}.", (-1, -1))),
    "a hedge behind": (
        ("Early {a} {hedged}.", (-1,)),
        ("Stable {a}, {b} {hedged}.", (1, -1)),
        ("{no} {a}, but {b} {hedged}.", (0, -1)),
    ),
    "what is gone": (
        ("The previously seen {a} {gone}.", (0,)),
        ("Stable {a}, {b} {gone}.", (1, 0)),
        ("The {a} persists and {b} {gone}.", (1, 0)),
        ("The {a} {gone}, {opens} {b}.", (0, 1)),
        ("{nothing} {a}.", (0,)),
    ),
    "what is not quite gone": (("The {a} {partly}.", (1,)), ("{less} {a}.", (1,)), ("{less} {a}. {no} {b}.", (1, 0))),
    "what is new": (("A {a}, {new}.", (1,)), ("There is a {a} {new}.", (1,))),
    "what is taken for granted": (
        ("No {a} {given} {b}.", (0, 1)),
        ("Evaluation of the heart is {limited} the {a}.", (1,)),
        ("Evaluation of the lungs is {limited} large {a}.", (1,)),
    ),
    "one or the other": (
        ("Favor {a} over {b}.", (1, -1)),
        ("Either {a} or {b}.", (-1, -1)),
        ("Likely {a} {rather} {b}.", (1, 0)),
        ("Likely {a}, less likely {b}.", (1, -1)),
    ),
    "what is asked for": (("{task} {a}.", ()),),
    "sentences that end without a full stop and a blank": (
        ("{no} {a} 2.{opens} {b} 3.{no} {c}", (0, 1, 0)),
        ("1) {no} {a} 2) {opens} {b} 3) {no} {c}", (0, 1, 0)),
        ("{no} {a} or\n{B}.", (0, 0)),
        ("{no} {a}.{opens} {b} {has}.", (0, 1)),
        ("{no} {a}\n{Opens} {b}\n{no} {c}", (0, 1, 0)),
    ),
}


MADE = 300
"""Sentences of each kind of template."""


def made(kind: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Sentences from the templates of a kind, the same ones each time, and all that they say."""
    rng = random.Random(kind)
    for i in range(MADE):
        template, values = TEMPLATES[kind][i % len(TEMPLATES[kind])]
        names = rng.sample(sorted(FINDINGS), 3)
        words = {key: rng.choice(choices.split("|")) for key, choices in WORDS.items()}
        text = template.format(
            **words, **dict(zip("abc", names, strict=True)), B=names[1].capitalize(), Opens=words["opens"].capitalize()
        )
        yield text, {FINDINGS[name]: value for name, value in zip(names, values, strict=False)}


def stated(text: str) -> dict[str, int]:
    """The labels that are not None, No Finding aside."""
    return {name: value for name, value in labeler(text).items() if value is not None and name != "No Finding"}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_sentences_made_from_templates_say_what_the_templates_say_and_nothing_else(kind):
    wrong = [(text, expected, stated(text)) for text, expected in made(kind) if stated(text) != expected]
    assert not wrong, wrong[:5]


REPORTS = [make_study(seed, image_size=32)["report"] for seed in range(60)] + [
    " ".join(text.rstrip(".") + "." for text, _ in STATEMENTS[kind] if "\n" not in text)
    for kind in ("Partly resolved", "Devices", "Heart and mediastinum", "Hedges behind and in front")
]


def sentences_of(report: str) -> list[str]:
    return re.split(r"(?<=\.)\s+(?=[A-Z])", report)


@pytest.mark.parametrize(
    "write",
    [
        str.upper,
        str.lower,
        *(lambda report, width=width: textwrap.fill(report, width) for width in (24, 40, 80)),
        *(lambda report, width=width: textwrap.fill(report.upper(), width) for width in (24, 40, 80)),
        lambda report: textwrap.fill(report, 50, subsequent_indent="    "),
        lambda report: " ".join(f"{i}. {s}" for i, s in enumerate(sentences_of(report), 1)),
        lambda report: "\n".join(f"{i}) {s}" for i, s in enumerate(sentences_of(report), 1)),
        lambda report: " ".join(f"{i}.{s}" for i, s in enumerate(sentences_of(report), 1)),
        lambda report: "\n".join(s.rstrip(".").upper() for s in sentences_of(report)),
        lambda report: "\n".join(sentences_of(report)),
    ],
    ids=lambda write: None,
)
def test_case_line_breaks_and_numbers_change_no_label(write):
    assert [report for report in REPORTS if labeler(write(report)) != labeler(report)] == []


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_negated_list_changes_no_other_label(kind):
    rng = random.Random(kind)
    for text, _ in made(kind):
        absent = rng.sample(sorted(FINDINGS), 3)
        denied = "{no} {}, {} or {}.".format(*absent, no=rng.choice(WORDS["no"].split("|")))
        before, after = stated(text), stated(f"{text} {denied}" if text.endswith(".") else f"{text}. {denied}")
        named = {FINDINGS[name] for name in absent}
        assert {k: v for k, v in after.items() if k not in named} == {k: v for k, v in before.items() if k not in named}
        assert all(after[name] == before.get(name, 0) for name in named), (text, denied)


def test_statements_of_real_reports_keep_their_labels_in_capitals_and_wrapped(shared_data: Path):
    lines = (shared_data / "iu_reports" / "mesh_labels_dev.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [f"{r['findings']} {r['impression']}" for r in map(json.loads, lines[:600])]
    changed = sum(labeler(write(t)) != labeler(t) for t in texts for write in (str.upper, textwrap.fill))
    assert changed <= 2
