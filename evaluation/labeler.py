"""A rule-based labeler of chest X-ray reports: which of the 14 CheXpert observations a text states.

`CheXpertStyleLabeler` does the task that Irvin et al. (AAAI 2019, "Label Extraction from Radiology Reports") set:
find mentions, classify each as present, absent or uncertain, aggregate. Its rules are its own: it is neither the
CheXpert labeler nor CheXbert, and its numbers must not be reported under their names.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ..data.schema import ABSENT, NOT_MENTIONED, OBSERVATIONS, PRESENT, UNCERTAIN
from ..processing.report_text import headings, is_missing
from .labeler_details import Detail, read_details
from .labeler_scopes import Named, read_values
from .labeler_sentences import LOWER, sentences
from .labeler_spelling import mend
from .labeler_vocabulary import FINDINGS, OTHER_ABNORMALITY, STATEMENTS

_SILENT = (
    r"indications?|(?:clinical |patient )?history|clinical (?:indications?|information|statement)|"
    r"(?:admitting|clinical|working) diagnos[ei]s|"
    r"reasons?(?: for (?:the |this )?(?:exam(?:ination)?|study|procedure|referral))?|"
    r"comparisons?|techniques?|exam(?:ination)?|procedure|recommendations?"
)
_OTHER_PART = (
    r"(?:(?:left|right|bilateral)\s+)?(?:hands?|wrists?|elbows?|shoulders?|knees?|ankles?|f(?:oo|ee)t|hips?|pelvis"
    r"|tibia"
    r"|femur|humerus|forearm|(?:lumbar|cervical|lumbosacral) spine)"
)
_SPEAKING = r"findings?|impressions?|conclusions?|(?:final )?report|findings and impression|opinion"
_NUMBER = r" *(?:\(?\d{1,2}[.)] ?)?"
_HEADING = re.compile(
    rf"(?:^|(?<=[\n.])){_NUMBER}(?:(?P<silent>{_SILENT}|{_OTHER_PART})|{_SPEAKING}|chest) ?:"
    # without a colon, but not where a line is only wrapped
    rf"|(?:^|(?<=\.)|(?<=[^a-z,]\n)){_NUMBER}(?:(?P<part>{_OTHER_PART})|chest)(?: ?\.| (?=1\.))"
)
_SILENT_SECTIONS = ("indication", "comparison", "technique", "examination")
"""Of the sections that `headings` tells apart, whatever their spelling; all others speak."""
_TITLED_SECTIONS = (*_SILENT_SECTIONS, "findings", "impression", "other")
"""Sections whose headings say nothing themselves, unlike "HEART: enlarged"."""
_PARAGRAPH_END = re.compile(r"\S[ \t]*\n\s*\n")


def _alternatives(patterns: Iterable[tuple[str, str]]) -> str:
    """One regular expression in which each (name, pattern) is a named group."""
    return "|".join(f"(?P<{name}>{pattern})" for name, pattern in patterns)


_FINDING = re.compile(rf"\b(?:{_alternatives((f'f{i}', '|'.join(f.phrases)) for i, f in enumerate(FINDINGS))})\b")
_OTHER = (
    r"\b(?:but(?! (?:likely|probably|possibly|still|is|remains|appears|within|now|not|at)\b)|however|although|with"
    r"|without|there|no(?! longer))\b"
)
"""Begins words that no longer speak of the subject."""
_PREDICATED = r"(?:[\w-]+ ){1,3}(?:is|are|appears?|remains?)\b"
"""What has a predicate of its own: "normal heart size, *mediastinal contours are* widened"."""
_STATEMENTS = [
    re.compile(
        rf"\b{s.subject}\b(?: ?: ?)?(?:(?!{_OTHER})[^;:]){{0,90}}?"
        rf"\b(?:(?P<asserted>{s.asserting})|(?P<denied>{s.denying}))\b"
        rf"|\b(?:(?P<asserted_before>{s.asserting})|(?P<denied_before>{s.denying}))"
        rf"(?:,? (?:in|sized?|of|the|stable|lungs?(?: and|,(?: and)?)|(?:heart|heart size|cardiac)(?: and"
        rf"|,(?! {_PREDICATED}))))* {s.subject}\b"
    )
    for s in STATEMENTS
]


@dataclass(frozen=True)
class Mention:
    """One place where a text speaks of an observation.

    Attributes:
        observation: one of `OBSERVATIONS`, never "No Finding".
        value: 1 (present), 0 (absent) or -1 (uncertain).
        start, end: the words are `text[start:end]` of the text as it was given.
        clause: the span of the statement that they belong to, up to these words.
        details: where it is, how large and how changed, as far as the sentence says; one for each place that is told
            apart, and at least one.
    """

    observation: str
    value: int
    start: int
    end: int
    clause: tuple[int, int]
    details: tuple[Detail, ...] = (Detail(),)


@dataclass(frozen=True)
class Reading:
    """What a text states.

    Attributes:
        labels: the value of each of `OBSERVATIONS`.
        mentions: those that the labels rest on, in the order of the text.
    """

    labels: dict[str, int | None]
    mentions: list[Mention]


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
        return self.read(text).labels

    def read(self, text: str) -> Reading:
        """The labels of `text` together with the mentions that they rest on, read once."""
        labels: dict[str, int | None] = dict.fromkeys(OBSERVATIONS, NOT_MENTIONED)
        abnormal = False
        mentions = []
        for mention in _read(text):
            if mention.observation != OTHER_ABNORMALITY:
                labels[mention.observation] = _stronger(labels[mention.observation], mention.value)
                mentions.append(mention)
            abnormal |= mention.value != ABSENT and mention.observation != "Support Devices"
        if _says_something(text):
            labels["No Finding"] = ABSENT if abnormal else PRESENT
        return Reading(labels, sorted(mentions, key=lambda mention: (mention.start, mention.end)))

    def batch(self, texts: Iterable[str]) -> list[dict[str, int | None]]:
        """The labels of each text, in order."""
        return [self(text) for text in texts]

    def mentions(self, text: str) -> list[Mention]:
        """Every mention that the labels of `text` rest on, in the order of the text.

        One span can carry two observations ("hydropneumothorax"), and spans can overlap.
        """
        return self.read(text).mentions


def _stronger(first: int | None, second: int | None) -> int | None:
    return next((value for value in (PRESENT, UNCERTAIN, ABSENT) if value in (first, second)), NOT_MENTIONED)


def _says_something(text: str) -> bool:
    return any(not is_missing(text[start:end]) for start, end in _speaking_sections(text, text.translate(LOWER)))


def _read(text: str) -> Iterator[Mention]:
    """All mentions, those of abnormalities outside the 14 observations included."""
    lowered = text.translate(LOWER)
    for start, end in _speaking_sections(text, lowered):
        for sentence in sentences(lowered, start, end, text):
            sentence = mend(sentence)
            for each, details in _read_sentence(sentence.words):
                if each.value is NOT_MENTIONED:
                    continue
                span = sentence.span(each.start, each.end)
                clause = sentence.span(*each.clause)
                for observation in each.observations:
                    yield Mention(observation, each.value, *span, clause, details)
                weakened = UNCERTAIN if each.value == PRESENT else each.value
                for observation in each.hints:
                    yield Mention(observation, weakened, *span, clause, details)


@lru_cache(maxsize=10_000)
def _read_sentence(words: str) -> tuple[tuple[Named, tuple[Detail, ...]], ...]:
    """What a sentence names and says of it. Reports repeat their sentences, so the last ones are kept."""
    named = list(_names(words))
    if not named:
        return ()
    elliptical = list(_elliptical(words, named))
    named += [each for each, _ in elliptical]
    read_values(words, named)
    for each, meant in elliptical:
        if _DENIES.match(words, each.start):
            # "has resolved on the left but *not on the right*"
            each.value = PRESENT if meant.value == ABSENT and words.startswith("not", each.start) else ABSENT
    return tuple(zip(named, read_details(words, named), strict=True))


def _speaking_sections(text: str, lowered: str) -> Iterator[tuple[int, int]]:
    """Spans of the text outside sections that say nothing about the chest's image.

    These are sections such as the indication, and the part on the knee in a report on chest and knee. Such a section
    ends at the next heading or, for reports that give their findings no heading, after its first paragraph.
    """
    start, silent = 0, False
    for end, next_start, next_silent in [*_cuts(text, lowered), (len(text), len(text), False)]:
        if end < start:
            continue
        if silent:
            paragraph = _PARAGRAPH_END.search(lowered, start, end)
            start = paragraph.end() if paragraph else end
        if start < end:
            yield start, end
        start, silent = next_start, next_silent


def _cuts(text: str, lowered: str) -> list[tuple[int, int, bool]]:
    """Where headings start and end, and whether their sections are silent, in order."""
    found = [(m.start(), m.end(), bool(m["silent"] or m["part"])) for m in _HEADING.finditer(lowered)]
    known = {end for _, end, _ in found}
    if ":" in text or "\n" in text:
        for section, start, end in headings(text.replace("\r\n", " \n").replace("\r", "\n")):
            if end not in known:
                found.append((start, end if section in _TITLED_SECTIONS else start, section in _SILENT_SECTIONS))
    return sorted(found)


_SIZE = r"(?:trace|tiny|minimal|small|mild|slight|moderate|large|severe|marked)"
_STAYS = r"(?:is|has|remains?|persists?|appears?|unchanged|stable|resolved|improved|increased|decreased|worsened)"
_ELLIPSIS = re.compile(
    rf"(?:\b(?:but|although|though|however|while|whereas|yet)\b|(?P<weak>[,;]|\b(?:and|with)\b)) "
    rf"(?:(?:there (?:is|are)|with|perhaps|possibly|also|only|still|now|an?|the|to) )*"
    rf"(?P<size>(?:(?:not|none|no) )?(?:{_SIZE}(?:[- ]to[- ]{_SIZE})? |larger |smaller |new )*)"
    rf"(?:one )?(?:(?:on|at) (?:the )?)?"
    rf"(?P<side>left|right)(?:[- ]sided)?(?P<one> one)?(?: side)?(?:,? (?:it|they|this"
    rf"|these))?(?P<stays> {_STAYS})?(?=\W*$|[,;.]| {_STAYS}\b)"
)
_DENIES = re.compile(r"(?:not|none|no)\b")
_PAIRED = frozenset(
    {
        *("Pleural Effusion", "Pneumothorax", "Atelectasis", "Consolidation", "Lung Opacity", "Pneumonia"),
        *("Lung Lesion", "Pleural Other"),
    }
)


def _elliptical(sentence: str, named: list[Named]) -> Iterator[tuple[Named, Named]]:
    """Sides that stand for what was named before them, with that: "no left effusion but small *right*"."""
    for match in _ELLIPSIS.finditer(sentence):
        said = match["size"] or match["one"] or match["stays"] or _STAYS_BEHIND.match(sentence, match.end())
        if match["weak"] and not said:
            continue
        before = [each for each in named if each.anchor < match.start() and not _PAIRED.isdisjoint(each.observations)]
        if before and not any(each.anchor <= match.start("side") < each.end for each in named):
            last = max(before, key=lambda each: each.anchor)
            start = match.start("size")
            # No cue is sought in what denies the side itself: "left effusion but none on the right".
            anchor = start if _DENIES.match(sentence, start) else match.start("side")
            yield Named(start, match.end("side"), anchor, last.observations, last.hints), last


_STAYS_BEHIND = re.compile(rf" {_STAYS}\b")


def _names(sentence: str) -> Iterator[Named]:
    """What a sentence names."""
    for match in _FINDING.finditer(sentence):
        finding = FINDINGS[int(match.lastgroup[1:])]
        yield Named(match.start(), match.end(), match.start(), finding.observations, finding.hints)
    for statement, pattern in zip(STATEMENTS, _STATEMENTS, strict=True):
        for match in pattern.finditer(sentence):
            behind = match["asserted"] or match["denied"]
            anchor = match.start("asserted" if match["asserted"] else "denied") if behind else match.start()
            denied = bool(match["denied"] or match["denied_before"])
            yield Named(match.start(), match.end(), anchor, (statement.observation,), denied=denied)
