"""CSV files: reading those of data sets and of users, compressed or not, and writing our own."""

import csv
import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from .schema import ABSENT, OBSERVATIONS, PRESENT, UNCERTAIN, SourceError

_DELIMITERS = (",", ";", "\t")
# What a spreadsheet takes for the beginning of a formula, which it would compute when it opens the file.
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
_FIELD_LIMIT = 2**31 - 1


def read_csv(file: Path, columns: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The rows of a CSV file; arguments and errors as for `read_csv_lines`."""
    return (row for _, row in read_csv_lines(file, columns))


def read_csv_lines(file: Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file in UTF-8, gzipped or not, each with its line, and empty strings for absent cells.

    Columns may be separated by commas, semicolons or tabs: the header's most frequent of them. Names of columns are
    stripped of blanks. What `write_csv` did to cells is undone.

    Args:
        file: ends in `.gz` when compressed.
        columns: those that must be there.

    Raises:
        FileNotFoundError: no such file.
        SourceError: columns are missing or twice there, a row is longer than the header, or the file is damaged or no
            CSV.
    """
    csv.field_size_limit(_FIELD_LIMIT)
    try:
        open_text = gzip.open if file.suffix == ".gz" else open
        with open_text(file, "rt", encoding="utf-8-sig", newline="") as lines:
            header = lines.readline()
            lines.seek(0)
            reader = csv.DictReader(lines, restval="", delimiter=delimiter_of(header), strict=True)
            names = [name.strip() for name in reader.fieldnames or ()]
            if twice := sorted({name for name in names if name and names.count(name) > 1}):
                raise SourceError(f"{file}: it has the column {twice[0]!r} twice")
            missing = [column for column in columns if column not in names]
            if missing:
                found = ", ".join(names) or "none"
                raise SourceError(f"{file}: it lacks the columns {', '.join(missing)} (columns found: {found})")
            reader.fieldnames = names
            for row in reader:
                if None in row:
                    raise SourceError(
                        f"{file}, line {reader.line_num}: it has more cells than the header has columns; a text with a "
                        "separator in it needs quotes"
                    )
                yield reader.line_num, {name: plain_cell(cell) for name, cell in row.items()}
    except UnicodeDecodeError as error:
        raise SourceError(f"{file}: not a CSV file in UTF-8 ({error}); save it in the encoding UTF-8") from error
    except (csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise SourceError(f"{file}: not a CSV file in UTF-8, or damaged ({error})") from error


def delimiter_of(header: str) -> str:
    """What separates the columns of a CSV file: the most frequent of comma, semicolon and tab in its first line."""
    return max(_DELIMITERS, key=header.count)


def write_csv(file: TextIO, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows as CSV that a spreadsheet can open safely.

    A text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return gets an apostrophe before it, so that no
    program takes it for a formula; `read_csv` takes it off again. None is an empty cell.

    Args:
        file: open for text with `newline=""`.
        rows: cells of each row.
    """
    csv.writer(file).writerows([_harmless(cell) for cell in row] for row in rows)


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip("'").startswith(_FORMULA_SIGNS) else cell


def plain_cell(cell: str) -> str:
    """The cell as it was before `write_csv`."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA_SIGNS) else cell


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
