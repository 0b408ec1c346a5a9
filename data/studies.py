"""`load_studies`: the one way in which recipes and commands name the studies they work on."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .annotation_json import load_annotation_json
from .options import call_with_options
from .phantoms import make_phantoms
from .prepared import CARD_FILE, load_prepared, read_card
from .table import is_table, load_table

if TYPE_CHECKING:
    import datasets


def first_studies(studies: "datasets.Dataset", count: int | None) -> "datasets.Dataset":
    """The first `count` studies at most; all when None."""
    return studies if count is None else studies.select(range(min(count, len(studies))))


def report_cleaning(source: Any, options: Mapping[str, Any]) -> str | None:
    """How the reports of `load_studies(source, **options)` are cleaned: as its `cleaning` says, or as those of a
    prepared folder were."""
    if options.get("cleaning") is not None or not isinstance(source, str | Path):
        return options.get("cleaning")
    return read_card(source)["cleaning"] if (Path(source) / CARD_FILE).is_file() else None


def load_studies(
    source: "str | Path | datasets.Dataset | datasets.DatasetDict", **options: Any
) -> "datasets.DatasetDict":
    """Studies in the schema of `data/schema.py`, from whatever names them.

    Args:
        source: `"phantoms"`, a folder that `mambaxray prepare` has written, one with an `annotation.json` in
            R2Gen's format, or a table of images and reports: a `datasets` data set, its folder, a CSV or JSON lines
            file, or its address on the Hub, `hf://datasets/USER/NAME`.
        options: those of the function that reads this source: `make_phantoms` (where `num_studies` must be given),
            `load_prepared`, `load_annotation_json` or `load_table`.

    Returns:
        One data set for each split.

    Raises:
        FileNotFoundError: the source is neither a known name nor a folder that can be read.
        TypeError: an option that this source does not have, or lacks one that it needs.
        ValueError: as the function that reads the source.
    """
    if isinstance(source, str) and source == "phantoms":
        return call_with_options(make_phantoms, "phantoms", {}, options)
    if not isinstance(source, str | Path):
        if not is_table(source):
            raise TypeError(f"source must be a name, a path or a data set of `datasets`, got {type(source).__name__}")
        return call_with_options(load_table, "a data set", {"source": source}, options)
    folder = Path(source)
    if (folder / CARD_FILE).is_file():
        return call_with_options(load_prepared, f"{folder} (prepared)", {"folder": folder}, options)
    if (folder / "annotation.json").is_file():
        return call_with_options(load_annotation_json, f"{folder} (annotation.json)", {"folder": folder}, options)
    if is_table(source):
        return call_with_options(load_table, f"{source} (a table)", {"source": source}, options)
    raise FileNotFoundError(
        f"{str(source)!r} names no studies: give 'phantoms', a folder finished by `mambaxray prepare`, one with an "
        "annotation.json in R2Gen's format, or a table of images and reports (a data set's folder, a .csv, .tsv, "
        ".jsonl or .parquet file, or hf://datasets/USER/NAME on the Hub)"
    )
