"""Where the material lies that tests share but the repository does not hold."""

import os
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import TOKEN, HubServer

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


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server, which this process takes for the Hub, with a cache of its own and no pauses between tries."""
    with HubServer() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Made once per process, for one Hub: transformers' client, and the one that peft uses.
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
