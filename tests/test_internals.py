"""The transformers internals that this package uses are listed in docs/internals.md, and are as they were read there.

With a newer transformers the first test says by name which internal moved.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from repository import ROOT, module_name, modules, setup_cfg

TABLE = re.findall(
    r"^\| `([\w.]+)` \| `([^`]+)` \| ([\d.]+) \| (.+) \|$",
    (ROOT / "docs" / "internals.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)
LISTED = {name for name, *_ in TABLE}


def resolve(name: str) -> Any:
    """The object of a dotted name: the longest module in it, and attributes from there."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def form(found: Any) -> str:
    """The names of a function's parameters; of a class's `__init__`, unless it comes from elsewhere; else "value"."""
    if isinstance(found, (classmethod, staticmethod)):
        found = found.__func__
    if inspect.isclass(found):
        own = [base for base in found.__mro__ if base.__module__.startswith("transformers.")]
        found = next((vars(base)["__init__"] for base in own if "__init__" in vars(base)), None)
    if not inspect.isfunction(found):
        return "value"
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(found).parameters.values()
    return f"({', '.join(stars.get(parameter.kind, '') + parameter.name for parameter in parameters)})"


@pytest.mark.parametrize(("name", "expected", "version", "where"), TABLE, ids=[name for name, *_ in TABLE])
def test_internal_is_as_it_was_read(name, expected, version, where):
    try:
        found = form(resolve(name))
    except (AttributeError, ModuleNotFoundError):
        found = "gone"
    assert found == expected, (
        f"{name} of transformers {version} moved: {expected} there, {found} in {transformers.__version__}; "
        f"read {where} again, and update docs/internals.md"
    )


def imported() -> Iterator[str]:
    """What the package imports from modules of transformers and what `transformers` itself does not export."""
    for path in modules():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers."):
                for name in node.names:
                    if not hasattr(transformers, name.name):
                        yield f"{node.module}.{name.name}"


def overridden() -> Iterator[str]:
    """Underscored names of transformers' classes that classes of the package, mix-ins included, define anew."""
    for path in modules():
        try:
            module = importlib.import_module(module_name(path))
        except ModuleNotFoundError as error:
            # Kernels, which have no class of transformers among them, need a package that may be absent.
            if error.name not in ("triton", "mamba_ssm"):
                raise
            continue
        for ours in vars(module).values():
            if not inspect.isclass(ours) or ours.__module__ != module.__name__:
                continue
            theirs = [base for base in ours.__mro__ if base.__module__.startswith("transformers.")]
            own = {name for base in ours.__mro__ if base.__module__.startswith("mambaxray.") for name in vars(base)}
            for name in own:
                if name.startswith("_") and not name.startswith("__") and not name.startswith("_abc"):
                    owner = next((base for base in reversed(theirs) if name in vars(base)), None)
                    if owner is not None:
                        yield f"{owner.__module__}.{owner.__qualname__}.{name}"


@pytest.mark.parametrize("find", [imported, overridden])
def test_every_internal_in_use_is_listed(find):
    assert sorted(set(find()) - LISTED) == []


def test_the_files_that_the_table_names_use_the_internal():
    for name, _, _, where in TABLE:
        for file in re.findall(r"`([\w/]+\.py)`", where):
            assert name.rpartition(".")[2] in Path(ROOT, file).read_text(encoding="utf-8"), f"{file} has no {name}"


def test_the_required_version_is_one_that_was_read():
    (required,) = re.findall(r"^transformers>=([\d.]+),<\d+$", setup_cfg()["options"]["install_requires"], re.MULTILINE)
    assert TABLE
    assert all(version.startswith(f"{required}.") for _, _, version, _ in TABLE)
