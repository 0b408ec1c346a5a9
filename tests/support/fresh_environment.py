"""A Python that has this environment's libraries but not this package, nor what only this package needs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_HIDDEN = ("mambaxray", "pydicom", "numba", "peft", "datasets")


class FreshEnvironment:
    """A virtual environment of its own, whose libraries are those of the tests' environment.

    Args:
        folder: where it is made, with a cache of the Hub of its own.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        (site_packages,) = (folder / "venv").glob("lib/python*/site-packages")
        libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        hide = f"import sys; sys.modules.update(dict.fromkeys({_HIDDEN}))"
        (site_packages / "libraries.pth").write_text("\n".join([*libraries, hide]) + "\n", encoding="utf-8")

    def run(self, code: str, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a program, without a terminal that could be asked anything."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HF_HOME": str(self.folder / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **variables}
        return subprocess.run(
            [str(self.folder / "venv" / "bin" / "python"), "-c", code, *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def answer(self, code: str, *arguments: str | Path, **variables: str) -> Any:
        """What a program prints last, as JSON; it must succeed."""
        result = self.run(code, *arguments, **variables)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.strip().splitlines()[-1])
