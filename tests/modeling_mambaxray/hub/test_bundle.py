"""The code files that saved models and processors carry, and the rules by which they are put together."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_model
from transformers import CONFIG_MAPPING, IMAGE_PROCESSOR_MAPPING, MODEL_MAPPING, PROCESSOR_MAPPING

import mambaxray
from mambaxray.modeling_mambaxray.hub.bundle import BundleError, bundle, modules_of
from mambaxray.modeling_mambaxray.hub.repository_code import has_code, write_code


def shipped_classes():
    """Models and processors of ours that are registered with the Auto classes."""
    mappings = (MODEL_MAPPING, PROCESSOR_MAPPING, IMAGE_PROCESSOR_MAPPING)
    families = [config for config in CONFIG_MAPPING._extra_content.values() if has_code(config)]
    found = [mapping.get(config, None) for mapping in mappings for config in families]
    found = [cls for each in found for cls in (each.values() if isinstance(each, dict) else [each])]
    return sorted({cls for cls in found if cls is not None and has_code(cls)}, key=lambda cls: cls.__name__)


@pytest.fixture(scope="module", params=shipped_classes(), ids=lambda cls: cls.__name__)
def shipped(request, tmp_path_factory):
    """A class and the file that it is shipped in."""
    folder = tmp_path_factory.mktemp("code")
    write_code(request.param, folder)
    (file,) = folder.iterdir()
    return request.param, file


def test_a_file_imports_nothing_beyond_transformers_what_it_needs_itself_torch_and_pillow(shipped):
    _, file = shipped
    from transformers.dynamic_module_utils import get_imports, get_relative_imports

    assert set(get_imports(file)) - sys.stdlib_module_names <= {"transformers", "safetensors", "torch", "numpy", "PIL"}
    assert get_relative_imports(file) == []


def test_a_file_has_no_unknown_names_no_unused_imports_and_sorted_ones(shipped):
    ruff = shutil.which("ruff", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if ruff is None:
        pytest.skip("ruff is not installed")
    _, file = shipped
    command = [ruff, "check", "--isolated", "--line-length=120", "--select=E9,F,I", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_a_file_starts_with_licence_and_version_and_keeps_all_docstrings(shipped):
    cls, file = shipped
    text = file.read_text(encoding="utf-8")
    assert text.startswith(
        f"# SPDX-License-Identifier: Apache-2.0\n# {cls.__name__} of mambaxray {mambaxray.__version__}"
    )
    kept = {ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if isinstance(node, _DOCUMENTED)}
    for name in modules_of(cls.__module__):
        source = ast.parse(Path(importlib.import_module(name).__file__).read_text(encoding="utf-8"))
        assert {ast.get_docstring(node) for node in ast.walk(source) if isinstance(node, _DOCUMENTED)} <= kept
        assert f"# {ast.get_docstring(source).splitlines()[0]}\n" in text


_DOCUMENTED = (ast.ClassDef, ast.FunctionDef)


def test_an_encoders_file_holds_no_other_family(tmp_path):
    write_code(mambaxray.VisionMambaModel, tmp_path)
    text = (tmp_path / "modeling_vision_mamba.py").read_text(encoding="utf-8")
    assert "class VisionMambaModel" in text
    assert not re.search(r"class MambaXray|Pipeline|Processor\b.*:|numba|triton", text)


def test_a_generators_file_holds_its_own_vision_encoder_and_no_other_one(tmp_path):
    for vision, holds in (("vmamba", True), ("swin", False)):
        tiny_model(vision).save_pretrained(tmp_path / vision)
        text = (tmp_path / vision / "modeling_mambaxray.py").read_text(encoding="utf-8")
        assert ("class VMambaModel" in text) == holds
        assert ("AutoModel.register(VMambaConfig, VMambaModel, exist_ok=True)" in text) == holds


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package of the given modules; its names are below the returned one."""

    def make(**modules):
        name = f"bundled_{tmp_path.name}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        for module, source in modules.items():
            (tmp_path / name / f"{module}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return make


def values_of(code):
    namespace = {}
    exec(compile(code, "bundle", "exec"), namespace)
    return namespace


def test_modules_come_in_the_order_of_their_imports_wherever_these_are(package):
    name = package(
        first="from .second import two\n\n\ndef one():\n    from .third import three\n\n    return two + three\n",
        second="from .third import three\n\ntwo = three - 1\n",
        third="three = 3\n",
    )
    assert modules_of(f"{name}.first") == [f"{name}.{module}" for module in ("third", "second", "first")]
    code = bundle(f"{name}.first", "x")
    assert "from ." not in code
    assert values_of(code)["one"]() == 5


def test_an_optional_import_is_left_out_as_if_it_had_failed(package):
    name = package(
        main="try:\n    from .fast import run\nexcept ImportError:\n    # the slow way\n    run = None\n",
        fast="run = 1\n",
    )
    code = bundle(f"{name}.main", "x")
    assert values_of(code)["run"] is None
    assert "the slow way" in code
    assert "fast" not in code


def test_private_names_of_two_modules_are_told_apart(package):
    name = package(
        main="from .other import _helper, call\n\n_size = 1\n\n\ndef sizes():\n"
        "    return _size, call(), _helper(), f'{_size}'\n",
        other="_size = 2\n\n\ndef _helper():\n    return _size + 1\n\n\ndef call():\n    return _size\n",
    )
    assert values_of(bundle(f"{name}.main", "x"))["sizes"]() == (1, 2, 3, "1")


def test_loggers_of_several_modules_become_one(package):
    line = "import logging\n\nlogger = logging.getLogger(__name__)\n"
    name = package(main=f"from .other import x\n{line}\ny = x\n", other=f"{line}\nx = 1\n")
    assert bundle(f"{name}.main", "x").count("getLogger") == 1


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            {"main": "from .other import x\n\nsize = 1\n", "other": "x = 2\nsize = 2\n"},
            "size is defined in .*other and",
        ),
        ({"main": "from . import other\n"}, "line 1: from . import other has no equivalent"),
        ({"main": "from .other import x as y\n", "other": "x = 1\n"}, "has no equivalent"),
        ({"main": "from .other import x\n", "other": "from .main import y\n"}, "import each other"),
        (
            {"main": "from math import pi\nfrom .other import x\n", "other": "from cmath import pi\nx = 1\n"},
            "pi is both",
        ),
    ],
)
def test_what_one_file_cannot_say_is_refused_with_its_place(package, modules, message):
    name = package(**modules)
    with pytest.raises(BundleError, match=message):
        bundle(f"{name}.main", "x")
