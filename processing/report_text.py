"""The sections of a free-text radiology report, and the choice of those that a model shall write."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

SECTIONS: tuple[str, ...] = ("findings", "impression", "findings+impression")
"""What a model can be trained to write."""

UNLABELED = ""
"""Name of the text that stands under no heading."""

# Headings as radiologists write them, by the section that they open. A space stands for any run of spaces, and " ?" for
# one that may be missing.
_HEADINGS: Mapping[str, str] = {
    "findings": r"(?:(?:additional|chest|incidental|other|pertinent|radiographic) )?findings?"
    r"|(?:findings?|observations?) ?(?:/|and|&) ?(?:impressions?|conclusions?)"
    r"|(?:impressions?|conclusions?) ?(?:/|and|&) ?findings?"
    r"|techniques? (?:and|&) findings?|observations?",
    "impression": r"(?:final )?impressions?"
    r"|impressions? ?(?:/|and|&) ?(?:plan|recommendations?)|conclusions?|opinion|interpretation",
    "indication": r"(?:clinical )?indications?(?: for (?:the )?(?:exam(?:ination)?|study))?"
    r"|(?:clinical |patient |brief )?history"
    r"|clinical (?:context|data|details|information|statement)|(?:admitting|clinical|working) diagnos[ei]s"
    r"|(?:clinical )?(?:history|indications?) ?(?:/|and|&) ?(?:clinical )?(?:history|indications?)"
    r"|reasons? for (?:this |the )?(?:exam(?:ination)?|study|procedure|referral)",
    "comparison": r"comparisons?"
    r"(?: (?:is )?made|(?: (?:exams?|examinations?|films?|radiographs?|study|studies))?(?: (?:to|with))?)"
    r"|compared (?:to|with)"
    r"|(?:prior|previous) (?:exams?|examinations?|films?|radiographs?|study|studies)",
    "technique": r"techniques?|procedure(?: comments?)?|views?",
    "examination": r"(?:type of )?exam(?:ination)?s?|(?:name of )?study",
    "other": r"accession number|addendum|attestation|dates?(?: of (?:exam|service))?|end of (?:impression|report)"
    r"|final (?:addendum|report)|narrative|notifications?|(?:pfi|preliminary) report"
    r"|provisional findings impression(?: ?\(pfi\))?|recommendations?(?: ?\(s\))?|signed by|summary"
    r"|wet read(?: version(?: #\d+)?)?",
}
# These consist of one paragraph. What follows it belongs to no heading: often the findings of a report that does not
# name them, which must not pass for an indication that a model may be shown.
_ONE_PARAGRAPH = ("indication", "comparison", "technique", "examination")
# Inside these, capitals with a colon are the report's own structure ("LUNGS: clear") unless they name another section.
_STRUCTURED = ("findings", "impression")
# The words of these headings, as misspelt ones are compared with them.
_SPELLINGS = (
    *("findings", "finding", "impression", "impressions", "indication", "indications", "comparison", "comparisons"),
    *("technique", "history", "clinical", "examination", "conclusion", "conclusions", "recommendation"),
    *("recommendations", "observations", "interpretation", "reason", "procedure"),
)
_CLOSE, _VERY_CLOSE = 0.85, 0.9
"""Shares of letters in common, by `difflib`: one or two slips of the pen in a word, and one slip in a long word."""
_TITLES = r"end of (?:impression|report)|final (?:addendum|report)|preliminary report"
# The views as a heading, with the findings behind it: "CHEST, TWO VIEWS:", "PA AND LATERAL CHEST RADIOGRAPHS:".
_VIEWS = re.compile(
    r"(?=.*\b(?:chest|views?|radiographs?)\b)"
    r"(?:(?:chest|views?|radiographs?|x-?rays?|films?|frontal|lateral|pa|ap|lat|portable|upright|supine|semi-?upright"
    r"|semi-?erect|erect|single|one|two|three|[123]|of|the|and|&|with|view\(s\))[ ,.()/-]*)+"
)
_FEWEST_WORDS = 3
"""Words behind such a heading with which they count as findings; fewer are a date or a number."""


def _spaced(pattern: str) -> str:
    return re.sub(r" (\??)", lambda space: r"[ \t]*" if space[1] else r"[ \t]+", pattern)


_KNOWN = "|".join(f"(?:{_spaced(pattern)})" for pattern in _HEADINGS.values())
_HEADING = re.compile(
    # A known heading at the start of a line, in whatever case but for its first letter,
    rf"^[ \t]*(?P<line>(?=[A-Z])(?i:{_KNOWN}))[ \t]*[:;]"
    # or in capitals behind other text,
    rf"|(?<![A-Z])(?<=\s)(?P<inline>(?=[A-Z])(?i:{_KNOWN}))[ \t]*:"
    # or alone on its line, without a colon;
    rf"|^[ \t]*(?P<title>(?=[A-Z])(?i:{_KNOWN}|{_spaced(_TITLES)}))[ \t]*$"
    # what may be one of these, misspelt;
    r"|^[ \t]*(?P<near>[A-Z][A-Za-z]+(?:[ \t]+[A-Za-z]+){0,3})[ \t]*[:;]"
    r"|(?<![A-Z])(?<=\s)(?P<near_inline>[A-Z]{6,15})[ \t]*:"
    r"|^[ \t]*(?P<near_title>[A-Z]{6,15})[ \t]*$"
    # any other heading: a line that starts with capitals and a colon.
    r"|^[ \t]*(?P<unknown>[A-Z][A-Z0-9 \t,/&()#.\-]{2,70}):",
    re.MULTILINE,
)
_SECTION_OF = {name: re.compile(pattern) for name, pattern in _HEADINGS.items()}
_NEW_PARAGRAPH = re.compile(r"\n[ \t]*\n")


def split_sections(report: str) -> dict[str, str]:
    """The sections of a report in free text, such as MIMIC-CXR's and CheXpert Plus's.

    Headings are found at the start of a line, with a colon or alone on the line, and in capitals with a colon anywhere;
    each of their words may be misspelt. "FINDINGS AND IMPRESSION" counts as findings, and so does what follows the
    names of the views ("CHEST, TWO VIEWS:"). Indication, comparison, technique and examination end with their
    paragraph. Nothing is taken for findings that isn't headed so.

    Args:
        report: the report with its line breaks.

    Returns:
        Text by section, white space collapsed, empty sections left out: `findings`, `impression`, `indication` (also
        history, reason for the examination), `comparison`, `technique`, `examination`; under `other` what such reports
        hold besides (wet reads, recommendations, notifications, addenda …); under any other heading in capitals, that
        heading in lower case; under `UNLABELED` what stands beneath no heading. A section that occurs twice is
        joined.
    """
    sections: dict[str, list[str]] = {}
    for name, text in _pieces(report.replace("\r\n", "\n").replace("\r", "\n")):
        rest = ""
        if _VIEWS.fullmatch(name) and len(re.findall(r"[^\W\d_]{2,}", text)) >= _FEWEST_WORDS:
            name = "findings"
        if name in _ONE_PARAGRAPH:
            text, *more = _NEW_PARAGRAPH.split(text.strip(), maxsplit=1)
            rest = more[0] if more else ""
        for key, part in ((name, text), (UNLABELED, rest)):
            if words := part.split():
                sections.setdefault(key, []).append(" ".join(words))
    return {name: " ".join(texts) for name, texts in sections.items()}


def _pieces(report: str) -> Iterator[tuple[str, str]]:
    """The report cut at its headings: the section's name, and the text up to the next heading."""
    name, end = UNLABELED, 0
    for heading, start, next_end in headings(report):
        yield name, report[end:start]
        name, end = heading, next_end
    yield name, report[end:]


def headings(report: str) -> Iterator[tuple[str, int, int]]:
    """The headings of a report, in order: the section that each opens, as `split_sections` names it, and its span."""
    name = UNLABELED
    for match in _HEADING.finditer(report):
        kind, heading = match.lastgroup or "", match[match.lastgroup or 0]
        if kind.startswith("near"):
            respelt = _respell(heading)
            if respelt is not None:
                heading = respelt
            elif kind == "near" and heading.isupper():
                kind = "unknown"
            else:
                continue
        elif not heading.isupper() and (
            kind == "inline" or (kind == "title" and not _stands_apart(report, match.start()))
        ):
            continue
        if kind == "unknown" and (name in _STRUCTURED or _VIEWS.fullmatch(name)):
            continue
        name = _section_of(heading)
        yield name, match.start(), match.end()


def _respell(heading: str) -> str | None:
    """The known heading that this one is with its words misspelt, None when there is none."""
    words = []
    for word in heading.lower().split():
        close = get_close_matches(word, _SPELLINGS, n=1, cutoff=_CLOSE) if len(word) > 5 else []
        if close and close[0][0] != word[0]:  # "ndication", but not "compression"
            close = get_close_matches(word, _SPELLINGS, n=1, cutoff=_VERY_CLOSE)
        words.append(close[0] if close else word)
    respelt = " ".join(words)
    return respelt if any(pattern.fullmatch(respelt) for pattern in _SECTION_OF.values()) else None


def _stands_apart(report: str, start: int) -> bool:
    """Whether no sentence goes on at a line that begins at `start`."""
    before = report[:start].rstrip()
    return not before or before[-1] in ".:;" or report.count("\n", len(before), start) > 1


def _section_of(heading: str) -> str:
    heading = " ".join(heading.lower().split())
    return next((name for name, pattern in _SECTION_OF.items() if re.fullmatch(pattern, heading)), heading)


_PLACEHOLDER = re.compile(
    r"\W*(?:nan|null|none|nil|n/?a|n\.a\.?|not (?:available|applicable|given|provided|dictated)|no (?:findings?"
    r"|impression|report)(?: section)? (?:given|available|provided|dictated|found)|empty|unavailable|missing|blank"
    r"|(?:(?:please )?see|as|refer to|per)(?: the)? (?:above|below|findings?|impression|report|conclusion"
    r"|full report|body of (?:the )?report|findings? (?:above|section)|impression (?:below|section)))?\W*",
    re.IGNORECASE,
)


_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|&(?:#\w+|[A-Za-z]+);")


def is_missing(text: str) -> bool:
    """Whether a section holds no report: neither a letter nor a digit (tags of HTML aside), or a placeholder.

    Placeholders are what data sets and dictation write where nothing is: `nan`, `None.`, `N/A`, `See impression.`
    """
    if "<" in text or "&" in text:
        text = _MARKUP.sub(" ", text)
    return _PLACEHOLDER.fullmatch(text.replace("_", " ")) is not None


def choose_report(findings: str, impression: str, section: str) -> str:
    """The text that a model shall write for a study.

    Args:
        findings: the report's findings, empty when absent.
        impression: its impression.
        section: one of `SECTIONS`; of `"findings+impression"` one part is enough.

    Returns:
        The text, or an empty one when there is none: no letter or digit in it.

    Raises:
        ValueError: an unknown section.
    """
    parts = {"findings": [findings], "impression": [impression], "findings+impression": [findings, impression]}
    if section not in parts:
        raise ValueError(f"unknown section {section!r}; a model can write {', '.join(SECTIONS)}")
    return " ".join(part.strip() for part in parts[section] if not is_missing(part))
