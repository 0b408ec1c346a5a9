"""Loading what `mambaxray prepare` has written."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .priors import with_priors
from .schema import study_features

if TYPE_CHECKING:
    import datasets

CARD_FILE = "prepared.json"
LEFT_OUT_FILE = "left_out.csv"
_WITH_CONTEXT = 3
"""The first format of prepared folders whose files hold the columns `technique` and `prior`."""
_CARD_KEYS = {"section", "cleaning", "counts", "fingerprint"}


class PreparedError(ValueError):
    """A folder that `mambaxray prepare` did not write, did not finish, or wrote for another purpose."""


def read_card(folder: str | Path) -> dict[str, Any]:
    """What a prepared folder says of itself, see `prepare_studies`.

    Raises:
        FileNotFoundError: there is no card, so the folder was not prepared, or not to the end.
        PreparedError: the card can't be read.
    """
    file = Path(folder) / CARD_FILE
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{file} is absent: {folder} was not made by `mambaxray prepare`, or that was interrupted (the same "
            "command goes on)"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PreparedError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(card, dict) or not isinstance(card.get("counts"), dict) or not card.keys() >= _CARD_KEYS:
        raise PreparedError(f"{file} was not written by `mambaxray prepare`: it lacks {', '.join(sorted(_CARD_KEYS))}")
    return card


def load_prepared(
    folder: str | Path, *, section: str | None = None, cleaning: str | None = None, prior: bool = False
) -> "datasets.DatasetDict":
    """The studies that `mambaxray prepare` has written, in the schema of `data/schema.py`.

    The parquet files are converted once to Arrow files in the cache of `datasets`, which are memory-mapped: loading
    again is immediate, and processes share the memory.

    Args:
        folder: what `--output` named.
        section: what the reports are expected to consist of; None takes any.
        cleaning: how they are expected to be cleaned; None takes any.
        prior: whether rows show the patient's previous study, see `with_priors`.

    Returns:
        One data set for each split; images are decoded on access.

    Raises:
        FileNotFoundError: the folder was not prepared, or not to the end, or lacks files.
        PreparedError: its reports consist of another section, are cleaned in another way, or priors are asked for and
            were not linked.
    """
    import datasets

    from .xray_feature import read_by_us

    card = read_card(folder)
    for name, wanted in (("section", section), ("cleaning", cleaning)):
        if wanted is not None and card[name] != wanted:
            raise PreparedError(
                f"{folder} was prepared with {name} {card[name]!r}, not {wanted!r}: prepare it again with that one"
            )
    if prior and "priors" not in card:
        raise PreparedError(f"{folder} was prepared without priors: prepare it again with prior=True (--prior)")
    # `datasets` knows no empty splits.
    expected = {split: count for split, count in card["counts"].items() if count}
    files = {split: sorted(map(str, Path(folder).glob(f"{split}-*.parquet"))) for split in expected}
    absent = [split for split, found in files.items() if not found]
    if absent:
        raise FileNotFoundError(f"{folder}: the parquet files of {', '.join(absent)} are absent")
    features = study_features()
    later = [] if card.get("format", 0) >= _WITH_CONTEXT else ["technique", "prior"]
    own = datasets.Features({name: kind for name, kind in features.items() if name not in later})
    loaded = datasets.load_dataset("parquet", data_files=files, features=own)
    counts = {split: len(studies) for split, studies in loaded.items()}
    if counts != expected:
        raise PreparedError(f"{folder}: its files hold {counts} studies, but its card says {expected}")
    for name in later:
        loaded = datasets.DatasetDict(
            {split: rows.add_column(name, [""] * len(rows)) for split, rows in loaded.items()}
        )
    loaded = loaded.select_columns(list(features))
    for studies in loaded.values():
        read_by_us(studies, "images", is_list=True)
    return with_priors(loaded) if prior else loaded
