"""The package as its users install it: the sdist, the wheel that is built from it, and an installation of that.

Nothing is fetched: the build runs in this environment (so it needs setuptools), and dependencies are those that are
there. The installation is tried in an isolated Python that can't see this checkout, not even through an editable
installation: `-S` leaves the environment's .pth files alone.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from repository import ROOT, module_name, modules, setup_cfg, tracked_files

pytestmark = pytest.mark.slow

# Libraries of extras or of other machines that a module needs at its top; it can't be imported without them.
_OPTIONAL = ("numba", "triton")


@dataclass(frozen=True)
class Distribution:
    """What was built and installed.

    Attributes:
        source: copy of the repository's tracked files.
        sdist: the archive built from it.
        wheel: the wheel built from the sdist.
        target: folder into which the wheel was installed.
    """

    source: Path
    sdist: Path
    wheel: Path
    target: Path

    def run(self, code: str, cwd: Path, *arguments: str) -> str:
        """What the code prints in a Python that has this installation, and of this environment only its libraries."""
        libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(self.target), *libraries])}
        return execute([sys.executable, "-S", "-c", code, *arguments], cwd, environment)


def execute(command: list[str], cwd: Path, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"
    return result.stdout.strip()


def tracked_modules() -> list[str]:
    """Names of the package's modules that git knows, which are those in the copy."""
    tracked = set(tracked_files())
    return [module_name(path) for path in modules() if path in tracked]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    folder = tmp_path_factory.mktemp("distribution")
    source, target, elsewhere = folder / "source", folder / "target", folder / "elsewhere"
    elsewhere.mkdir()
    for path in tracked_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    build_sdist = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    execute([sys.executable, "-c", build_sdist, str(folder)], cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    execute([*pip, "wheel", *offline, "--wheel-dir", str(folder), str(sdist)], cwd=elsewhere)
    (wheel,) = folder.glob("*.whl")
    execute([*pip, "install", *offline, "--target", str(target), str(wheel)], cwd=elsewhere)
    return Distribution(source, sdist, wheel, target)


def test_the_wheel_holds_the_package_and_its_metadata_only(installed: Distribution) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mambaxray"}
    ours = {name for name in names if name.startswith("mambaxray/")}
    expected = {name.replace(".", "/") for name in tracked_modules()}
    assert {name.removesuffix(".py").removesuffix("/__init__") for name in ours if name.endswith(".py")} == expected
    assert {Path(name).suffix for name in ours} <= {".py", ".typed", ".yaml", ".jinja", ".bib"}
    data = ("py.typed", "evaluation/published/emrrg.yaml", "train/accelerate/fsdp2.yaml", "train/benches/phantoms.yaml")
    data += ("evaluation/pages/templates/page.html.jinja", "evaluation/pages/templates/style.css.jinja")
    data += ("templates/model_card.md.jinja", "templates/papers.bib")
    assert {f"mambaxray/{name}" for name in data} <= set(ours)


def test_the_sdist_holds_tracked_files_only(installed: Distribution) -> None:
    with tarfile.open(installed.sdist) as archive:
        files = {Path(*Path(member.name).parts[1:]) for member in archive if member.isfile()}
    made = {path for path in files if path == Path("PKG-INFO") or path.parts[0] == "mambaxray.egg-info"}
    assert files - made <= set(tracked_files())


def test_the_version_is_said_once(installed: Distribution) -> None:
    (metadata,) = importlib.metadata.distributions(path=[str(installed.target)])
    code = "import mambaxray; print(mambaxray.__version__)"
    assert installed.run(code, installed.target.parent) == metadata.version
    assert setup_cfg()["metadata"]["version"] == "attr: mambaxray.__version__"
    assert f"version: {metadata.version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_every_module_of_the_installed_package_can_be_imported_elsewhere(
    installed: Distribution, tmp_path: Path
) -> None:
    code = """
import sys
from importlib import import_module
from pathlib import Path
from mambaxray import MambaXrayConfig, MambaXrayForConditionalGeneration
import mambaxray.data.schema
target, optional, *names = sys.argv[1:]
for name in names:
    try:
        path = import_module(name).__file__
    except ModuleNotFoundError as error:
        if error.name not in optional.split():
            raise
        continue
    if not Path(path).is_relative_to(target):
        print(name, path)
"""
    assert installed.run(code, tmp_path, str(installed.target), " ".join(_OPTIONAL), *tracked_modules()) == ""


def test_the_installed_command_is_the_command_line(installed: Distribution, tmp_path: Path) -> None:
    assert (installed.target / "bin" / "mambaxray").exists() or (installed.target / "bin" / "mambaxray.exe").exists()
    code = """
import sys
from importlib.metadata import entry_points
(command,) = [e for e in entry_points(group="console_scripts") if e.name == "mambaxray" and e.dist.name == "mambaxray"]
sys.argv = ["mambaxray", "--help"]
command.load()()
"""
    assert "generate" in installed.run(code, tmp_path)


def test_the_installed_package_works_in_a_source_tree_which_shadows_it(installed: Distribution) -> None:
    code = """
import mambaxray
from mambaxray import MambaXrayConfig
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.modeling_mambaxray.ops import selective_scan
print(mambaxray.__file__, MambaXrayConfig.__module__, len(OBSERVATIONS))
"""
    file, module, observations = installed.run(code, installed.source).split()
    assert Path(file) == installed.source / "mambaxray" / "__init__.py"
    assert (module, observations) == ("mambaxray.configuration.configuration_mambaxray", "14")
