"""What lies on this machine that a training run is made from, by content: a run that is gone on with, or whose result
is given, must be that of the same data and the same models. Loads neither torch nor transformers."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data.prepared import CARD_FILE

_ANNOTATION = "annotation.json"
_MODELS = ("checkpoint", "stage1", "vision_encoder", "language_model", "text_encoder", "qformer")
_SEVERAL_MODELS = ("memories", "parts")
# What is none of a model's or a data set's content: cards and code.
_LEFT_OUT = (".md", ".py", ".jinja")
# Of all others, images above all, the size alone counts.
_READ = (
    *(".json", ".jsonl", ".csv", ".tsv", ".txt", ".yaml", ".parquet", ".arrow"),
    *(".safetensors", ".bin", ".model"),
)
# Of a large file the size and pieces at equal distances are read, which weights that were trained anew all change.
_WHOLE, _PIECES, _PIECE = 2**24, 64, 2**14


def run_inputs(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the data and models that a recipe names by their places on this machine, by the recipe's keys.

    Of a prepared data set its card counts, of one in R2Gen's format the list of its studies, of a table its file: the
    images that these name are not looked at. Of other images the names and sizes count.

    Args:
        recipe: its plain data.
    """
    return {key: _digest(Path(place)) for key, place in _places(recipe) if os.path.exists(place)}


def changed_inputs(before: Mapping[str, str], recipe: Mapping[str, Any]) -> list[str]:
    """The recipe's keys whose data or model is another one than before; what is gone counts as the same."""
    return [key for key, digest in run_inputs(recipe).items() if before.get(key, digest) != digest]


def _places(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data, model = (recipe.get(name) or {} for name in ("data", "model"))
    named = {"data.source": data.get("source")}
    for number, source in enumerate(data.get("sources") or ()):
        named[f"data.sources[{number}].source"] = source.get("source")
    for number, folder in enumerate(data.get("folders") or ()):
        named[f"data.folders[{number}]"] = folder
    named |= {f"model.{name}": model.get(name) for name in _MODELS}
    for group in _SEVERAL_MODELS:
        named |= {f"model.{group}.{name}": place for name, place in (model.get(group) or {}).items()}
    yield from (
        (key, place) for key, place in named.items() if isinstance(place, str) and place not in ("", "phantoms")
    )


def _digest(place: Path) -> str:
    for name in (CARD_FILE, _ANNOTATION):
        if (place / name).is_file():
            place = place / name
    digest = hashlib.sha256()
    if place.is_file():
        _add_file(digest, place)
    else:
        for file in sorted(path for path in place.rglob("*") if _counts(path, place)):
            digest.update(json.dumps([file.relative_to(place).as_posix(), file.stat().st_size]).encode())
            if file.suffix in _READ:
                _add_file(digest, file)
    return digest.hexdigest()[:16]


def _counts(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.is_file() and not hidden and path.suffix not in _LEFT_OUT


def _add_file(digest: Any, file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as content:
        if size <= _WHOLE:
            digest.update(content.read())
            return
        for number in range(_PIECES):
            content.seek(number * (size - _PIECE) // (_PIECES - 1))
            digest.update(content.read(_PIECE))


__all__ = ["changed_inputs", "run_inputs"]
