"""Which files of a model's folder may be published: a list of those that belong to a model, and nothing else.

A folder collects more than that: scores and predictions with texts and ids of patients' studies, notes, the state of
the training. What is not on the list stays, whatever its name.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from ...configuration.saved_parts import is_local
from .repository_code import PATIENT_TEXT_FOLDER

SETTINGS_FILES = frozenset(
    {
        "config.json",
        "adapter_config.json",
        "generation_config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
    }
)
"""Settings of a model and its processor. They may name paths of the machine, see `without_local_paths`."""

_TOKENIZER_FILES = frozenset(
    {
        "tokenizer_config.json",
        *("special_tokens_map.json", "added_tokens.json"),
        *("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
        *("vocab.json", "vocab.txt", "merges.txt"),
    }
)
_FILES = (
    SETTINGS_FILES
    | _TOKENIZER_FILES
    | {
        "README.md",
        *("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt"),
        *("chat_template.jinja", "chat_template.json"),
        # The card's drawn examples, see `mambaxray/model_card.py`.
        *(f"examples/phantom_{number}.png" for number in (1, 2, 3)),
    }
)
_WEIGHTS = re.compile(r"(adapter_)?model(\.[a-z0-9]+)?(-\d{5}-of-\d{5})?\.safetensors(\.index(\.[a-z0-9]+)?\.json)?")
# transformers saves a processor's further tokenizers in folders of their own.
_FURTHER_TOKENIZER = re.compile(r"\w+_tokenizer")
_CHAT_TEMPLATE = re.compile(r"additional_chat_templates/\w+\.jinja")


def published_files(folder: str | os.PathLike, *, include_patient_text: bool = False) -> list[PurePath]:
    """The files of a model's folder that may be published, relative to it, in alphabetical order.

    These are weights (safetensors), settings, the files of the processor and its tokenizer, the code that the settings
    name, the card with its drawn examples, and the licence.

    Args:
        folder: what `save_pretrained` wrote, and whatever else lies there.
        include_patient_text: also everything in the sub-folder for what may hold text of patients' reports.
    """
    folder = Path(folder)
    code = _code_files(folder)
    found: list[PurePath] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        is_private = relative.parts[0] == PATIENT_TEXT_FOLDER
        is_listed = name in _FILES or name in code or _WEIGHTS.fullmatch(name) or _CHAT_TEMPLATE.fullmatch(name)
        is_listed = is_listed or _is_of_further_tokenizer(relative)
        if path.is_file() and (include_patient_text if is_private else is_listed):
            found.append(relative)
    return found


def without_local_paths(values: Any) -> Any:
    """The same plain data of a settings file, without names of folders of this machine.

    Such are the fields in which transformers notes where something was loaded from, and every absolute path.
    """
    if isinstance(values, Mapping):
        return {
            key: "" if key.endswith("name_or_path") and _is_local(value) else without_local_paths(value)
            for key, value in values.items()
        }
    if isinstance(values, list):
        return [without_local_paths(value) for value in values]
    return "" if isinstance(values, str) and os.path.isabs(values) and os.path.exists(values) else values


def is_settings_file(path: PurePath) -> bool:
    """Whether a file, relative to a model's folder, holds settings: of `SETTINGS_FILES`, or a further tokenizer's."""
    is_tokenizers = path.name == "tokenizer_config.json" and _is_of_further_tokenizer(path)
    return path.as_posix() in SETTINGS_FILES or is_tokenizers


def _is_of_further_tokenizer(path: PurePath) -> bool:
    folder = _FURTHER_TOKENIZER.fullmatch(path.parts[0])
    return len(path.parts) == 2 and folder is not None and path.name in _TOKENIZER_FILES


def _is_local(value: Any) -> bool:
    return isinstance(value, str) and value != "" and is_local(value)


def _code_files(folder: Path) -> set[str]:
    """The files of code that the settings name, which are loaded with them."""
    return {f"{module}.py" for name in SETTINGS_FILES for module in _modules(_read(folder / name))}


def _modules(values: Any) -> Iterator[str]:
    """First parts of all `module.Class` below `auto_map` and `custom_pipelines`, at any depth."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _references(value) if key in ("auto_map", "custom_pipelines") else _modules(value)


def _references(values: Any) -> Iterator[str]:
    if isinstance(values, Mapping | list):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _references(value)
    elif isinstance(values, str) and (match := re.fullmatch(r"(\w+)\.\w+", values)):
        yield match[1]


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


__all__ = ["SETTINGS_FILES", "is_settings_file", "published_files", "without_local_paths"]
