"""`mambaxray prepare` in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import source_trees
from PIL import Image

COMMAND = [sys.executable, "-m", "mambaxray.cli", "prepare"]
ENVIRONMENT = {**os.environ, "COLUMNS": "100", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )


def test_a_data_set_is_prepared_and_its_counts_are_told(tmp_path: Path) -> None:
    source = source_trees.mimic(tmp_path / "mimic")
    (source / "files/p10/p10000002/s50000003/dicom-3.jpg").unlink()
    output = tmp_path / "out"
    result = run("mimic-cxr", "--source", source, "--output", output, "--section", "findings", "--num-proc", "1")
    assert result.returncode == 0, result.stderr
    for line in (
        "mimic-cxr: train 2 (published: 270,790), validation 0 (published: 2,130), test 1 (published: 3,858)",
        "split: mimic-cxr-2.0.0-split.csv.gz; patients in more than one split: 0",
        "left out: 1 x no findings in its report",
        "left out: 1 x no such file",
        f"each of them is named in {output}/left_out.csv",
        f"written to {output}; read it with mambaxray.load_prepared('{output}')",
    ):
        assert line in result.stderr
    assert json.loads((output / "prepared.json").read_text())["cleaning"] == "mimic-cxr"


def test_most_studies_lost_is_an_exit_code_of_its_own_and_the_threshold_is_told(tmp_path: Path) -> None:
    annotation = {"train": [], "val": [], "test": []}
    for number in range(8):
        file = tmp_path / "images" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        if number:
            file.write_text("no picture")
        else:
            Image.linear_gradient("L").save(file)
        annotation["train"].append({"id": str(number), "report": "no effusion", "image_path": [file.name]})
    (tmp_path / "annotation.json").write_text(json.dumps(annotation))
    arguments = ("annotation-json", "--source", tmp_path, "--section", "findings", "--num-proc", "1", "--output")
    result = run(*arguments, tmp_path / "out")
    assert result.returncode == 1
    assert "7 of 8 studies are lost to absent or unreadable images, more than --max-lost 0.5 allows" in " ".join(
        result.stderr.split()
    )
    assert run(*arguments, tmp_path / "all", "--max-lost", "0.9").returncode == 0


def test_the_section_must_be_given(tmp_path: Path) -> None:
    result = run("mimic-cxr", "--source", tmp_path, "--output", tmp_path / "out")
    assert result.returncode == 2
    assert "--section" in result.stderr


def test_a_mistake_is_told_in_a_line(tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run("iu-xray", "--source", tmp_path, "--output", output, "--section", "findings", "--unit", "image")
    assert result.returncode == 2
    assert result.stderr.startswith("error: iu-xray has no option unit; its options: section, cleaning")
    assert not output.exists()


def test_priors_are_linked_and_counted_when_asked_for(tmp_path: Path) -> None:
    source = source_trees.mimic_history(tmp_path / "mimic")
    arguments = ("mimic-cxr", "--source", source, "--section", "findings", "--num-proc", "1", "--unit", "study")
    result = run(*arguments, "--output", tmp_path / "out", "--prior")
    assert result.returncode == 0, result.stderr
    assert "train: 2 of 4 studies have a prior study" in result.stderr
    assert "test: 0 of 1 studies have a prior study" in result.stderr
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["priors"] == {"train": 2, "test": 0}
