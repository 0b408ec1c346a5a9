"""The repository that the tests lie in: its root, its tracked files, its layers."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each folder may import from itself and from those before it (design: "Dependencies point one way").
LAYERS = ("configuration", "modeling_mambaxray", "processing", "data", "evaluation", "train", "mambaxray")


def tracked_files() -> list[Path]:
    """Files that git tracks and that exist, relative to the root; skips the test outside a git checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip(f"{ROOT} is no git checkout, so nobody knows which of its files belong to it")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in listing.split("\0") if name]
    return [path for path in paths if (ROOT / path).is_file()]


def modules() -> list[Path]:
    """Python files of the package, relative to the root."""
    return [path for layer in LAYERS for path in sorted(p.relative_to(ROOT) for p in (ROOT / layer).rglob("*.py"))]


def module_name(path: Path) -> str:
    """Under which name a file of `modules()` is imported."""
    parts = path.with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "mambaxray" else ("mambaxray", *parts))


def setup_cfg() -> configparser.ConfigParser:
    """`setup.cfg`, parsed."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser
