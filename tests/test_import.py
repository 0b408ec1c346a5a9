"""What a user meets at `import mambaxray`, and that everything public explains itself."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT, modules, tracked_files

import mambaxray


def run_python(code: str) -> str:
    """What the code prints in a fresh Python."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


_NO_NETWORK = """
import socket
def refuse(*arguments, **options):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
"""


def test_import_loads_no_library_at_all_and_asks_for_no_network() -> None:
    """What takes time is what is loaded, which does not depend on how busy the machine is."""
    code = f"""{_NO_NETWORK}
import sys
before = set(sys.modules)
import mambaxray
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(loaded - sys.stdlib_module_names))
print(len(set(sys.modules) - before))
"""
    libraries, count = run_python(code).splitlines()
    assert libraries == "mambaxray"
    assert int(count) < 60


def test_a_configuration_and_a_model_load_no_library_of_data_or_tuning() -> None:
    code = """
import sys
from mambaxray import VisionMambaConfig, VisionMambaModel, MambaXrayForConditionalGeneration
print(*sorted({"datasets", "pandas", "pydicom", "peft", "trl", "typer", "rich"} & set(sys.modules)))
"""
    assert run_python(code) == ""


@pytest.mark.parametrize("module", ["data.schema", "evaluation.clinical", "evaluation.labeler", "train.recipe"])
def test_labels_and_recipes_are_read_without_a_library_of_models(module: str) -> None:
    code = f"""
import sys
import mambaxray.{module}
print(*sorted({{"datasets", "torch", "transformers"}} & set(sys.modules)))
"""
    assert run_python(code) == ""


def test_every_public_name_can_be_had_without_a_network() -> None:
    code = f"""{_NO_NETWORK}
import mambaxray
for name in mambaxray.__all__:
    if getattr(mambaxray, name) is None:
        print(name)
"""
    assert run_python(code) == ""


def test_every_public_name_comes_from_the_module_that_defines_it() -> None:
    found = {name: getattr(mambaxray, name).__module__ for name in mambaxray._PUBLIC}
    assert found == {name: f"mambaxray.{module}" for name, module in mambaxray._PUBLIC.items()}


def test_dir_lists_the_public_names() -> None:
    assert dir(mambaxray) == sorted(mambaxray.__all__)


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(AttributeError, match=r"'MambaXrayModle'.*MambaXrayForConditionalGeneration"):
        mambaxray.MambaXrayModle  # noqa: B018


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(path: Path) -> Iterator[Definition]:
    """Public functions and classes of a module, and its public classes' public methods and `__init__`."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    is_function = isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
                    if is_function and (member.name == "__init__" or not member.name.startswith("_")):
                        yield member


def hints_missing(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of a function's arguments without a type hint, and "return"."""
    decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
    if any("types.void(" in decorator or decorator == "triton.jit" for decorator in decorators):
        return []  # numba's signature says more than hints could; Triton's pointers have no type in Python
    spec = function.args
    given = [*spec.posonlyargs, *spec.args, spec.vararg, *spec.kwonlyargs, spec.kwarg]
    missing = [a.arg for a in given if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
    # PEP 484: an __init__ with a hint need not say that it returns None.
    return missing + (["return"] if function.returns is None and function.name != "__init__" else [])


@pytest.mark.parametrize("path", modules(), ids=str)
def test_every_public_function_and_method_has_type_hints(path: Path) -> None:
    missing = [
        f"{path}:{node.lineno} {node.name}: {', '.join(names)}"
        for node in public_definitions(path)
        if not isinstance(node, ast.ClassDef) and (names := hints_missing(node))
    ]
    assert missing == []


@pytest.mark.parametrize("path", modules(), ids=str)
def test_every_module_public_function_and_class_has_a_docstring(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    public = [node for node in tree.body if isinstance(node, Definition) and not node.name.startswith("_")]
    assert [f"{path}:{node.lineno} {node.name}" for node in public if not ast.get_docstring(node)] == []


def test_no_file_holds_a_path_of_the_machine_it_was_written_on() -> None:
    machine_path = re.compile(rb"(?<![\w/.])/(?:work|tmp|root|home)/\w")
    found = []
    for path in tracked_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:  # text
            found += [f"{path}: {line.decode()}" for line in content.splitlines() if machine_path.search(line)]
    assert found == []
