"""Reports for phantoms: a grammar whose every sentence knows which labels it states.

The rules of the labels, exact by construction (no hedged sentence is ever written, so there is no -1):

- every finding is mentioned: its observation is 1;
- an absent observation is 0 where a sentence denies it *by name* ("No pleural effusion", "The heart size is
  normal" for Cardiomegaly, "The mediastinal contours are normal" for Enlarged Cardiomediastinum), else None;
- a general remark ("The lungs are clear", "No acute bony abnormality") names no observation and sets none;
- an observation's words are used for it alone: only Lung Opacity is called an opacity, only Consolidation a
  consolidation, and so on;
- No Finding is 1 when no observation but Support Devices is present, else 0;
- in a report that compares, every finding but a device is said with its change, in both sections, and what has resolved
  is said to, which makes it 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import ABSENT, NOT_MENTIONED, OBSERVATIONS, PRESENT
from .finding_sentences import (
    state,
    state_resolved,
    summarize,
    summarize_change,
    summarize_device,
    summarize_resolved,
    with_change,
)
from .findings import Finding
from .grammar import Sentence, as_sentence, pick
from .normal_sentences import LUNG_OBSERVATIONS, fillers, normal_sentences


@dataclass(frozen=True)
class Report:
    """A report by section, and what it states."""

    findings: str
    impression: str
    labels: dict[str, int | None]

    @property
    def text(self) -> str:
        """Both sections as one text."""
        return f"{self.findings} {self.impression}"


_SHORTEST = 27
"""Words below which a report is filled up with normal remarks."""
_BLOCK = {
    **dict.fromkeys(LUNG_OBSERVATIONS, "lungs"),
    "Cardiomegaly": "heart",
    "Enlarged Cardiomediastinum": "heart",
    "Pneumothorax": "pleura",
    "Pleural Effusion": "pleura",
    "Pleural Other": "pleura",
    "Fracture": "bones",
    "Support Devices": "devices",
}
_ORDERS = (
    ("heart", "lungs", "pleura", "bones", "devices"),
    ("devices", "heart", "lungs", "pleura", "bones"),
    ("lungs", "pleura", "heart", "bones", "devices"),
    ("lungs", "pleura", "heart", "devices", "bones"),
    ("heart", "lungs", "pleura", "devices", "bones"),
    ("devices", "lungs", "pleura", "heart", "bones"),
)


def write_report(
    findings: Sequence[Finding],
    rng: np.random.Generator,
    changes: Mapping[str, str] | None = None,
    gone: Sequence[Finding] = (),
) -> Report:
    """A report of what these findings (their kinds filled in) and nothing else show.

    Args:
        findings: what is to be seen.
        rng: decides wording, order and which absent observations are denied.
        changes: how each observation compares with the prior study; None for a report without a comparison.
        gone: findings of the prior study that have resolved, which the report says.
    """
    changes = changes or {}
    present = {finding.observation for finding in findings}
    shuffled = [findings[i] for i in rng.permutation(len(findings))]
    stated = [Sentence(_BLOCK[f.observation], _statement(f, rng, changes)) for f in shuffled]
    stated += [Sentence(_BLOCK[f.observation], state_resolved(f, rng), (f.observation,)) for f in gone]
    impression = _impression(findings, rng, changes, gone)
    words = len(impression.split()) + sum(len(s.text.split()) for s in stated)
    goal = rng.integers(30, 58)
    for sentence in normal_sentences(present, rng):
        length = len(sentence.text.split())
        if words + length <= goal or words < _SHORTEST:
            stated.append(sentence)
            words += length
    for sentence in fillers(present, rng):
        if words < (goal - 5 if not present else _SHORTEST):
            stated.append(sentence)
            words += len(sentence.text.split())
    order = _ORDERS[rng.integers(len(_ORDERS))]
    stated.sort(key=lambda sentence: order.index(sentence.block))
    denied = {observation for sentence in stated for observation in sentence.denies}
    return Report(" ".join(s.text for s in stated), impression, _labels(present, denied))


def _statement(finding: Finding, rng: np.random.Generator, changes: Mapping[str, str]) -> str:
    sentence = state(finding, rng)
    change = changes.get(finding.observation)
    return sentence if change is None else with_change(sentence, change, rng)


def _labels(present: set[str], denied: set[str]) -> dict[str, int | None]:
    labels: dict[str, int | None] = {
        name: PRESENT if name in present else ABSENT if name in denied else NOT_MENTIONED for name in OBSERVATIONS
    }
    labels["No Finding"] = ABSENT if present - {"Support Devices"} else PRESENT
    return labels


def _impression(
    findings: Sequence[Finding], rng: np.random.Generator, changes: Mapping[str, str], gone: Sequence[Finding]
) -> str:
    shown = [f for f in findings if f.observation != "Support Devices"]
    devices = [f for f in findings if f.observation == "Support Devices"]
    lines = [_summary(f, rng, changes) for f in rng.permutation(np.array(shown, dtype=object))]
    lines += [summarize_resolved(f, rng) for f in gone]
    if not shown:
        lines.append(
            pick(
                rng,
                (
                    "no acute cardiopulmonary abnormality",
                    "no acute cardiopulmonary disease",
                    "no acute cardiopulmonary findings",
                    "no acute cardiopulmonary process",
                    "no evidence of active disease",
                    "no acute disease",
                    "negative for acute abnormality",
                    "no acute radiographic cardiopulmonary process",
                )
                + (() if devices else ("normal chest", "normal chest radiograph")),
            )
        )
    if devices and rng.uniform() < 0.4:
        lines.append(
            pick(
                rng,
                (
                    "support devices as described",
                    "support devices in satisfactory position",
                    summarize_device(devices[0]),
                ),
            )
        )
    sentences = [as_sentence(line) for line in lines]
    if len(sentences) > 1 and rng.uniform() < 0.5:
        sentences = [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    return " ".join(sentences)


def _summary(finding: Finding, rng: np.random.Generator, changes: Mapping[str, str]) -> str:
    summary = summarize(finding, rng)
    change = changes.get(finding.observation)
    return summary if change is None else summarize_change(summary, change, rng)
