"""Which folder may import from which, and that the installed packages are the repository's folders."""

import ast
from pathlib import Path

import pytest
from repository import LAYERS, ROOT, module_name, modules, setup_cfg


def layer_of(module: str) -> str:
    """The folder that a dotted name of the package leads into; the root's for anything that is no sub-package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "mambaxray"


def imported_modules(source: str, package: str) -> list[tuple[int, str]]:
    """Line and full name of everything that a module of `package` imports, wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def wrong_imports(source: str, package: str) -> list[str]:
    """What a module of `package` may not import."""
    own = LAYERS.index(layer_of(package))
    wrong = []
    for line, name in imported_modules(source, package):
        top = name.split(".")[0]
        if top == "mambaxray" and LAYERS.index(layer_of(name)) > own:
            wrong.append(f"line {line}: {layer_of(package)} imports {name}")
        elif top in LAYERS and top != "mambaxray":
            wrong.append(f"line {line}: {name} is importable in the repository's root only")
    return wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_a_folder_imports_only_from_itself_and_those_below(layer: str) -> None:
    paths = [path for path in modules() if path.parts[0] == layer]
    assert paths
    wrong = []
    for path in paths:
        name = module_name(path)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        wrong += [f"{path}: {text}" for text in wrong_imports((ROOT / path).read_text(encoding="utf-8"), package)]
    assert wrong == []


# Within `modeling_mambaxray`; what stands beside these, the models and `parts`, may import all of them.
BRICKS = ("ops", "hub", "layers", "generation")


@pytest.mark.parametrize("room", BRICKS)
def test_what_models_are_made_of_imports_no_model_and_points_one_way(room: str) -> None:
    models = "mambaxray.modeling_mambaxray"
    allowed = tuple(f"{models}.{name}." for name in BRICKS[: BRICKS.index(room) + 1])
    paths = [path for path in modules() if path.parts[:2] == ("modeling_mambaxray", room)]
    assert paths
    wrong = []
    for path in paths:
        package = module_name(path.parent / "__init__.py")
        for line, name in imported_modules((ROOT / path).read_text(encoding="utf-8"), package):
            if name.startswith(models) and not name.startswith(allowed):
                wrong.append(f"{path}, line {line}: {name}")
    assert wrong == []


@pytest.mark.parametrize(
    "source",
    [
        "from ..train.collator import ReportCollator",
        "from .. import train",
        "from .. import __version__",
        "from mambaxray.train.collator import ReportCollator",
        "from mambaxray import ReportCollator",
        "import mambaxray.train",
        "import mambaxray",
        "def later():\n    from ..train import collator",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..evaluation.labeler import X",
        "from configuration.configuration_mambaxray import MambaXrayConfig",
    ],
)
def test_the_check_finds_a_wrong_import_in_every_form(source: str) -> None:
    assert len(wrong_imports(source, "mambaxray.data")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from .schema import OBSERVATIONS",
        "from . import schema",
        "from ..processing.dicom import read_dicom",
        "from mambaxray.configuration import configuration_mambaxray",
        "import data_of_someone_else, datasets",
    ],
)
def test_the_check_lets_allowed_imports_pass(source: str) -> None:
    assert wrong_imports(source, "mambaxray.data") == []


def test_the_packages_of_setup_cfg_are_the_folders_with_modules() -> None:
    options = setup_cfg()["options"]
    packages = options["packages"].split()
    folders = dict(line.split(" = ") for line in options["package_dir"].strip().splitlines())
    assert list(folders) == packages
    assert {name: Path(folder) for name, folder in folders.items()} == {
        module_name(path.parent / "__init__.py"): path.parent for path in modules()
    }
    missing = [folder for folder in folders.values() if not (ROOT / folder / "__init__.py").is_file()]
    assert missing == []


def test_every_top_level_folder_with_an_init_is_a_layer() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found == set(LAYERS)
