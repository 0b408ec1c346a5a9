"""`docs/adding_a_system.md`, followed literally from an empty folder."""

import json
import sys
from pathlib import Path

import outside_system
import pytest
from hub_server import TOKEN, HubServer
from printed_snippets import files, run, snippets
from repository import ROOT

PAGE = ROOT / "docs" / "adding_a_system.md"
FILES, SNIPPETS = files(PAGE), snippets(PAGE)


def test_the_page_builds_the_system_that_the_tests_of_the_seams_use():
    def without_title(text):
        return text.partition("\n\n")[2]

    source = Path(outside_system.__file__).read_text(encoding="utf-8").replace("outside_system", "query_system")
    assert without_title(FILES["query_system.py"]) == without_title(source)


def follow(command, folder, **variables):
    result = run(command, folder, **variables)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.slow
def test_the_page_works_from_an_empty_folder(tmp_path):
    assert list(SNIPPETS) == ["train", "use", "commands", "push", "encoder"]
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    follow(["bash", "-ec", SNIPPETS["train"]], tmp_path)
    history = json.loads((tmp_path / "runs" / "query" / "result.json").read_text(encoding="utf-8"))["history"]
    assert all({"report", "findings"} <= entry.keys() for entry in history if "loss" in entry)
    assert "Evidence(observation=" in follow([sys.executable, "-c", SNIPPETS["use"]], tmp_path)
    for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["evidence"]["Edema"]["studies"][0]["study_id"].startswith("phantom-")
    follow(["bash", "-ec", SNIPPETS["commands"]], tmp_path)
    assert json.loads((tmp_path / "reports.jsonl").read_text(encoding="utf-8"))["evidence"]
    for page in ("explanation.html", "page.html"):
        assert "phantom-" in (tmp_path / page).read_text(encoding="utf-8")
    with HubServer() as hub:
        variables = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        follow(["bash", "-ec", SNIPPETS["push"]], tmp_path, HF_HOME=str(tmp_path / "hf"), **variables)
        pushed = hub.files("me/query")
    assert {"README.md", "config.json", "model.safetensors"} <= pushed.keys()
    assert not any("memory" in name for name in pushed)
    assert follow([sys.executable, "-c", SNIPPETS["encoder"]], tmp_path).strip() == "197"
