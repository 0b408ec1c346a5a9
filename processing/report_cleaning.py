"""The report cleaning of the papers, so that reports and scores can be compared with theirs.

All of them lower the case, drop the numbers of lists and most punctuation, and write every sentence as
`words words .`. They differ in details that change tokens, so each is kept to the letter, its quirks included:

| style | who uses it | source |
|---|---|---|
| `iu-xray` | everybody for IU X-ray | R2Gen (Chen et al., EMNLP 2020), released code |
| `mimic-cxr` | R2Gen and its followers for MIMIC-CXR | the same |
| `r2gengpt` | R2GenGPT, MambaXray-VL and their followers for MIMIC-CXR and CheXpert Plus | R2GenGPT (Wang et al., \
Meta-Radiology 2023), released code |
"""

from dataclasses import dataclass

_QUOTES_AND_SLASHES = str.maketrans("", "", "\"'/\\")
_LIST_NUMBERS = range(2, 6)


@dataclass(frozen=True)
class _Rules:
    """What differs between the styles.

    Attributes:
        line_breaks: whether line breaks become spaces.
        halvings: characters whose doubles become single, and how many times in a row. Each time halves a run of
            them, so very long runs stay doubled.
        spaced_colons: whether a colon is set apart as a word of its own.
        dropped: characters that are dropped. R2Gen's bracket expression holds `:-[`, which is a range and not a
            hyphen: hyphens stay, and `< = > @` between the two go.
    """

    line_breaks: bool
    halvings: tuple[tuple[str, int], ...]
    spaced_colons: bool
    dropped: str


_FEW_MARKS = ".,?;*!%^&_+()[]{}"
_MORE_MARKS = _FEW_MARKS + ":<=>@"
_MIMIC_HALVINGS = (("_", 7), (" ", 6), (".", 8))
_STYLES = {
    "iu-xray": _Rules(False, ((".", 3),), False, _MORE_MARKS),
    "mimic-cxr": _Rules(True, _MIMIC_HALVINGS, False, _MORE_MARKS),
    "r2gengpt": _Rules(True, _MIMIC_HALVINGS, True, _FEW_MARKS),
}
CLEANINGS: tuple[str, ...] = tuple(_STYLES)
"""Names of the styles of `clean_report`."""


def clean_report(report: str, style: str) -> str:
    """A report as the papers train and score on it, see the table above.

    The empty report becomes `" ."`, as there.

    Raises:
        ValueError: an unknown style.
    """
    if style not in _STYLES:
        raise ValueError(f"unknown report cleaning {style!r}; there are {', '.join(CLEANINGS)}")
    rules = _STYLES[style]
    text = report.replace("\n", " ") if rules.line_breaks else report
    for character, times in rules.halvings:
        for _ in range(times):
            text = text.replace(character * 2, character)
    text = text.replace("1. ", "")
    # First the numbers after a full stop, then those that follow words without one.
    for before in (". ", " "):
        for number in _LIST_NUMBERS:
            text = text.replace(f"{before}{number}. ", ". ")
    if rules.spaced_colons:
        text = text.replace(":", " :")
    dropped = str.maketrans("", "", rules.dropped)
    sentences = text.strip().lower().split(". ")
    # Spaces are stripped before marks are dropped: those beside a mark at a sentence's edge stay.
    return " . ".join(s.translate(_QUOTES_AND_SLASHES).strip().translate(dropped) for s in sentences) + " ."
