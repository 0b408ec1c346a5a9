"""Where each finding of a sentence is, how large it is and how it has changed, as far as the sentence says.

The sentence is cut into items at commas, "and", "or", "with" and at words that link a finding to its explanation.
Each word of place, size or change belongs to one finding of its item: to the one that it stands directly in front of
("*small left* effusion"), else to the one before it ("effusion *on the left*"), else to the next one. An item without
a finding speaks of the finding before it ("effusions, *left greater than right*"), unless it leads to the next one
("*right lower lobe* and left base opacities"). What is joined by "and" or "or" shares a place that only one of the two
has ("left basilar atelectasis and effusion"), and what is explained lies where its explanation does. The words are
data, in `labeler_detail_words.py`.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ..data.schema import ABSENT
from .labeler_detail_words import (
    KINDS,
    LOBES,
    SEPARATORS,
    SEVERITIES,
    SHARES_PLACES,
    SIDELESS,
    ZONELESS,
    ZONES,
    Both,
    Kind,
)
from .labeler_scopes import Named
from .labeler_vocabulary import OTHER_ABNORMALITY


@dataclass(frozen=True)
class Detail:
    """What a mention says of one place.

    Attributes:
        side: the patient's, one of `SIDES`, or `""` where none is said.
        zones: of `ZONES`, from top to bottom.
        lobes: names of lobes.
        severity: of `SEVERITIES`: none, one, or the lowest and highest of a range ("small to moderate").
        change: one of `CHANGES`, or `""`.
    """

    side: str = ""
    zones: tuple[str, ...] = ()
    lobes: tuple[str, ...] = ()
    severity: tuple[str, ...] = ()
    change: str = ""


@dataclass
class _Word:
    """A word of place, size or change, in the item of that number."""

    start: int
    end: int
    item: int
    kind: Kind


@dataclass
class _Finding:
    """What is named, and the words that belong to it."""

    named: Named
    item: int
    words: list[_Word] = field(default_factory=list)
    behind: bool = False
    """Whether its place stands behind it."""
    explains: bool = False
    """Whether its place is that of what it explains."""

    @property
    def observation(self) -> str:
        return self.named.observations[0] if self.named.observations else self.named.hints[0]

    @property
    def places(self) -> list[_Word]:
        return [word for word in self.words if word.kind.kind in _PLACES]


_PLACES = ("side", "zone", "lobe")
_ALTERNATIVES = "|".join(f"(?P<w{i}>{'|'.join(kind.phrases)})" for i, kind in enumerate(KINDS))
_WORDS = re.compile(rf"\b(?:{_ALTERNATIVES})(?!\w)")
_COMPARES = re.compile(r"\b(?:compar\w+|prior|previous(?:ly)?|interval|since)\b")
_NEXT_TO = re.compile(r"\b(?:adjacent|associated|underlying|overlying|accompanying|compressive|surrounding|residual)\b")
_EITHER = re.compile(r"\b(?:or|versus|vs)\b|/")
_RANGE = re.compile(r"(?:[- ]?(?:to|or|/)[- ]?|-)\Z")
_SEPARATOR = re.compile("|".join(f"(?P<{kind}{i}>{pattern})" for i, (kind, pattern) in enumerate(SEPARATORS)))
_STOPS = re.compile(
    r"\b(?:in|at|on|over|within|along|near|involving|throughout|overlying|into|from"
    r"|to(?![- ](?:small|mild|slight|moderate|large|severe|marked))|by|is|are|was|were|has|have"
    r"|remains?|appears?|shows?|demonstrates?|seen|noted|which|that|than(?! (?:left|right))|causing"
    r"|obscur\w+|projecting|projects?)\b"
)
"""Words that end the adjectives in front of a finding."""
_PREPOSITION = re.compile(
    r"\b(?:in|at|on|over|within|along|near|involving|throughout|overlying|of|to)(?: the| both)?\W*\Z"
)
_PREDICATE = re.compile(
    r"\b(?:is|are|was|were|has|have|remains?|appears?|been|now|be|which|size[d]?)\b(?: [\w-]+){0,3}? ?\Z"
)
_SIZE_ALONE = re.compile(
    r"(?:[ ,-]|\b(?:in|on|at|the|size|volume|degree|amount|sided?|left|right|bilateral(?:ly)?|both|than|greater|worse"
    r"|to|small|mild|moderate|large|severe|base|bases|apex|apices|unchanged|stable|now|lung|upper|mid|lower|lobes?|zones?)\b)*(?=$|[,;.()]|\band\b|\bbut\b)"
)
"""What may follow a size in an item of its own: "effusions, *small* on the left and *moderate* on the right"."""
_LOBE = re.compile(r"(?:[-/, ]|\b(?:and|or|upper|mid|middle|lower|left|right|both)\b)*lob(?:es?|ar)\b")
_OPENS_ANEW = re.compile(r"\s*(?:an?|the|no|there|this|these|its|another)\b")


def read_details(sentence: str, named: Sequence[Named]) -> list[tuple[Detail, ...]]:
    """What a sentence says of each finding that it names, in the order of `named`.

    Args:
        sentence: in lower case, without line breaks.
        named: what it names, with its values (`labeler_scopes.read_values`).

    Returns:
        For each at least one `Detail`; several where it lies in several distinct places.
    """
    if all(each.denied or each.observations == (OTHER_ABNORMALITY,) for each in named):
        return [(Detail(),)] * len(named)
    separators = list(_SEPARATOR.finditer(sentence))
    ends = [match.end() for match in separators]
    kinds = ["start", *(str(match.lastgroup).rstrip("0123456789") for match in separators)]
    words = _words(sentence, ends)
    if not words:
        return [(Detail(),)] * len(named)
    # "prominent opacity", "compressive atelectasis": what is abnormal by itself can describe something else.
    spans = {(word.start, word.end) for word in words}
    starts = {each.start for each in named}
    things = [
        each
        for each in named
        if each.observations != (OTHER_ABNORMALITY,)
        or ((each.start, each.end) not in spans and each.end + 1 not in starts)
    ]
    findings = [_Finding(each, bisect_right(ends, each.anchor)) for each in things]
    findings.sort(key=lambda finding: (finding.named.anchor, finding.named.end))
    _attach(sentence, words, findings, kinds)
    _share(sentence, findings, kinds, ends)
    details = {id(finding.named): _details(finding, sentence) for finding in findings}
    return [details.get(id(each), (Detail(),)) for each in named]


def _words(sentence: str, ends: Sequence[int]) -> list[_Word]:
    words = []
    for match in _WORDS.finditer(sentence):
        kind = KINDS[int(str(match.lastgroup)[1:])]
        if kind.kind == "increased" and _COMPARES.search(sentence):
            kind = Kind("change", kind.value, ())
        if kind.kind not in ("ignored", "increased"):
            words.append(_Word(match.start(), match.end(), bisect_right(ends, match.start()), kind))
    return words


def _attach(sentence: str, words: Iterable[_Word], findings: Sequence[_Finding], kinds: Sequence[str]) -> None:
    """Gives each word to the finding that it speaks of."""
    waiting: list[_Word] = []
    for word in words:
        inside = [f for f in findings if f.named.start <= word.start < f.named.end]
        own = [f for f in findings if f.item == word.item]
        if inside:
            _give(word, min(inside, key=lambda f: f.named.end - f.named.start), findings)
        elif own:
            _give(word, _of_item(sentence, word, own), findings)
        else:
            waiting.append(word)
    for item in dict.fromkeys(word.item for word in waiting):
        alone = [word for word in waiting if word.item == item]
        target = _of_other_item(sentence, alone, findings, kinds)
        for word in alone:
            if word.kind.kind != "severity" or _SIZE_ALONE.match(sentence, word.end):
                _give(word, target, findings)
    for finding in findings:
        finding.words.sort(key=lambda word: word.start)


def _give(word: _Word, target: _Finding | None, findings: Iterable[_Finding]) -> None:
    """Gives a word to a finding, and to others that the same words name ("cardiomediastinal silhouette")."""
    for finding in findings:
        if target is not None and finding.named.anchor == target.named.anchor:
            finding.words.append(word)
            finding.behind |= word.start > finding.named.anchor and word.kind.kind in _PLACES


def _of_item(sentence: str, word: _Word, findings: Sequence[_Finding]) -> _Finding | None:
    """The finding of the word's own item that the word speaks of."""
    before = [f for f in findings if f.named.anchor < word.start]
    after = [f for f in findings if f.named.anchor >= word.end]
    if after and not _STOPS.search(sentence, word.end, after[0].named.anchor):
        return after[0]
    if before:
        if word.kind.kind != "severity" or _PREDICATE.search(sentence, before[-1].named.anchor, word.start):
            return before[-1]
        # "effusion moderate", "effusion small on the left"
        return before[-1] if not re.search(r"\w", sentence[before[-1].named.end : word.start]) else None
    return after[0] if after and word.kind.kind != "severity" else None


def _of_other_item(
    sentence: str, words: Sequence[_Word], findings: Sequence[_Finding], kinds: Sequence[str]
) -> _Finding | None:
    """The finding that the words of an item speak of in which nothing is named."""
    item, start = words[0].item, words[0].start
    before = [f for f in findings if f.named.anchor < start]
    after = [f for f in findings if f.named.anchor > start]
    hard = max((i for i in range(item + 1) if kinds[i] == "hard"), default=0)
    # "mildly enlarged but stable" speaks of what stands before the "but", for there is nothing else.
    before = [f for f in before if f.item >= hard] or ([] if any(f.item >= hard for f in after) else before)
    joined = [f for f in after if "hard" not in kinds[item + 1 : f.item + 1]]
    following = joined[0] if joined else None
    if not before or following is None:
        return before[-1] if before else following
    # "right effusion, left upper and lower lobe opacities"
    leads = following.item == item + 1 and kinds[following.item] in ("and", "comma") and not before[-1].behind
    leads &= not any(_PREPOSITION.search(sentence, max(0, word.start - 16), word.start) for word in words)
    leads &= any(word.kind.kind in _PLACES for word in words)
    leads &= _WORDS.search(sentence, _begin(sentence, following), following.named.anchor) is not None
    return following if leads else before[-1]


def _begin(sentence: str, finding: _Finding) -> int:
    """Where the adjectives of a finding can begin: at the last separator before it."""
    last = 0
    for match in _SEPARATOR.finditer(sentence, 0, finding.named.anchor):
        last = match.end()
    return last


def _share(sentence: str, findings: Sequence[_Finding], kinds: Sequence[str], ends: Sequence[int]) -> None:
    """Lets findings that are joined, or linked as cause and effect, share the place that one of them has."""
    for first, second in pairwise(findings):
        if first.named.anchor == second.named.anchor or first.named.end > second.named.anchor:
            continue
        between = kinds[first.item + 1 : second.item + 1]
        if "hard" in between:
            continue
        lead = sentence[max(first.named.end, ends[second.item - 1] if second.item else 0) : second.named.anchor]
        explains = "link" in between or (first.explains and {*between} <= {"comma", "and"})
        if between == ["comma"] and first.observation == "Lung Opacity" and second.observation in SHARES_PLACES:
            explains = not lead.strip()  # "left basilar opacity, atelectasis versus pneumonia"
        # "minimal atelectasis or scarring" is one thing with two names, "mild edema and effusion" are two.
        if between == ["and"] and not lead.strip() and _EITHER.search(sentence, first.named.end, second.named.anchor):
            sizes = [word for word in first.words if word.kind.kind == "severity" and word.start < first.named.anchor]
            if not any(word.kind.kind == "severity" for word in second.words):
                second.words = [*sizes, *second.words]
        if explains or (between[-1:] in (["with"], ["and"]) and _NEXT_TO.search(lead)):
            if not second.places and first.places and second.observation not in ZONELESS:
                second.words = [*first.places, *second.words]
            second.explains = explains
            continue
        if between != ["and"] or (first.named.value == ABSENT) != (second.named.value == ABSENT):
            continue
        bare = not _OPENS_ANEW.match(lead) and not any(
            first.named.end <= word.start < second.named.anchor for word in second.words
        )
        shares = {first.observation, second.observation} <= SHARES_PLACES
        if shares and first.places and not second.places and not first.behind and bare:
            second.words = [*first.places, *second.words]
        elif shares and second.places and not first.places and second.behind:
            behind = [word for word in second.places if word.start > second.named.anchor]
            first.words = [*first.words, *behind]
        own = [word for word in second.words if word.kind.kind == "change" and word.start > second.named.anchor]
        if own and not any(word.kind.kind == "change" for word in first.words):
            first.words = [*first.words, *own]


def _details(finding: _Finding, sentence: str) -> tuple[Detail, ...]:
    """The words of a finding as details, one for each item that names a place of its own."""
    observation = finding.observation
    places: list[_Place] = []
    if observation == "Support Devices":
        finding.words = [word for word in finding.words if word.kind.kind != "severity"]
    severity: tuple[str, ...] = ()
    change = ""
    for item in dict.fromkeys(word.item for word in finding.words):
        place = _Place()
        previous: _Word | None = None
        for word in (each for each in finding.words if each.item == item):
            place.add(word.kind, _is_range(sentence, previous, word))
            if word.kind.kind == "zone" and _LOBE.match(sentence, word.end):
                place.lobar.add(word.kind.value)
            previous = word
        if observation in ZONELESS:
            place.zones.clear()
            place.lobar.clear()
            place.both = Both.NOT
        if observation in SIDELESS:
            place.sides.clear()
        if place.both is Both.SAID and not place.sides:
            place.sides = {"left", "right"}
        if place.sides or place.zones:
            place.severity = place.severity or severity
            place.change = place.change or change
            places.append(place)
        else:
            severity, change = place.severity or severity, place.change or change
            for other in places:
                other.severity = other.severity or place.severity
                other.change = _changed(other.change, place.change)
        severity = place.severity or severity
        change = place.change or change
    if not places:
        return (Detail(severity=severity, change=change),)
    _spread_sides(places)
    last = max((word.start for word in finding.words if word.kind.kind in _PLACES), default=-1)
    for place in places:
        # "... opacities are mild and unchanged": of all places
        if last < finding.named.anchor:
            place.severity, place.change = place.severity or severity, place.change or change
    return tuple(dict.fromkeys(place.detail() for place in places))


def _is_range(sentence: str, previous: _Word | None, word: _Word) -> bool:
    if previous is None or previous.kind.kind != "severity" or word.kind.kind != "severity":
        return False
    return _RANGE.match(sentence[previous.end : word.start]) is not None


@dataclass
class _Place:
    """What one item says."""

    sides: set[str] = field(default_factory=set)
    zones: set[str] = field(default_factory=set)
    lobar: set[str] = field(default_factory=set)
    severity: tuple[str, ...] = ()
    change: str = ""
    both: Both = Both.NOT

    def add(self, kind: Kind, extends: bool) -> None:
        match kind.kind:
            case "side":
                self.sides |= {"left", "right"} if kind.value == "both" else {kind.value}
            case "zone":
                self.zones.add(kind.value)
                self.both = max(self.both, kind.both, key=[*Both].index)
            case "lobe":
                side, zone, _ = LOBES[kind.value]
                self.sides.add(side)
                self.zones.add(zone)
                self.lobar.add(zone)
            case "severity" if extends:
                self.severity = (self.severity[0], kind.value)
            case "severity":
                self.severity = self.severity or (kind.value,)
            case "change":
                self.change = _changed(self.change, kind.value)

    def detail(self) -> Detail:
        side = "both" if len(self.sides) == 2 else next(iter(self.sides), "")
        severity = tuple(sorted(dict.fromkeys(self.severity), key=SEVERITIES.index))
        zones = tuple(zone for zone in ZONES if zone in self.zones)
        lobes = tuple(name for of_side, zone, name in LOBES.values() if of_side in self.sides and zone in self.lobar)
        return Detail(side, zones, lobes, severity, self.change)


def _changed(change: str, said_next: str) -> str:
    """What two words say together: "*persistent* effusion, now *smaller*"."""
    return said_next or change if change in ("", "unchanged") else change


def _spread_sides(places: Sequence[_Place]) -> None:
    """Zones without a side have that of the place before them; "lobes" are on both sides, a "lobe" on that of the place
    behind."""
    said = [set(place.sides) for place in places]
    for index, place in enumerate(places):
        if said[index] or not place.zones:
            continue
        before = next((sides for sides in reversed(said[:index]) if sides), None)
        behind = next((sides for sides in said[index + 1 :] if sides), None)
        place.sides = set(before or ({"left", "right"} if place.both is Both.IMPLIED else behind) or ())


__all__ = ["Detail", "read_details"]
