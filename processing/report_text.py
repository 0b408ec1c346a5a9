"""The sections of a free-text radiology report, and the choice of those that a model shall write."""

import re
from collections.abc import Iterator, Mapping

SECTIONS: tuple[str, ...] = ("findings", "impression", "findings+impression")
"""What a model can be trained to write."""

UNLABELED = ""
"""Name of the text that stands under no heading."""

# Headings as radiologists write and misspell them, by the section that they open. A space stands for any run of spaces,
# and " ?" for one that may be missing.
_HEADINGS: Mapping[str, str] = {
    "findings": r"(?:(?:additional|chest|incidental|other|pertinent|radiographic) )?(?:findings?|finidings?|findgins)"
    r"|(?:findings?|observations?) ?(?:/|and|&) ?(?:impressions?|conclusions?)"
    r"|(?:impressions?|conclusions?) ?(?:/|and|&) ?findings?"
    r"|techniques? (?:and|&) findings?|observations?",
    "impression": r"(?:final )?(?:impressions?|impresson|impresion|impession|imression)"
    r"|impressions? ?(?:/|and|&) ?(?:plan|recommendations?)|conclusions?|opinion|interpretation",
    "indication": r"(?:clinical )?(?:indications?|indcation|inidcation)(?: for (?:the )?(?:exam(?:ination)?|study))?"
    r"|(?:clinical |patient |brief )?history"
    r"|clinical (?:context|data|details|information|statement)"
    r"|(?:clinical )?(?:history|indications?) ?(?:/|and|&) ?(?:clinical )?(?:history|indications?)"
    r"|reasons? for (?:this |the )?(?:exam(?:ination)?|study|procedure|referral)",
    "comparison": r"(?:comparisons?|comparision|comparsion)"
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
_TITLES = r"final (?:addendum|report)|preliminary report|end of (?:impression|report)|findings|impressions?|addendum"


def _spaced(pattern: str) -> str:
    return re.sub(r" (\??)", lambda space: r"[ \t]*" if space[1] else r"[ \t]+", pattern)


_KNOWN = "|".join(f"(?:{_spaced(pattern)})" for pattern in _HEADINGS.values())
_HEADING = re.compile(
    # A known heading at the start of a line, in whatever case but for its first letter,
    rf"^[ \t]*(?P<line>(?=[A-Z])(?i:{_KNOWN}))[ \t]*[:;]"
    # or in capitals behind other text,
    rf"|(?<![A-Z])(?<=\s)(?P<inline>(?=[A-Z])(?i:{_KNOWN}))[ \t]*:"
    # or a title alone on its line, without a colon.
    rf"|^[ \t]*(?P<title>(?=[A-Z])(?i:{_spaced(_TITLES)}))[ \t]*$"
    # Any other heading: a line that starts with capitals and a colon.
    r"|^[ \t]*(?P<unknown>[A-Z][A-Z0-9 \t,/&()#.\-]{2,70}):",
    re.MULTILINE,
)
_SECTION_OF = {name: re.compile(pattern) for name, pattern in _HEADINGS.items()}
_NEW_PARAGRAPH = re.compile(r"\n[ \t]*\n")


def split_sections(report: str) -> dict[str, str]:
    """The sections of a report in free text, such as MIMIC-CXR's and CheXpert Plus's.

    Headings are found at the start of a line, with a colon or alone on the line, and in capitals with a colon anywhere.
    "FINDINGS AND IMPRESSION" counts as findings. Indication, comparison, technique and examination end with their
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
        if name in _ONE_PARAGRAPH:
            text, *more = _NEW_PARAGRAPH.split(text.strip(), maxsplit=1)
            rest = more[0] if more else ""
        for key, part in ((name, text), (UNLABELED, rest)):
            if words := part.split():
                sections.setdefault(key, []).append(" ".join(words))
    return {name: " ".join(texts) for name, texts in sections.items()}


def _pieces(report: str) -> Iterator[tuple[str, str]]:
    """The report cut at its headings: the section's name, and the text up to the next heading."""
    name, start = UNLABELED, 0
    for match in _HEADING.finditer(report):
        heading = match[match.lastgroup or 0]
        if match.lastgroup in ("inline", "title") and heading != heading.upper():
            continue
        if match.lastgroup == "unknown" and name in _STRUCTURED:
            continue
        yield name, report[start : match.start()]
        name, start = _section_of(heading), match.end()
    yield name, report[start:]


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


def is_missing(text: str) -> bool:
    """Whether a section holds no report: neither a letter nor a digit, or a placeholder.

    Placeholders are what data sets and dictation write where nothing is: `nan`, `None.`, `N/A`, `See impression.`
    """
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
