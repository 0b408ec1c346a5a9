"""A rule-based labeler of chest X-ray reports: which of the 14 CheXpert observations a text states.

`CheXpertStyleLabeler` does the task that Irvin et al. (AAAI 2019, "Label Extraction from Radiology Reports") set:
find mentions, classify each as present, absent or uncertain, aggregate. Its rules are its own: it is neither the
CheXpert labeler nor CheXbert, and its numbers must not be reported under their names.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..data.schema import ABSENT, NOT_MENTIONED, OBSERVATIONS, PRESENT, UNCERTAIN
from .labeler_vocabulary import BOUNDARY_MARKS, CUES, FINDINGS, OTHER_ABNORMALITY, STATEMENTS

_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
"""ASCII only: `str.lower` can change a text's length, and mentions are offsets into the original."""

_SILENT = (
    r"indications?|(?:clinical |patient )?history|clinical (?:indications?|information|statement)|"
    r"reason for (?:exam(?:ination)?|study)|comparisons?|techniques?|exam(?:ination)?|procedure|recommendations?"
)
_OTHER_PART = (
    r"(?:(?:left|right|bilateral) )?(?:hands?|wrists?|elbows?|shoulders?|knees?|ankles?|f(?:oo|ee)t|hips?|pelvis|tibia"
    r"|femur|humerus|forearm|(?:lumbar|cervical|lumbosacral) spine)(?= ?[:.]| 1\.)"
)
_SPEAKING = r"findings?|impressions?|conclusions?|(?:final )?report|findings and impression|opinion"
_HEADING = re.compile(
    rf"(?:^|(?<=[\n.])) *(?:(?P<silent>(?:{_SILENT})(?= ?:)|{_OTHER_PART})|(?:{_SPEAKING})(?= ?:)|chest(?= ?[:.]| 1\.))"
    r" ?[:.]?"
)
_PARAGRAPH_END = re.compile(r"\S[ \t]*\n\s*\n")
_SENTENCE_END = re.compile(
    r"(?<!\b[vV]s)[.!?](?=\s|$)|(?<=[a-z]{2})\.(?=[a-zA-Z])"
    r"|\n\s*\n|\n(?=\s*(?:[-*•]|\d+[.)]|[A-Z][a-z]))"  # a line can end without a sentence's end: list, or wrapped
)


def _alternatives(patterns: Iterable[tuple[str, str]]) -> str:
    """One regular expression in which each (name, pattern) is a named group."""
    return "|".join(f"(?P<{name}>{pattern})" for name, pattern in patterns)


_FINDING = re.compile(rf"\b(?:{_alternatives((f'f{i}', '|'.join(f.phrases)) for i, f in enumerate(FINDINGS))})\b")
_CUE = re.compile(rf"\b(?:{_alternatives(CUES)})\b|(?P<mark>{BOUNDARY_MARKS})")
_STATEMENTS = [
    re.compile(
        rf"\b{s.subject}\b(?:(?!\b(?:but|however|although|with|without|there|no)\b)[^;:]){{0,90}}?"
        rf"\b(?:(?P<asserted>{s.asserting})|(?P<denied>{s.denying}))\b"
        rf"|\b(?:(?P<asserted_before>{s.asserting})|(?P<denied_before>{s.denying}))"
        rf"(?:,? (?:in|sized?|of|the|stable|heart size(?: and|,)|heart(?: and|,)))* {s.subject}\b"
    )
    for s in STATEMENTS
]

_VALUE_AFTER_CUE = {"negated_before": ABSENT, "uncertain_before": UNCERTAIN, "open_before": NOT_MENTIONED}
_VALUE_BEFORE_CUE = {"negated_after": ABSENT, "uncertain_after": UNCERTAIN, "open_after": NOT_MENTIONED}
_BOUNDARIES = ("boundary", "mark")
_REACH = 120  # characters between a mention and a cue behind it that can still speak of it
_NEW_CLAUSE = re.compile(r"\b(?:is|are|was|were|has|have|had|persists?|remains?|measur\w+|extends?)\b")
"""A verb between a mention and a cue behind it: the cue speaks of something else."""


@dataclass(frozen=True)
class Mention:
    """One place where a text speaks of an observation.

    Attributes:
        observation: one of `OBSERVATIONS`, never "No Finding".
        value: 1 (present), 0 (absent) or -1 (uncertain).
        start, end: the words are `text[start:end]` of the text as it was given.
    """

    observation: str
    value: int
    start: int
    end: int


class CheXpertStyleLabeler:
    """Labels a report, or a part of one, with the 14 CheXpert observations by rules.

    >>> labeler = CheXpertStyleLabeler()
    >>> labeler("Small left effusion. No pneumothorax. Possible pneumonia.")["Pleural Effusion"]
    1

    A value is 1 (present), 0 (absent), -1 (uncertain) or None (not mentioned). Of several mentions of one
    observation the strongest counts: present, then uncertain, then absent. Likely, probable, borderline and
    "consistent with" count as present; possible, may, could, suggests, versus and "cannot exclude" as uncertain.

    "No Finding" is 1 when the text says something, and no observation but Support Devices, and no abnormality
    outside the 14 either (a granuloma, scoliosis, …), is present or uncertain; otherwise it is 0. Sections that don't
    describe the chest's image (indication, history, comparison, technique) are skipped. A text that is empty or has
    no other sections has None throughout.
    """

    def __call__(self, text: str) -> dict[str, int | None]:
        """The value of each of `OBSERVATIONS` in `text`."""
        labels: dict[str, int | None] = dict.fromkeys(OBSERVATIONS, NOT_MENTIONED)
        abnormal = False
        for mention in _read(text):
            if mention.observation != OTHER_ABNORMALITY:
                labels[mention.observation] = _stronger(labels[mention.observation], mention.value)
            abnormal |= mention.value != ABSENT and mention.observation != "Support Devices"
        if _says_something(text):
            labels["No Finding"] = ABSENT if abnormal else PRESENT
        return labels

    def batch(self, texts: Iterable[str]) -> list[dict[str, int | None]]:
        """The labels of each text, in order."""
        return [self(text) for text in texts]

    def mentions(self, text: str) -> list[Mention]:
        """Every mention that the labels of `text` rest on, in the order of the text.

        One span can carry two observations ("hydropneumothorax"), and spans can overlap.
        """
        found = (mention for mention in _read(text) if mention.observation != OTHER_ABNORMALITY)
        return sorted(found, key=lambda mention: (mention.start, mention.end))


def _stronger(first: int | None, second: int | None) -> int | None:
    return next((value for value in (PRESENT, UNCERTAIN, ABSENT) if value in (first, second)), NOT_MENTIONED)


def _says_something(text: str) -> bool:
    return any(re.search(r"\w", text[start:end]) for start, end in _speaking_sections(text.translate(_LOWER)))


def _read(text: str) -> Iterator[Mention]:
    """All mentions, those of abnormalities outside the 14 observations included."""
    lowered = text.translate(_LOWER)
    for section_start, section_end in _speaking_sections(lowered):
        start = section_start
        for mark in _SENTENCE_END.finditer(text, section_start, section_end):
            yield from _read_sentence(lowered[start : mark.start()], start)
            start = mark.end()
        yield from _read_sentence(lowered[start:section_end], start)


def _speaking_sections(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the text outside sections that say nothing about the chest's image.

    These are sections such as the indication, and the part on the knee in a report on chest and knee. Such a section
    ends at the next heading or, for reports that give their findings no heading, after its first paragraph.
    """
    start = 0
    silent = False
    for heading in [*_HEADING.finditer(text), None]:
        end = heading.start() if heading else len(text)
        if silent:
            paragraph = _PARAGRAPH_END.search(text, start, end)
            start = paragraph.end() if paragraph else end
        if start < end:
            yield start, end
        if heading:
            start, silent = heading.end(), heading["silent"] is not None


def _read_sentence(sentence: str, offset: int) -> Iterator[Mention]:
    denied = []
    affirmed = []  # (observations, hints, start, end, where its assertion begins)
    for match in _FINDING.finditer(sentence):
        finding = FINDINGS[int(match.lastgroup[1:])]
        affirmed.append((finding.observations, finding.hints, match.start(), match.end(), match.start()))
    for statement, pattern in zip(STATEMENTS, _STATEMENTS, strict=True):
        for match in pattern.finditer(sentence):
            if match["denied"] or match["denied_before"]:
                denied.append((statement.observation, match.start(), match.end()))
            else:
                predicate = match.start("asserted") if match["asserted"] else match.start()
                affirmed.append(((statement.observation,), (), match.start(), match.end(), predicate))
    for observation, start, end in denied:
        yield Mention(observation, ABSENT, offset + start, offset + end)
    if not affirmed:
        return
    cues = _Cues(sentence)
    for observations, hints, start, end, assertion in affirmed:
        value = cues.value_of(assertion, end)
        if value is NOT_MENTIONED:
            continue
        for observation in observations:
            yield Mention(observation, value, offset + start, offset + end)
        for observation in hints:
            weakened = UNCERTAIN if value == PRESENT else value
            yield Mention(observation, weakened, offset + start, offset + end)


class _Cues:
    """The negations, hedges and boundaries of one sentence, and what they make of its mentions."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        self.kinds: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.values_behind: list[int | None] = [PRESENT]  # what holds in front of the first cue, behind it, …
        for match in _CUE.finditer(sentence):
            self.kinds.append(match.lastgroup)
            self.starts.append(match.start())
            self.ends.append(match.end())
            self.values_behind.append(_value_behind(match.lastgroup, self.values_behind[-1]))

    def value_of(self, start: int, end: int) -> int | None:
        """What the sentence says of its words from `start` to `end`."""
        value = self.values_behind[bisect_right(self.ends, start)]
        if value != PRESENT:
            return value
        for i in range(bisect_left(self.starts, end), len(self.kinds)):
            kind, cue_start = self.kinds[i], self.starts[i]
            if kind in _VALUE_BEFORE_CUE:
                applies = cue_start - end <= _REACH and not _NEW_CLAUSE.search(self.sentence, end, cue_start)
                return _VALUE_BEFORE_CUE[kind] if applies else value
            if kind in _BOUNDARIES or kind in _VALUE_AFTER_CUE:
                break
        return value


def _value_behind(kind: str, before: int | None) -> int | None:
    """How a cue changes what is said of the words behind it."""
    if kind in _BOUNDARIES or (kind == "cause" and before == ABSENT):
        return PRESENT
    if kind == "uncertain_before" and before == ABSENT:
        return ABSENT  # "no findings to suggest"
    return _VALUE_AFTER_CUE.get(kind, before)
