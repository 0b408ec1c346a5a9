"""Reading the CSV files of data sets, compressed or not."""

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .schema import ABSENT, OBSERVATIONS, PRESENT, UNCERTAIN
from .source import SourceError


def read_csv(file: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file in UTF-8, gzipped or not, with empty strings for absent cells.

    Args:
        file: ends in `.gz` when compressed.
        columns: those that must be there.

    Raises:
        FileNotFoundError: no such file.
        SourceError: columns are missing, or the file is damaged or no CSV.
    """
    try:
        open_text = gzip.open if file.suffix == ".gz" else open
        with open_text(file, "rt", encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                found = ", ".join(reader.fieldnames or ()) or "none"
                raise SourceError(f"{file}: it lacks the columns {', '.join(missing)} (columns found: {found})")
            yield from reader
    except (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise SourceError(f"{file}: not a CSV file in UTF-8, or damaged ({error})") from error


def find_csv(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, as it is or with `.gz`."""
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


_LABELS = {"": None, "nan": None, "1": PRESENT, "0": ABSENT, "-1": UNCERTAIN}


def read_labels(row: Mapping[str, object], where: str) -> dict[str, int | None]:
    """The 14 observations of a row that holds them as CheXpert's labeler writes them: 1, 0, -1 or nothing.

    Raises:
        SourceError: an observation is absent, or has another value.
    """
    labels = {}
    for name in OBSERVATIONS:
        # "1.0" as well as 1; null of JSON is nothing.
        value = row.get(name, "absent")
        text = "" if value is None else str(value).strip().lower().removesuffix(".0")
        if text not in _LABELS:
            raise SourceError(f"{where}: {name} is {value!r}; expected 1, 0, -1 or nothing")
        labels[name] = _LABELS[text]
    return labels
