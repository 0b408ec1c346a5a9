"""The numbers that the five papers print, as data (`published/*.yaml`), to stand beside one's own.

They are the papers' claims, copied. Their clinical scores come from labelers other than this package's, so those
columns can't be compared with ours.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import isfinite
from types import MappingProxyType
from typing import Any

import yaml

_SHARES = (
    *("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "METEOR"),
    *("precision", "recall", "F1", "RadGraph_F1", "BERTScore"),
)
"""Columns between 0 and 1."""
_POSITIVE = (
    *("CIDEr", "RadCliQ", "minutes", "epochs"),
    *("trained_parameters_millions", "language_model_parameters_millions"),
)
_TEXTS = ("row", "method", "venue", "encoder", "decoder")
PUBLISHED_COLUMNS: tuple[str, ...] = (*_SHARES, *_POSITIVE)
"""Names of the numbers; caption metrics are called as in `evaluate_reports`. `minutes` is the time for the test set."""


class PublishedError(ValueError):
    """A file of published numbers that does not hold what it should; the message names file, table and row."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of one table of one paper.

    Attributes:
        paper: the system whose paper it is, such as "EMRRG".
        table: the table's number as printed.
        caption: what the table shows.
        dataset: "CheXpert Plus", "MIMIC-CXR" or "IU X-ray".
        row: the row's number as printed, or its position within its data set.
        method: the method or setting.
        venue, encoder, decoder: as printed; empty where the table does not say.
        scores: the row's numbers by the names of `PUBLISHED_COLUMNS`; what is not printed or not readable is absent.
        note: what to know about the table, such as that it was read from a scan.
    """

    paper: str
    table: str
    caption: str
    dataset: str
    row: str
    method: str
    venue: str
    encoder: str
    decoder: str
    scores: Mapping[str, float]
    note: str = ""

    @property
    def is_own(self) -> bool:
        """Whether the paper calls this method its own."""
        return self.venue == "Ours"

    @property
    def source(self) -> str:
        """Where the row stands, such as "EMRRG, table 4, #13"."""
        return f"{self.paper}, table {self.table}, {self.row}"


@cache
def load_published() -> tuple[PublishedRow, ...]:
    """All rows of all papers, in the order of the files."""
    files = sorted(
        (file for file in resources.files(__package__).joinpath("published").iterdir() if file.name.endswith(".yaml")),
        key=lambda file: file.name,
    )
    return tuple(row for file in files for row in parse_published(file.read_text(encoding="utf-8"), file.name))


def parse_published(text: str, name: str) -> list[PublishedRow]:
    """Reads and checks one paper's file.

    Args:
        text: YAML with `paper` and `tables`; each table has `table`, `dataset`, `caption`, perhaps `note`, `columns`
            and `rows`, which give one value per column.
        name: the file's name, for messages.

    Raises:
        PublishedError: a key or column that is absent or unknown, a row of the wrong length, a row twice, or a number
            that can't be.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PublishedError(f"{name} is no YAML: {error}") from error
    _require_keys(content, {"paper", "tables"}, set(), name)
    rows = [row for table in content["tables"] for row in _rows(content["paper"], table, name)]
    seen: set[tuple[str, str, str, str]] = set()
    for row in rows:
        key = (row.table, row.dataset, row.caption, row.row)
        if key in seen:
            raise PublishedError(f"{name}: table {row.table}, {row.dataset} has row {row.row!r} twice")
        seen.add(key)
    return rows


def _rows(paper: str, table: Any, name: str) -> Iterator[PublishedRow]:
    _require_keys(table, {"table", "dataset", "caption", "columns", "rows"}, {"note"}, f"{name}: a table")
    where = f"{name}, table {table['table']}, {table['dataset']}"
    columns = table["columns"]
    if unknown := [column for column in columns if column not in (*_TEXTS, *PUBLISHED_COLUMNS)]:
        raise PublishedError(f"{where}: unknown columns {', '.join(map(str, unknown))}; known are {PUBLISHED_COLUMNS}")
    if len(set(columns)) != len(columns) or not {"row", "method"} <= set(columns):
        raise PublishedError(f"{where}: every column once, 'row' and 'method' among them; it has {columns}")
    for values in table["rows"]:
        if len(values) != len(columns):
            raise PublishedError(f"{where}: the row {values} has {len(values)} values for {len(columns)} columns")
        cells = dict(zip(columns, values, strict=True))
        texts = {column: cells.get(column, "") for column in _TEXTS}
        if wrong := [column for column, text in texts.items() if not isinstance(text, str)]:
            raise PublishedError(f"{where}: {wrong[0]} of the row {values} is not a string; put it in quotes")
        scores = {column: cells[column] for column in columns if column not in _TEXTS and cells[column] is not None}
        for column, value in scores.items():
            if not _is_possible(column, value):
                raise PublishedError(f"{where}, row {cells['row']}: {column} can't be {value!r}")
        yield PublishedRow(
            paper=paper,
            table=table["table"],
            caption=table["caption"],
            dataset=table["dataset"],
            **texts,
            scores=MappingProxyType({column: float(value) for column, value in scores.items()}),
            note=table.get("note", ""),
        )


def _is_possible(column: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return False
    return 0 <= value <= 1 if column in _SHARES else value > 0


def _require_keys(content: Any, needed: set[str], allowed: set[str], where: str) -> None:
    keys = set(content) if isinstance(content, dict) else set()
    if wrong := sorted((needed - keys) | (keys - needed - allowed)):
        needs = ", ".join(sorted(needed))
        raise PublishedError(f"{where}: missing or unknown keys {', '.join(wrong)}; it needs {needs}")


__all__ = ["PUBLISHED_COLUMNS", "PublishedError", "PublishedRow", "load_published", "parse_published"]
