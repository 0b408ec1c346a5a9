"""The text of recipes and benches: YAML, and overrides such as `training.learning_rate=1e-4`."""

import re
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml


class RecipeError(ValueError):
    """A recipe that can't be read, or that says something impossible."""


def _read_text(file: Path) -> str:
    """A YAML file's text.

    Raises:
        RecipeError: it is not in UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file} is not a text in UTF-8: {error}") from error


def names_in(folder: Traversable) -> list[str]:
    """Names of the YAML files of a folder of this package, sorted."""
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_named(name: str, folder: Traversable, kind: str) -> dict[str, Any]:
    """The keys and values of a YAML file, or of one that comes with the package.

    Args:
        name: path of the file, or its name in the folder.
        folder: of this package.
        kind: what the file is, for messages, such as `recipe`.

    Raises:
        FileNotFoundError: neither a file nor a name that is known.
        RecipeError: the file holds something else than keys and values.
    """
    bundled = folder / f"{name}.yaml"
    if Path(name).is_file():
        text = _read_text(Path(name))
    elif "/" not in name and bundled.is_file():
        text = bundled.read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(f"no {kind} {name!r}: give a YAML file, or one of {', '.join(names_in(folder))}")
    return parse_mapping(text, name)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and words: PyYAML would take `1e-4` for a word, and the word `no` for false."""


_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:bool")
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in _REPLACED]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+0123456789."),
)


def _parse(text: str, name: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        # In one line, without the text around the place.
        place = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise RecipeError(f"{name} is not valid YAML: {place}{error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:  # unprintable characters; nested too deep
        reason = " ".join(str(error).split())
        raise RecipeError(f"{name} is not valid YAML: {reason}") from error


def parse_mapping(text: str, name: str) -> dict[str, Any]:
    """The keys and values of a YAML text; `name` names it in messages.

    Raises:
        RecipeError: the text is no YAML, or something else than keys and values.
    """
    values = _parse(text, name)
    if not isinstance(values, dict):
        raise RecipeError(f"{name} must hold keys and values, not {type(values).__name__}")
    return values


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Plain data from `key=value`, the value in YAML, as overrides of recipes are written.

    Raises:
        RecipeError: one that does not read so.
    """
    values: dict[str, Any] = {}
    for option in options:
        override_value(values, option)
    return values


def override_value(values: dict[str, Any], override: str) -> None:
    """Replaces one value in plain data as an override `key=value` says, the key with dots, the value in YAML.

    Raises:
        RecipeError: the override is no `key=value`, or something on the way has no keys.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"expected key=value, such as training.learning_rate=1e-4; got {override!r}")
    set_value(values, key, _parse(text, f"the value of {override!r}"))


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Replaces one value in plain data; the key's dots lead to it.

    Raises:
        RecipeError: something on the way has no keys.
    """
    *path, last = key.split(".")
    for part in path:
        inner = values.get(part)
        if inner is None:
            inner = values[part] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"{key}={value!r}: {part} has no keys below it")
        values = inner
    values[last] = value


__all__ = [
    "RecipeError",
    "names_in",
    "override_value",
    "parse_mapping",
    "parse_options",
    "read_named",
    "set_value",
]
