"""What the cells of users' tables mean: texts, ids, lists, views and labels, however they are written."""

import json
import re
from ast import literal_eval
from collections.abc import Iterable, Mapping
from typing import Any

from .csv_table import read_labels
from .schema import OBSERVATIONS, SourceError

_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffe]"
)
_MARKUP = re.compile(
    r"</?(?:p|br|div|span|b|i|u|li|ul|ol|td|tr|th|table|html|body|font|strong|em|h[1-6])\b[^<>]*>", re.I
)
_NO_ID = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat"})
_ROUNDED = re.compile(r"\d(?:[.,]\d+)?[eE]\+\d+")
_LARGEST_EXACT = 2**53
"""Above it floating-point numbers no longer tell neighbouring ids apart."""
_LIST_SEPARATOR = ";"

_PROJECTIONS = {
    **dict.fromkeys(("PA", "POSTEROANTERIOR"), "PA"),
    **dict.fromkeys(("AP", "ANTEROPOSTERIOR"), "AP"),
    **dict.fromkeys(("LATERAL", "LAT", "LL", "RL"), "LATERAL"),
}


def plain_text(text: str) -> str:
    """A text without control characters and those of no width, and without white space around it."""
    return _INVISIBLE.sub("", text).strip()


def has_markup(text: str) -> bool:
    """Whether there are tags of HTML in a text."""
    return "<" in text and _MARKUP.search(text) is not None


def plain_identifier(value: Any, column: str, where: str) -> str:
    """An id as text, as it is written; empty where the cell holds none (`nan`, `NULL`, …).

    Raises:
        SourceError: neither a text nor a whole number, or a number that has lost its last digits.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        if abs(value) > _LARGEST_EXACT:
            raise _rounded(value, column, where)
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SourceError(f"{where}: {column} must be a text or a whole number, got {short(value)}")
    text = plain_text(str(value))
    if _ROUNDED.fullmatch(text):
        raise _rounded(text, column, where)
    return "" if text.lower() in _NO_ID else text


def _rounded(value: Any, column: str, where: str) -> SourceError:
    return SourceError(
        f"{where}: {column} is {value!r}, a number that a spreadsheet has rounded, so that different ids may have "
        "become one; export the column as text"
    )


def listed(value: Any) -> list[Any]:
    """The values of a cell: of a list, of a text that holds one (`['a.png', 'b.png']`, `a.png;b.png`), or the cell."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str):
        return [value]
    text = value.strip()
    if text.startswith("[") and text.endswith("]"):
        for read in (json.loads, literal_eval):
            try:
                found = read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list):
                return found
    return text.split(_LIST_SEPARATOR) if _LIST_SEPARATOR in text else [value]


def standard_view(name: str) -> str:
    """A view position, as DICOM and users write it, in the schema's words; empty for oblique and unknown ones.

    >>> [standard_view(name) for name in ("PA", "ap portable", "LL", "Lateral", "PA LLD", "PA and lateral", "LAO")]
    ['PA', 'AP', 'LATERAL', 'LATERAL', 'PA', '', '']
    """
    words = re.findall(r"\w+", name.upper().replace(".", "").replace("O-A", "OA"))
    found = {_PROJECTIONS[word] for word in words if word in _PROJECTIONS}
    return found.pop() if len(found) == 1 else ""


def read_table_labels(row: Mapping[str, Any], where: str) -> dict[str, int | None] | None:
    """The labels of a row, from a column for each observation or from `labels` with a value for each.

    What is not among them is not mentioned. None where the row says nothing of labels in the words of the schema.

    Raises:
        SourceError: a value other than 1, 0, -1 or nothing, or an unknown observation among known ones.
    """
    given = row.get("labels")
    if isinstance(given, str) and given.strip().startswith("{"):
        try:
            given = json.loads(given)
        except ValueError:
            given = None
    if not isinstance(given, Mapping) or not set(given) & set(OBSERVATIONS):
        given = {name: row[name] for name in OBSERVATIONS if name in row}
        if not given:
            return None
    if unknown := sorted(map(str, set(given) - set(OBSERVATIONS))):
        raise SourceError(
            f"{where}: labels has the unknown observation {unknown[0]!r}; known are {', '.join(OBSERVATIONS)}"
        )
    return read_labels({name: given.get(name) for name in OBSERVATIONS}, where)


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def look_alike(ids: Iterable[str]) -> dict[str, list[str]]:
    """Ids that differ only in case, blanks, leading zeros or a `.0`, by what they have in common."""
    alike: dict[str, list[str]] = {}
    for text in ids:
        key = re.sub(r"\s+", "", text).casefold().removesuffix(".0").lstrip("0")
        alike.setdefault(key, []).append(text)
    return {key: found for key, found in alike.items() if len(found) > 1}


__all__ = [
    "has_markup",
    "listed",
    "look_alike",
    "plain_identifier",
    "plain_text",
    "read_table_labels",
    "short",
    "standard_view",
]
