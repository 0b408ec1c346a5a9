"""What recipes and benches are made of: sections of keys and values, whose errors speak of the file."""

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from .recipe_text import RecipeError

_Section = typing.TypeVar("_Section", bound="Section")


class Section(BaseModel):
    """Keys and values that a file may hold: no other keys, and values of these types, not what could become one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def fill_defaults(section: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of a section with every default written out, unchecked."""
    filled = dict(values)
    for name, f in section.model_fields.items():
        kind: Any = f.annotation
        if _is_section(kind):
            filled[name] = fill_defaults(kind, values.get(name, {}))
        elif (each := _section_of_list(kind)) is not None:
            filled[name] = [fill_defaults(each, value) for value in values.get(name, [])]
        elif name not in values and not f.is_required():
            filled[name] = f.get_default(call_default_factory=True)
    return filled


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuses keys that are not known; `where` names their section in messages.

    Raises:
        RecipeError: there is one; the message names the nearest that is known.
    """
    for key in given:
        if key not in known:
            raise _unknown_key(str(key), known, where)


def _unknown_key(key: str, known: Sequence[str], where: str) -> RecipeError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
    return RecipeError(f"unknown key {f'{where}.{key}' if where else key}{hint}")


def build_section(section: type[_Section], values: Any, where: str) -> _Section:
    """Checks plain data and makes a section of it; `where` names it in messages.

    Raises:
        RecipeError: a key that the section has not, or needs and does not get, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where} must hold keys and values, got {values!r}")
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        raise _explained(section, values, where, error.errors()) from error


_ORDER = ("extra_forbidden", "invalid_key", "missing")
"""What is said first: a misspelt key explains why another is missing."""


def _explained(
    section: type[Section], values: Mapping[str, Any], where: str, errors: list[ErrorDetails]
) -> RecipeError:
    """Pydantic's errors as one that speaks of the file."""
    error = min(errors, key=lambda e: _ORDER.index(e["type"]) if e["type"] in _ORDER else len(_ORDER))
    if error["type"] == "value_error":
        return RecipeError(str(error["ctx"]["error"]))
    # Behind the names of sections, the place holds the member of a union or of a list.
    names: list[str] = [where] if where else []
    kind: Any = section
    value: Any = values
    for name in error["loc"]:
        if isinstance(name, int) and (each := _section_of_list(kind)) is not None:
            names[-1] += f"[{name}]"
            kind, value = each, value[name]
            continue
        if not _is_section(kind) or name not in kind.model_fields or name not in value:
            break
        names.append(str(name))
        kind, value = kind.model_fields[name].annotation, value[name]
    key = ".".join(names)
    if error["type"] in ("extra_forbidden", "invalid_key"):
        return _unknown_key(str(error["loc"][-1]), list(kind.model_fields), key)
    if error["type"] == "missing":
        missing = [e["loc"][-1] for e in errors if e["type"] == "missing" and e["loc"][:-1] == error["loc"][:-1]]
        return RecipeError(f"{key or 'the recipe'} lacks {', '.join(map(str, missing))}")
    if _is_section(kind):
        return RecipeError(f"{key} must hold keys and values, got {value!r}")
    return RecipeError(f"{key} must be {_type_name(kind)}, got {value!r}")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _section_of_list(kind: Any) -> type[Section] | None:
    """The section that a list holds; None for other types."""
    inside = typing.get_args(kind) if typing.get_origin(kind) is list else ()
    return inside[0] if inside and _is_section(inside[0]) else None


def _type_name(kind: Any) -> str:
    """`str or null`, `list of int`."""
    if _is_section(kind):
        return "keys and values"
    if kind is types.NoneType:
        return "null"
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_type_name, typing.get_args(kind)))
    if typing.get_origin(kind) is list:
        return f"list of {_type_name(typing.get_args(kind)[0])}"
    return (typing.get_origin(kind) or kind).__name__


__all__ = ["Section", "build_section", "fill_defaults", "refuse_unknown"]
