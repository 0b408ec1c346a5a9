"""Every snippet of the README and of the quickstart runs as printed, in a folder laid out as they say."""

import sys

import pytest
from printed_snippets import run, snippets
from repository import ROOT

from mambaxray.data.phantoms import make_study
from mambaxray.demo import DemoSettings, _make_model

README = ROOT / "README.md"
QUICKSTART = ROOT / "docs" / "quickstart.md"
SNIPPETS = snippets(README) | snippets(QUICKSTART)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the snippets name: an untrained demo model and some X-rays."""
    folder = tmp_path_factory.mktemp("readme")
    settings = DemoSettings(vision_hidden=32, vision_layers=1, text_hidden=32, text_layers=1, vocab_size=400)
    model, processor = _make_model(settings, [make_study(seed)["report"] for seed in range(20)])
    model.save_pretrained(folder / "demo" / "model")
    processor.save_pretrained(folder / "demo" / "model")
    (folder / "images").mkdir()
    for number, name in enumerate(["xray.png", "frontal.png", "lateral.png", "images/1.png", "images/2.png"]):
        make_study(number)["images"][0].save(folder / name)
    return folder


@pytest.mark.parametrize("name", ["auto", "pipeline", "trainer", "pretrain", "contrast", "recipe"])
def test_python_snippet_runs(folder, name):
    result = run([sys.executable, "-c", SNIPPETS[name]], folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize("command", SNIPPETS["cli"].strip().splitlines())
def test_command_line_snippet_runs(folder, command):
    result = run(["bash", "-c", command], folder)
    assert result.returncode == 0, result.stderr


def test_all_snippets_are_there():
    assert list(snippets(README)) == ["auto", "pipeline", "trainer", "cli"]
    assert list(snippets(QUICKSTART)) == ["pretrain", "contrast", "recipe"]


def test_the_readme_fits_two_screens_and_its_picture_is_small():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 125
    assert (README.parent / "docs" / "demo.png").stat().st_size <= 200_000
