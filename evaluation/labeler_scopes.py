"""What a sentence says of the findings that it names: present, absent, uncertain or nothing.

One algorithm reads every sentence, in the manner of NegEx and ConText (Chapman et al., J Biomed Inform 2001; Harkema
et al., J Biomed Inform 2009): cues have a direction and a scope, and scopes end where a new statement begins. Its
words are data, in `labeler_cues.py`.

1. The sentence is cut into *clauses* at semicolons, dashes, "but" and the like; a bracket is a clause within one.
2. A clause is cut into *items* at commas, "and", "or" and "with". An item opens a new statement when it has a predicate
   of its own ("…, the right one is unchanged"), a word that asserts ("persistent") or a word that opens a phrase
   ("small", "left"), the last not within a list that ends with "or"; or when a comma stands before it, a side behind
   it, and neither "or" nor "and" ends the list ("…, consolidation *on the left*").
3. A cue in front of what is named holds to the end of its statement. Once it has found something, it does not reach
   behind a preposition: what stands there is taken for granted ("no pneumothorax *after* placement of …").
4. A cue behind what is named holds back to the statement's beginning or the last verb, and not for what stands behind
   a preposition ("atelectasis *next to* the effusion has resolved"). What it takes away, words that say where the
   finding still is give back ("… has cleared on the right *but persists on the left*").
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..data.schema import ABSENT, NOT_MENTIONED, PRESENT, UNCERTAIN
from .labeler_cues import CUES, MARKS, Cue, Reach


@dataclass
class Named:
    """Words of a sentence that name something.

    Attributes:
        start, end: the words.
        anchor: where its assertion stands: the predicate of "the heart … is enlarged", else `start`.
        observations: what the words name.
        hints: what they leave open even when affirmed.
        denied: whether the words themselves deny it ("heart size is normal").
        value: what the sentence says of it, filled in by `read_values`.
        clause: the span of its statement.
    """

    start: int
    end: int
    anchor: int
    observations: tuple[str, ...]
    hints: tuple[str, ...] = ()
    denied: bool = False
    value: int | None = PRESENT
    clause: tuple[int, int] = (0, 0)


@dataclass
class _Event:
    start: int
    end: int
    kind: str  # "named", "cue", "bracket", a connector, or a kind of mark
    cue: Cue | None = None
    named: Named | None = None
    inner: "list[_Event]" = field(default_factory=list)


_CONNECTORS = ("comma", "or", "and", "with")
_PREDICATES = ("verb", "seen", "trend", "asserting")
_PUNCTUATION = (
    ("or", r"[,;/] ?(?:and/or|or|nor)\b"),
    ("and", r", ?(?:as well as|and also|and|plus)\b|&"),
    ("with", r", ?with\b(?! (?:respect|regard)\b)"),
    (
        "comma",
        r"(?<= )/(?= )|(?<!if any)(?<!if present)(?<!if real)"
        r",(?!\d| if (?:any|present|real)\b|(?<=setting,) (?:this|these|it)\b)",
    ),
    ("open", r"[(\[]"),
    ("close", r"[)\]]"),
    ("colon", r":(?! ?(?:none|no|not|absent|negative|nil)\b)"),
    ("hard", r"[;—]|–(?!\d)|--+|(?<= )-(?= )"),
    ("query", r"\?+"),
)
_QUERY = Cue(Reach.EITHER, UNCERTAIN, ("?",))
_KINDS = ["cue"] * len(CUES) + [mark.kind for mark in MARKS]
_WORDS = "|".join(f"(?P<w{i}>{'|'.join(entry.phrases)})" for i, entry in enumerate((*CUES, *MARKS)))
_MARKS = "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _PUNCTUATION)
_SIGNAL = re.compile(rf"(?=[^\w\s])(?:{_MARKS})|\b(?:{_WORDS})\b")
_MASK = "¤"
"""Stands for the words of findings while cues are looked for, so that no cue reaches across them."""

_OPENS_DOUBTFULLY = re.compile(r"possibl|probabl|question|suspect|potential|equivocal|perhaps|may|conceivabl|\?")
_ADJECTIVE = re.compile(
    r"(?:\b(?:(?<!on the )(?<!on )(?:left|right)|upper|lower|mid|middle|small|large|moderate|mild|focal|new|acute|old"
    r"|anterior|posterior"
    r"|lateral"
    r"|medial|apical|basal|definite|significant|bilateral|unilateral|prior|pleural|worsening|increasing|enlarging"
    r"|persistent"
    r"|stable|patchy|discrete|hazy|linear)|\w-)$"
)
"""Ends text after which "and" and commas join adjectives: "small and large"."""
_SIDE = re.compile(r"(?: the)? (?:left|right)\b")
"""Behind "in", "on" or "at": where something is, which is not said of what is not there."""
_PLURAL = re.compile(r"(?:are|were|have|remain|appear)\b")
_REFERS_BACK = re.compile(
    r"(?:.*\b(?:one|ones|it)\b)?\W*(?:(?:it|this|these|those|they|that|which|one|an?|small|tiny|subtle|early"
    r"|underlying|now|since|has|have|is"
    r"|are|was|were"
    r"|been|still|also|interval|completely|fully|probably|remains?|again|of|course)\b\W*)*"
)
"""Stands before a cue that speaks of the statement before its own: "…, but *it* can't be excluded"."""
_REMOVAL = re.compile(r"removal|withdrawal|explantation|extraction|discontinuation")
_DEEPEST = 4
"""Depth to which nested brackets are distinguished."""


def read_values(sentence: str, named: Sequence[Named]) -> None:
    """Fills in the `value` and `clause` of all that a sentence names.

    Args:
        sentence: in lower case, without line breaks.
        named: what it names, in any order.
    """
    _Reader(sentence).read(_events(sentence, named), PRESENT)


def _events(sentence: str, named: Iterable[Named]) -> list[_Event]:
    """All signals and all that is named, in order; what stands in brackets is inside one event."""
    masked = list(sentence)
    events = []
    for each in named:
        if not each.denied:
            masked[each.anchor : each.end] = _MASK * (each.end - each.anchor)
        events.append(_Event(each.anchor, each.end, "named", named=each))
    for match in _SIGNAL.finditer("".join(masked)):
        kind, cue = match.lastgroup or "", None
        if kind[1:].isdigit():
            index = int(kind[1:])
            kind, cue = _KINDS[index], CUES[index] if index < len(CUES) else None
        elif kind == "query":
            kind, cue = "cue", _QUERY
        events.append(_Event(match.start(), match.end(), kind, cue))
    events.sort(key=lambda event: (event.start, event.end))
    levels: list[list[_Event]] = [[]]
    for event in events:
        if event.kind == "close":
            if len(levels) > 1:
                levels.pop()
            continue
        levels[-1].append(event)
        if event.kind == "open":
            event.kind = "bracket"
            if len(levels) < _DEEPEST:
                levels.append(event.inner)
    return levels[0]


@dataclass
class _State:
    """What holds at a place of a statement.

    Attributes:
        value: what is said of whatever is named next.
        given: whether a preposition has interrupted that: what is named next is there.
        found: whether something has been named since the cue.
        since: where the cue ended.
        preferring: whether a preference ("favor …") waits for what it is preferred to.
        removing: whether it speaks of the removal of devices, and of nothing else.
    """

    value: int | None
    given: bool = False
    found: bool = False
    since: int = 0
    preferring: bool = False
    removing: bool = False


class _Reader:
    """Reads the events of one sentence."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence

    def read(self, events: Sequence[_Event], initial: int | None) -> None:
        """Reads events, the first clause of which begins with the value `initial`."""
        previous: list[_Event] = []
        for begin, clause in self._clauses(events):
            self._read_ahead(clause, initial, previous)
            self._read_back(clause, previous, begin)
            previous = clause if any(event.named for event in clause) else previous
            initial = PRESENT

    def _clauses(self, events: Sequence[_Event]) -> Iterator[tuple[int, list[_Event]]]:
        """The clauses, each with the place where it begins."""
        clause: list[_Event] = []
        begin = 0
        for event in events:
            waits = bool(clause) and clause[-1].kind == "cue"  # "ruled out: …"
            if event.kind == "hard" or (event.kind == "colon" and not waits):
                yield begin, clause
                begin, clause = event.end, []
            elif event.kind != "colon":
                clause.append(event)
        yield begin, clause

    # ------------------------------------------------------------------------------- cues in front

    def _read_ahead(self, clause: Sequence[_Event], initial: int | None, previous: Sequence[_Event]) -> None:
        state = _State(initial)
        begin = clause[0].start if clause else 0
        for i, event in enumerate(clause):
            if event.kind in _CONNECTORS:
                if self._opens(clause, i):
                    state, begin = _State(PRESENT), event.end
                elif event.kind == "with":
                    state.given |= state.found and state.value == ABSENT
                elif event.kind != "and":
                    state.given = False
            elif event.named:
                self._assign(event.named, state, begin)
            elif event.cue:
                if self._looks_ahead(clause, i, previous):
                    self._apply(event.cue, state, event.end)
                    state.removing = _REMOVAL.match(self.sentence, event.start) is not None
            elif event.kind == "bracket":
                opens = self._opens([event, *event.inner], 0)
                self.read(event.inner, PRESENT if opens or state.given else state.value)
            elif event.kind in ("preposition", "cause"):
                state.given |= self._interrupts(event, state)
            elif event.kind == "given":
                state = state if state.found and state.value is not NOT_MENTIONED else _State(PRESENT)
                state.given = state.value != PRESENT
            elif event.kind == "linked":
                state.given = False
            elif event.kind == "preferred":
                state.preferring = True
            elif event.kind == "over" and state.preferring:
                state.value, state.given = UNCERTAIN, False

    def _assign(self, named: Named, state: _State, begin: int) -> None:
        if state.removing and "Support Devices" not in named.observations:
            # "after removal of the catheter *the effusion has reaccumulated*"
            state.value, state.removing = PRESENT, False
        named.value = PRESENT if state.given else state.value
        if named.denied:
            named.value = NOT_MENTIONED if state.value is NOT_MENTIONED else ABSENT
        named.clause = (begin, named.end)
        state.found = True

    def _apply(self, cue: Cue, state: _State, end: int) -> None:
        """Lets a cue that ends at `end` change what is said of what follows it."""
        state.given = False
        if cue.value == UNCERTAIN and (state.value == ABSENT or (state.value is NOT_MENTIONED and not state.found)):
            return  # "no findings to suggest", "evaluate for possible"
        state.value, state.found, state.since = cue.value, False, end

    def _looks_ahead(self, clause: Sequence[_Event], i: int, previous: Sequence[_Event]) -> bool:
        """Whether the cue `clause[i]` speaks of what follows it."""
        reach = clause[i].cue.reach if clause[i].cue else Reach.NONE
        if reach in (Reach.AHEAD, Reach.NONE, Reach.BACK_AGAIN):
            return reach is Reach.AHEAD
        if reach is Reach.EITHER:
            for event in clause[i + 1 :]:
                if event.named or event.kind == "thing":
                    return True
                if event.kind not in ("quantity", "trend", "asserting", "linked", "verb") and not (
                    event.cue and event.cue.reach in (Reach.AHEAD, Reach.EITHER)
                ):
                    break
        return not previous and not any(event.named for event in clause[:i])

    def _interrupts(self, event: _Event, state: _State) -> bool:
        """Whether what stands behind a preposition is there in spite of a cue in front of it."""
        if state.value == UNCERTAIN:
            return state.found and event.kind == "preposition"
        if state.value != ABSENT:
            return state.value is NOT_MENTIONED and event.kind == "cause"
        return state.found or bool(re.search(r"\w", self.sentence[state.since : event.start]))

    def _opens(self, clause: Sequence[_Event], i: int) -> bool:
        """Whether a new statement begins behind the connector (or opening bracket) `clause[i]`."""
        if clause[i].kind == "or":
            return False
        if _ADJECTIVE.search(self.sentence, max(0, clause[i].start - 12), clause[i].start):
            return False
        names = asserts = begins = placed = False
        for event in clause[i + 1 :]:
            if event.kind in _CONNECTORS or (event.cue and names):
                asserts |= event.cue is not None and event.cue.reach is Reach.BACK
                break
            placed |= event.kind == "preposition" and names and _SIDE.match(self.sentence, event.end) is not None
            if event.named:
                begins |= not names and event.named.anchor != event.named.start
                names = True
            elif event.kind == "asserting" or (event.kind in ("verb", "trend") and names):
                asserts = True
            elif event.kind in ("quantity", "trend"):
                begins |= not names
            elif event.cue:
                begins |= _OPENS_DOUBTFULLY.match(self.sentence, event.start) is not None
        begins |= placed and clause[i].kind == "comma" and all(event.kind != "and" for event in clause[i + 1 :])
        return names and (asserts or (begins and not self._closed_by_or(clause, i)))

    def _closed_by_or(self, clause: Sequence[_Event], i: int) -> bool:
        """Whether the list that goes on behind `clause[i]` ends with "or", as a negated list does."""
        for event in clause[i + 1 :]:
            if event.kind == "or":
                return True
            if event.cue or event.kind in _PREDICATES:
                break
        return False

    # ------------------------------------------------------------------------------- cues behind

    def _read_back(self, clause: Sequence[_Event], previous: Sequence[_Event], begin: int) -> None:
        for i, event in enumerate(clause):
            if event.kind == "bracket" and not any(inner.named for inner in event.inner):
                for inner in event.inner:
                    if inner.cue and inner.cue.reach is not Reach.AHEAD:
                        self._change(self._targets(clause, i), inner.cue, True)
            cue = event.cue
            if cue is None or cue.reach is Reach.NONE or self._looks_ahead(clause, i, previous):
                continue
            if cue.reach is Reach.BACK_AGAIN:
                before = clause[:i] if any(e.named for e in clause[:i]) else previous
                cues = [j for j, e in enumerate(before) if e.cue and e.cue.reach in (Reach.BACK, Reach.EITHER)]
                self._change(self._targets(before, cues[-1] if cues else len(before)), cue, True)
                continue
            if cue.reach is Reach.BACK_ALIKE:
                self._change(self._alike(clause[: self._predicate(clause, i)] or previous), cue, cue.value == PRESENT)
                continue
            targets = self._targets(clause, i)
            if targets or any(e.named for e in clause[:i]):
                self._change(targets, cue, False)
            elif _REFERS_BACK.fullmatch(self.sentence, begin, event.start):
                self._change(self._targets(previous, len(previous)), cue, True)

    def _targets(self, clause: Sequence[_Event], i: int) -> list[Named]:
        """What a cue at `clause[i]` speaks of that stands before it."""
        targets: list[Named | None] = []
        heads: list[Named | None] = []
        end = self._predicate(clause, i)
        plural = joined = any(_PLURAL.match(self.sentence, event.start) for event in clause[end:i])
        hedges = i < len(clause) and clause[i].cue is not None and clause[i].cue.value == UNCERTAIN
        for j, event in reversed([*enumerate(clause[:end])]):
            if event.named or event.kind == "thing":
                heads.append(event.named)
            elif event.kind in ("preposition", "given") and heads:
                heads = [] if self._has_head(clause, event) else heads
            elif event.cue and event.cue.reach is Reach.BACK:
                break
            elif event.kind in _PREDICATES:
                if heads or targets or not self._coordinated(clause, end, i):
                    break
            elif hedges and heads and (event.kind == "linked" or (event.cue and event.cue.value == UNCERTAIN)):
                break  # "opacity compatible with *pneumonia* in the appropriate clinical setting"
            elif event.kind in ("and", "with"):
                if (heads or targets) and not plural and self._predicated(clause[:j]):
                    break  # "there is an effusion, and *pneumonia* cannot be excluded"
                joined = True
            elif event.kind == "or":
                joined = True
            elif event.kind == "comma" and (heads or targets) and not joined:
                break
            if event.kind in _CONNECTORS:
                targets += heads
                heads = []
        return [named for named in targets + heads if named]

    def _coordinated(self, clause: Sequence[_Event], begin: int, i: int) -> bool:
        """Whether the cue `clause[i]`, whose predicate begins at `begin`, has the subject of the predicate before it.

        "The nodule is small *and may be an artifact*".
        """
        if not 0 < begin <= i < len(clause) or clause[begin - 1].kind not in ("and", "comma"):
            return False
        return _REFERS_BACK.fullmatch(self.sentence, clause[begin - 1].end, clause[i].start) is not None

    def _predicated(self, events: Sequence[_Event]) -> bool:
        """Whether a verb stands in front of all that these events name."""
        for event in events:
            if event.named:
                return False
            if event.kind == "verb":
                return any(each.named for each in events)
        return False

    def _predicate(self, clause: Sequence[_Event], i: int) -> int:
        """Where the predicate begins that the cue `clause[i]` belongs to: "have now been …"."""
        while i and (
            clause[i - 1].kind in ("verb", "trend", "asserting", "quantity")
            or (clause[i - 1].named and clause[i - 1].named.denied)
        ):
            i -= 1
        return i

    def _has_head(self, clause: Sequence[_Event], preposition: _Event) -> bool:
        """Whether something is named in front of a preposition in its item."""
        found = False
        for event in clause:
            if event is preposition:
                return found
            if event.kind in _CONNECTORS:
                found = False
            found |= event.named is not None
        return found

    def _alike(self, clause: Sequence[_Event]) -> list[Named]:
        """The nearest that is named and what is joined to it of the same observation."""
        targets: list[Named] = []
        for event in reversed(clause):
            if event.kind in ("verb", "seen"):
                break
            if event.named is not None:
                if targets and event.named.observations != targets[0].observations:
                    break
                targets.append(event.named)
        return targets

    def _change(self, targets: Iterable[Named], cue: Cue, remote: bool) -> None:
        """Gives what a cue speaks of its value, unless what stands in front says more.

        Args:
            targets: what the cue speaks of.
            cue: the cue.
            remote: whether the cue stands in a statement of its own: "no effusion, but it can't be excluded".
        """
        for named in targets:
            if named.denied or (named.value == ABSENT and not remote):
                continue
            if named.value is NOT_MENTIONED and cue.value == UNCERTAIN and not remote:
                continue  # "if a fracture is suspected"
            named.value = cue.value
