"""What a configuration says of the parts that a saved model leaves out, and what it keeps to itself."""

import os
import re
from collections.abc import Mapping
from typing import Any

LANGUAGE_MODEL = "language_model"
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_EARLIER_FIELDS = ("language_model_source", "language_model_revision", "language_model_fingerprint")


def read_separate_parts(values: Mapping[str, Any]) -> dict[str, dict[str, str | None]]:
    """The parts that a saved model leaves out, from the fields of its configuration, of this or an earlier version.

    Args:
        values: what `config.json` holds.

    Returns:
        for each part's name its `source` on the Hub (None when it is in a folder of somebody's machine), the
        `revision` there, the `dtype` it is to be loaded with, and the `fingerprint` of what was left out.
    """
    parts = {name: dict(part) for name, part in (values.get("separate_parts") or {}).items()}
    if values.get(_EARLIER_FIELDS[0]) is not None:
        source, revision, fingerprint = (values.get(name) for name in _EARLIER_FIELDS)
        text_config = values.get("text_config") or {}
        dtype = text_config.get("dtype") if isinstance(text_config, Mapping) else text_config.dtype
        parts[LANGUAGE_MODEL] = {
            "source": source,
            "revision": revision,
            "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
            "fingerprint": fingerprint,
        }
    return parts


def without_earlier_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields, without those by which earlier versions named the language model that was left out."""
    return {name: value for name, value in values.items() if name not in _EARLIER_FIELDS}


def is_local(name: str) -> bool:
    """Whether a model is named by a folder of this machine and not by its name on the Hub."""
    return os.path.isabs(name) or os.path.isdir(name) or _HUB_NAME.fullmatch(name) is None


class PrivatePathsMixin:
    """For configurations of models that are made of others: saved, they do not reveal the folders of these models."""

    def to_diff_dict(self) -> dict[str, Any]:
        """As usual, which is what `save_pretrained` writes, without the paths that transformers notes for each part."""
        values = super().to_diff_dict()
        for part in self.sub_configs:
            section = values.get(part)
            if isinstance(section, dict) and is_local(section.get("_name_or_path") or ""):
                section.pop("_name_or_path", None)
        return values


__all__ = ["LANGUAGE_MODEL", "PrivatePathsMixin", "is_local", "read_separate_parts", "without_earlier_fields"]
