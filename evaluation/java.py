"""Runs the Java programs that come with pycocoevalcap: each once over files, with a time limit."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from .metric_table import MetricUnavailableError

_SECONDS_TO_START = 120
_SECONDS_PER_TEXT = 0.2


def pycocoevalcap_file(name: str) -> Path:
    """A file of the installed pycocoevalcap.

    Raises:
        MetricUnavailableError: it is not installed.
    """
    found = find_spec("pycocoevalcap")
    locations = (found.submodule_search_locations if found else None) or []
    path = next((Path(location) / name for location in locations), None)
    if path is None or not path.is_file():
        raise MetricUnavailableError(f'pycocoevalcap with its {name} is absent; pip install "mambaxray[eval]"')
    return path


def run_java(arguments: Sequence[str], *, what: str, texts: int, timeout: float | None = None) -> str:
    """What the program writes to its standard output.

    Args:
        arguments: after `java`.
        what: for messages, e.g. "METEOR".
        texts: how many texts it works on, for the time limit.
        timeout: seconds; by default 120 and 0.2 more per text, some twenty times of what it takes.

    Raises:
        MetricUnavailableError: there is no Java, or the program failed or took too long.
    """
    java = shutil.which("java")
    if java is None:
        raise MetricUnavailableError(
            f"{what} needs Java, and there is no `java` on the PATH; install a runtime of version 8 or newer, e.g. "
            "`apt install default-jre-headless` or `conda install openjdk`"
        )
    limit = _SECONDS_TO_START + _SECONDS_PER_TEXT * texts if timeout is None else timeout
    try:
        finished = subprocess.run([java, *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailableError(
            f"{what} did not finish {texts} texts within {limit:.0f} s and was ended"
        ) from error
    if finished.returncode:
        lines = finished.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise MetricUnavailableError(f"{what} failed with exit code {finished.returncode}: {lines[-1]}")
    return finished.stdout.decode("utf-8", "replace")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """One text per line, without the characters that no file can hold (lone surrogates)."""
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
