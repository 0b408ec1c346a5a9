"""The sentences of a report: where they end, and where a line break is only a wrapped line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
"""For `str.translate`. ASCII only: `str.lower` can change a text's length, and what is found are offsets into it."""

_END = re.compile(
    r"(?<!\b[vV]s)(?<!\b[dD]r)(?<!\b[aA]pprox)(?<!\be\.g)(?<!\bi\.e)[.!](?=\s|$|[)\]])"
    r"|(?<=\w)\?(?=\s|$)"
    r"|(?<=[a-z]{2})\.(?=[a-z]{2}|\d+[.)] ?[a-z])"  # in lower case: "ptx.heart", "clear.2.no"
    r"|\n\s*\n|\n(?=\s*(?:[-*•]|\(?\d{1,2}[.)](?!\d)))"
    r"|(?<=[\s.])(?=\(?\d{1,2}[.)] ?[a-z]{2})|(?<=\s)(?=[b-h]\) [a-z]{2})"
    r"|(?<=\s)(?=[•▪◦]|#\d{1,2}[ :.)])"
    r"|(?P<line>\s*\n\s*)"
)
_LONGEST = 2000
"""Characters after which a sentence without an end is cut, so that no text takes long."""

_UNFINISHED = re.compile(
    r"(?:[,(/-]|\b(?:and|or|nor|no|not|without|with|of|in|at|on|to|for|from|by|the|an?|is|are|was|were|has|have|been"
    r"|be|may|might"
    r"|could|can|cannot|but|than|that|which|this|these|there|any|as|into|over|within|near|along|consistent|compatible"
    r"|due|secondary|status|post|bilateral|both|upper|lower|middle|mid|small|large|moderate|mild|severe|minimal"
    r"|trace|tiny|new|old|acute|chronic|focal|definite|significant|pleural|pulmonary|cardiac"
    r"|mediastinal|hilar|(?<!th )(?<!st )(?<!nd )(?<!rd )rib"
    r"|central|venous|endotracheal|nasogastric|enteric|interstitial|vascular|pericardial"
    r"|basilar"
    r"|bibasilar|apical|basal|evidence|interval|linear|patchy|sided|support|soft|airspace|air|costophrenic|lobar"
    r"|nodular"
    r"|ground)|(?<!the )\b(?:left|right))\s*$"
)
"""Ends a line that goes on in the next one."""
_GOES_ON = re.compile(
    r"(?:and|or|nor|but|with|without|of|in|at|on|to|for|from|by|is(?! there)|are(?! there)"
    r"|was|were|has|have|been|may|might|could|can"
    r"|cannot|which|that"
    r"|seen|identified|noted|present|consistent|compatible|suggest\w*|represent\w*|concerning|due|secondary|within"
    r"|versus|vs|as"
    r"|than|not|also|again|remains?|appears?|along|over|overlying|adjacent)\b"
)
"""Begins a line that goes on from the one before."""
_STARTS = re.compile(r"(?:no|there)\b")
"""Begins a line that is a sentence of its own."""
_STOP_INSIDE = re.compile(r"(?i:[^\W\d]{2}(?<!\bvs)(?<!\bdr)(?<!\bapprox))\.\s+\w")


@dataclass(frozen=True)
class Sentence:
    """A sentence in lower case on one line.

    Attributes:
        words: the sentence, runs of white space as one space.
        offsets: where each of its characters stands in the report, and where its end does; None when that is
            `start` and on.
        start: where it begins in the report.
    """

    words: str
    start: int
    offsets: tuple[int, ...] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where `words[start:end]` stands in the report."""
        if self.offsets is None:
            return self.start + start, self.start + end
        if start >= end:
            return self.offsets[start], self.offsets[start]
        return self.offsets[start], self.offsets[end - 1] + 1


def sentences(lowered: str, start: int, end: int, text: str) -> Iterator[Sentence]:
    """The sentences of `lowered[start:end]`.

    A sentence ends at a full stop, a question mark, an empty line and before the number or bullet of a list item. It
    ends at another line break unless the words on either side show that it goes on; where there are full stops within
    lines, the next line must begin with a capital, or in text of one case with "no" or "there".

    Args:
        lowered: the report in lower case.
        start, end: the part to read.
        text: the report as it is, of the same length.
    """
    begin = start
    part = text[start:end]
    mixed = not (part.isupper() or part.islower())
    wraps = _STOP_INSIDE.search(part) is not None
    for mark in _END.finditer(lowered, start, end):
        if mark["line"] is not None:
            at_break = _UNFINISHED.search(lowered, max(begin, mark.start() - 20), mark.start())
            if mark.end() >= end or at_break or (not mixed and _GOES_ON.match(lowered, mark.end())):
                continue
            if mixed and (wraps or text[mark.end()].isupper()):
                ends = text[mark.end()].isupper() and not text[mark.end() : mark.end() + 2].isupper()
            elif mixed:
                ends = _GOES_ON.match(lowered, mark.end()) is None
            else:
                ends = not wraps or _STARTS.match(lowered, mark.end()) is not None
            if not ends:
                continue
        stop = mark.end() if mark.group() == "?" else mark.start()
        yield from _cut(lowered, begin, stop)
        begin = mark.end()
    yield from _cut(lowered, begin, end)


def sentences_of(report: str) -> list[str]:
    """The sentences of a report as they are written, each on one line."""
    lowered = report.translate(LOWER)
    spans = (sentence.span(0, len(sentence.words)) for sentence in sentences(lowered, 0, len(report), report))
    # With the stop that ends it.
    return [
        " ".join(report[start : end + (report[end : end + 1] in (".", "!"))].split())
        for start, end in spans
        if start < end
    ]


def _cut(lowered: str, start: int, end: int) -> Iterator[Sentence]:
    for begin in range(start, end, _LONGEST):
        words = lowered[begin : min(end, begin + _LONGEST)].rstrip()
        plain = words.lstrip()
        begin += len(words) - len(plain)
        collapsed = " ".join(plain.split())
        if collapsed == plain:
            yield Sentence(plain, begin)
        else:
            kept = [match.start() for match in re.finditer(r"\S|\s(?=\S)", plain)]
            yield Sentence(collapsed, begin, tuple(begin + place for place in kept))
