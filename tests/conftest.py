"""Where the material lies that tests share but the repository does not hold."""

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set {variable} to the folder that holds this material")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real X-rays and reports (`$MAMBAXRAY_TEST_DATA`)."""
    return _folder("MAMBAXRAY_TEST_DATA", _SHARED / "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """What the authors' released code computes (`$MAMBAXRAY_GOLDEN`)."""
    return _folder("MAMBAXRAY_GOLDEN", _SHARED / "golden")
