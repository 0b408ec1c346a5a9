"""`--memory`: a model that comes without its memories, as from the Hub, is given some."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mambaxray import AMMRGForConditionalGeneration
from mambaxray.cli import app
from mambaxray.modeling_mambaxray.layers.study_memory import StudyMemory


@pytest.fixture(scope="module")
def place(tiny_folder: Path, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` as it was saved with memories that say where they come from, `pulled` without them, and the memories."""
    folder = tmp_path_factory.mktemp("memories")
    model = AMMRGForConditionalGeneration.from_pretrained(tiny_folder.parent / "ammrg")
    for name, memory in model.study_memory.items():
        made = {"memory": name, "model": f"digest of {name}"}
        object.__setattr__(memory.source, "options", made)
        memory.save_pretrained(folder / name)
    shutil.copytree(tiny_folder.parent / "ammrg", folder / "model")
    model.save_pretrained(folder / "model")
    shutil.copytree(folder / "model", folder / "pulled", ignore=shutil.ignore_patterns("_patient_text"))
    for kind, key, value in (("other", "model", "digest of another"), ("swapped", "memory", "visual")):
        shutil.copytree(folder / "report", folder / kind)
        description: dict[str, Any] = json.loads((folder / kind / "memory.json").read_text())
        description["source"]["options"][key] = value
        (folder / kind / "memory.json").write_text(json.dumps(description))
    shutil.copy(pictures[0], folder / "a.png")
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(place)

    def invoke(command: str) -> Result:
        return CliRunner().invoke(app, shlex.split(command))

    return invoke


def test_the_reports_are_those_of_the_model_that_has_its_memories(run: Any) -> None:
    refused = run("generate a.png -m pulled")
    assert refused.exit_code == 2
    assert "--memory NAME=FOLDER" in refused.stderr
    given = run("generate a.png -m pulled --memory visual=visual --memory report=report")
    assert given.exit_code == 0, given.output
    assert given.stdout == run("generate a.png -m model").stdout
    # One of them in place of the model's own.
    assert run("generate a.png -m model --memory report=report").stdout == given.stdout


@pytest.mark.parametrize(
    ("memories", "told"),
    [
        ("--memory visual=visual", "the memory report is missing"),
        ("--memory visual=visual --memory report=other", "another model than the memory that this AMMRG"),
        ("--memory visual=visual --memory report=swapped", "given as the memory report is a visual memory"),
        ("--memory visual=visual --memory text=report", "there is no memory text; the memories are visual, report"),
        ("--memory visual=absent", "--memory visual=absent: no such folder"),
        ("--memory visual=.", "holds no memory.json"),
        ("--memory visual", "--memory reads NAME=FOLDER"),
    ],
)
def test_memories_that_do_not_belong_to_the_model_are_refused(memories: str, told: str, run: Any) -> None:
    for command in ("generate a.png", "explain a.png -o page.html"):
        result = run(f"{command} -m pulled {memories}")
        assert result.exit_code == 2
        assert told in result.stderr


def test_reports_with_other_memories_are_no_continuation(run: Any, place: Path) -> None:
    command = "generate a.png -m pulled -o reports.jsonl --resume --memory visual=visual --memory report="
    assert run(f"{command}report").exit_code == 0
    assert "have a report in reports.jsonl already" in run(f"{command}report").stderr
    fewer = StudyMemory.from_pretrained(place / "report").select([0, 1])
    fewer.save_pretrained(place / "fewer")
    result = run(f"{command}fewer")
    assert result.exit_code == 2
    assert "settings" in result.stderr


def test_a_study_that_the_memory_holds_is_told(run: Any, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = StudyMemory.from_pretrained(place / "report").study_ids[0]
    (place / "studies.csv").write_text(f"study_id,image\n{study},a.png\nelsewhere,a.png\n")
    assert run("generate studies.csv -m model").exit_code == 0
    assert f"1 of 2 studies, such as {study}, are training studies in the model's memory" in caplog.text


def test_a_page_shows_what_is_recalled_from_a_given_memory(run: Any, place: Path) -> None:
    result = run("explain a.png -m pulled -o page.html --memory visual=visual --memory report=report")
    assert result.exit_code == 0, result.output
    assert StudyMemory.from_pretrained(place / "report").study_ids[0] in (place / "page.html").read_text()
