"""Which files hold a saved model, in a folder or on the Hub."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.peft_utils import find_adapter_config_file


def resolve_adapter(path: Any, kwargs: Mapping[str, Any], hub: Mapping[str, Any]) -> tuple[Any, Any]:
    """The adapter's folder or None, and the folder of the model below it."""
    given = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")
    if given is not None:
        return given, path
    file = find_adapter_config_file(path, **{k: v for k, v in hub.items() if v is not None})
    if file is None:
        return None, path
    if os.path.isfile(os.path.join(path, "config.json")):
        return path, path
    return path, json.loads(Path(file).read_text(encoding="utf-8"))["base_model_name_or_path"]


def weight_files(path: Any, hub: Mapping[str, Any], variant: str | None) -> list[str]:
    """The files with the tensors that were saved with a model itself, one or its shards; none where it has others."""

    def find(name: str) -> str | None:
        if variant is not None:
            stem, _, ending = name.rpartition(".")
            name = f"{stem}.{variant}.{ending}"
        return cached_file(path, name, _raise_exceptions_for_missing_entries=False, **hub)

    index = find(SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        file = find(SAFE_WEIGHTS_NAME)
        return [] if file is None else [file]
    names = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    return [cached_file(path, name, **hub) for name in sorted(names)]


__all__ = ["resolve_adapter", "weight_files"]
