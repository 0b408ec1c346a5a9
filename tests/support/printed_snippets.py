"""What a page of the documentation asks its readers to write and to run, each part behind a comment that names it."""

import os
import re
import subprocess
import sys
from pathlib import Path

_BLOCK = re.compile(r"<!-- (test|file): ([\w.]+) -->\n```\w+\n(.*?)```", re.DOTALL)


def snippets(page: Path) -> dict[str, str]:
    """What is to be run, by name: behind `<!-- test: NAME -->`."""
    return {name: text for kind, name, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if kind == "test"}


def files(page: Path) -> dict[str, str]:
    """What is to be written, by the file's name: behind `<!-- file: NAME -->`, several parts one after another."""
    found: dict[str, list[str]] = {}
    for kind, name, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "file":
            found.setdefault(name, []).append(text)
    return {name: "\n\n".join(parts) for name, parts in found.items()}


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, with this environment's `mambaxray`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
