"""Header fields of a DICOM as numbers and words, however they are written, without quoting them anywhere.

pydicom's own conversion is not asked: it stops at `N/A`, warns with the value in its message, and guesses the sign of
fields that may have either.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from .pixel_rules import DECODE_ERRORS, ImageReadError

logger = logging.getLogger(__name__)

PARSE_ERRORS = (AttributeError, NotImplementedError, RecursionError, TypeError)
"""What pydicom's parser raises on damaged files besides `DECODE_ERRORS`; to be caught where nothing else runs."""

_TEXT_TYPES = ("AS", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UI", "UT")
_NUMBER_TYPES = {
    "US": "u2",
    "SS": "i2",
    "UL": "u4",
    "SL": "i4",
    "FL": "f4",
    "FD": "f8",
    "OW": "u2",
    "US or SS": "u2",
    "US or OW": "u2",
    "US or SS or OW": "u2",
}


class DicomHeader:
    """The header fields of a data set of pydicom, or of an item of a sequence in one.

    Args:
        dataset: as `dcmread` gives it, whose elements are not converted yet.
        name: what to call the file in messages.
        strict: whether a doubt is an error.
        value_type: pydicom's function from a tag to its value representation, for files that don't state it.
    """

    def __init__(self, dataset: Any, name: str, strict: bool, value_type: Callable[[Any], str]) -> None:
        self.dataset = dataset
        self.name = name
        self._strict = strict
        self._value_type = value_type

    def doubt(self, text: str) -> None:
        """Log that the image may not be what is expected.

        Raises:
            ImageReadError: the same, where strictness was asked for.
        """
        if self._strict:
            raise ImageReadError(self.name, text)
        logger.warning("%s: %s", self.name, text)

    def kind(self, keyword: str) -> str:
        """The value representation of a field as the file states it; "" where it does not."""
        element = self._element(keyword)
        return "" if element is None else element.VR or ""

    def content(self, keyword: str) -> bytes:
        """The bytes of a field; nothing where it is absent, empty or a sequence."""
        element = self._element(keyword)
        return element.value if element is not None and isinstance(element.value, bytes) else b""

    def is_little_endian(self) -> bool:
        """The byte order of binary fields."""
        return bool(self.dataset.original_encoding[1])

    def numbers(self, keyword: str) -> list[float | None]:
        """The numbers in a field, `None` for what is none; a decimal comma counts as a point."""
        element = self._element(keyword)
        if element is None or not element.value:
            return []
        kind = self._kind(element)
        if kind in _TEXT_TYPES:
            return [_number(part) for part in _text(element.value).split("\\")]
        code = _NUMBER_TYPES.get(kind)
        if code is None or not isinstance(element.value, bytes) or len(element.value) % int(code[1]):
            return [None]
        order = "<" if self.is_little_endian() else ">"
        found = np.frombuffer(element.value, f"{order}{code}").tolist()
        return [float(number) if np.isfinite(number) else None for number in found]

    def whole(self, keyword: str) -> int | None:
        """The first number of a field as a whole one; `None` where the field is absent or empty.

        Raises:
            ImageReadError: it holds something else.
        """
        found = self.numbers(keyword)
        if not found:
            return None
        if found[0] is None or found[0] % 1:
            raise ImageReadError(self.name, f"damaged DICOM: {keyword} is no whole number")
        return int(found[0])

    def word(self, keyword: str) -> str:
        """The first value of a text field in capitals; "" where it is absent."""
        return self.words(keyword)[0]

    def words(self, keyword: str) -> list[str]:
        """The values of a text field in capitals; one "" where it is absent."""
        element = self._element(keyword)
        return [""] if element is None else [each.strip().upper() for each in _text(element.value).split("\\")]

    def items(self, keyword: str) -> list["DicomHeader"]:
        """The items of a sequence; none where the field is absent or no sequence."""
        element = self._element(keyword)
        if element is None or self._kind(element) != "SQ":
            return []
        try:
            items = list(self.dataset[keyword].value)
        except (*DECODE_ERRORS, *PARSE_ERRORS) as error:
            raise ImageReadError(
                self.name, f"damaged DICOM: {keyword} can't be read ({type(error).__name__})"
            ) from None
        return [DicomHeader(item, self.name, self._strict, self._value_type) for item in items]

    def _element(self, keyword: str) -> Any:
        try:
            return self.dataset.get_item(keyword)
        except (*DECODE_ERRORS, *PARSE_ERRORS) as error:
            raise ImageReadError(
                self.name, f"damaged DICOM: {keyword} can't be read ({type(error).__name__})"
            ) from None

    def _kind(self, element: Any) -> str:
        stated = element.VR
        return stated if stated not in (None, "UN") else self._value_type(element.tag)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii", errors="replace").strip(" \0")
    if value is None:
        return ""
    return str(value) if isinstance(value, str) or not hasattr(value, "__iter__") else "\\".join(map(str, value))


def _number(text: str) -> float | None:
    try:
        found = float(text.strip(" \0").replace(",", "."))
    except ValueError:
        return None
    return found if np.isfinite(found) else None
