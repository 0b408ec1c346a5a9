"""A command that is refused leaves the disk as it was: no folder made for nothing, nothing deleted."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mambaxray.cli import app

_SHORT = {
    "PHANTOMS": "--dataset phantoms --dataset-option num_studies=6 --dataset-option image_size=32",
    "BRIEFLY": "training.max_steps=1 data.options='{num_studies: 8, image_size: 32}' training.report_to=[]",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what commands read."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "reports.jsonl").write_text('{"study_id": "1", "report": "Clear."}\n')
    (folder / "notes.txt").write_text("mine")
    (folder / "taken").mkdir()
    (folder / "taken/notes.txt").write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "command",
    [
        "finetune -r finetune_phantoms -o new/run data.source=absent",
        "finetune -r finetune_phantoms -o new/run model.freeze=[nothing] BRIEFLY",
        "finetune -r finetune_phantoms -o new/run model.lora='{target_modules: [nothing]}' BRIEFLY",
        "finetune -r finetune_phantoms -o new/run model.lora='{r: -1}' BRIEFLY",
        "finetune -r ammrg_phantoms -o new/run model.memories.visual=absent BRIEFLY",
        "pretrain -r pretrain_phantoms -o new/run data.folders=[absent] data.source=null",
        "contrast -r contrast_phantoms -o new/run model.vision_encoder=./absent BRIEFLY",
        "classify -r ammrg_stage1_phantoms -o new/run model.vision_encoder=./absent BRIEFLY",
        "align -r align_phantoms -o new/run model.checkpoint=./absent BRIEFLY",
        "memory build -m ./absent -o new/memory PHANTOMS",
        "memory build -m TINY/ammrg -o new/memory PHANTOMS",
        "memory build -m TINY/ammrg_classification --report-encoder ./absent -o new/memory PHANTOMS",
        "memory build -m any --kind report --report-encoder TINY/mambaxray -o new/memory PHANTOMS",
        "retrieval build -m TINY/ammrg -o new/memory PHANTOMS",
        "retrieval build -m TINY/disease_aware_pretraining -o taken PHANTOMS",
        "retrieval analyze reports.jsonl -r absent.jsonl -o new/result.json",
        "evaluate reports.jsonl -r absent.jsonl -o new/result.json --html new/pages/page.html",
        "evaluate reports.jsonl -o notes.txt/result.json",
        "compare reports.jsonl absent.jsonl -o new/result.json --page new/pages/page.html",
        "analyse reconstruction phantoms -m TINY/ammrg -o new/page.html",
        "analyse embeddings phantoms -m ./absent -o new/page.html",
        "analyse embeddings phantoms -m ./absent -o notes.txt/page.html",
        "explain a.png -m TINY/mambaxray -o notes.txt/page.html",
        "finetune -r finetune_phantoms -o new/run data.options='{num_studies: 8, imagesize: 32}'",
        "generate a.png -m ./absent -o new/reports.jsonl",
        "generate absent.csv -m TINY/mambaxray -o new/reports.jsonl",
        "explain absent.png -m TINY/mambaxray -o new/page.html",
        "prepare iu-xray --source absent --section findings -o new/prepared",
        "prepare table --source notes.txt --section findings -o new/prepared",
        "convert absent.pth -s pretrain -o new/model",
        "convert notes.txt -s pretrain -o new/model",
        "bench run absent.yaml -o new/bench",
        "bench table absent -o new/table.md",
        "views train --dataset absent -o new/views",
        "export absent -o new/model",
        "export TINY/ammrg_classification -o new/model",
        "card absent",
        "tiny notes.txt",
        "demo --data absent --output new/demo",
        "demo --output notes.txt",
    ],
)
def test_a_refused_command_leaves_the_disk_as_it_was(
    command: str, place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, text in {**_SHORT, "TINY": str(tiny_folder.parent)}.items():
        command = command.replace(name, text)
    before = contents(place)
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 2, (result.output, result.exception)
    assert contents(place) == before
