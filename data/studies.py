"""`load_studies`: the one way in which recipes and commands name the studies they work on."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .annotation_json import load_annotation_json
from .phantom import make_phantoms

if TYPE_CHECKING:
    import datasets


def load_studies(source: str | Path, **options: Any) -> "datasets.DatasetDict":
    """Studies in the schema of `data/schema.py`, from whatever names them.

    Args:
        source: `"phantoms"`, or a folder with an `annotation.json` in R2Gen's format.
        options: those of the function that reads this source: `make_phantoms` (where `num_studies` must be given) or
            `load_annotation_json`.

    Returns:
        One data set for each split.

    Raises:
        FileNotFoundError: the source is neither a known name nor a folder that can be read.
        TypeError: an option that this source does not have, or lacks one that it needs.
        ValueError: as the function that reads the source.
    """
    if source == "phantoms":
        return _call(make_phantoms, {}, options, "phantoms")
    folder = Path(source)
    if (folder / "annotation.json").is_file():
        return _call(load_annotation_json, {"folder": folder}, options, f"{folder} (annotation.json)")
    raise FileNotFoundError(
        f"{source!s} names no studies: give 'phantoms' or a folder with an annotation.json in R2Gen's format"
    )


def _call(read: Callable[..., Any], given: dict[str, Any], options: dict[str, Any], name: str) -> Any:
    parameters = signature(read).parameters
    known = [option for option in parameters if option not in given]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise TypeError(f"{name} has no option {', '.join(unknown)}; its options: {', '.join(known) or 'none'}")
    absent = [o for o in known if parameters[o].default is parameters[o].empty and o not in options]
    if absent:
        raise TypeError(f"{name} needs the option {', '.join(absent)}")
    return read(**given, **options)
