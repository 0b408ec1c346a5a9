"""A checkpoint of transformers' plain `Trainer` is a model like any other."""

import pytest
from datasets import Dataset
from tiny_training import phantom_processor, short_run, tiny_generator
from transformers import Trainer, pipeline
from typer.testing import CliRunner

from mambaxray import ReportCollator
from mambaxray.cli import app
from mambaxray.data.phantoms import make_study


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    studies = Dataset.from_list([{"report": make_study(number)["report"]} for number in range(4)])
    rows = [make_study(number) for number in range(4)]
    processor = phantom_processor(studies["report"])
    Trainer(
        model=tiny_generator(processor),
        args=short_run(folder, max_steps=1, save_steps=1, save_strategy="steps"),
        train_dataset=rows,
        data_collator=ReportCollator(processor),
        processing_class=processor,
    ).train()
    return folder


def test_it_is_used_by_the_pipeline_and_by_the_command_line(run, tmp_path):
    image = make_study(9)["images"][0]
    image.save(tmp_path / "xray.png")
    checkpoint = run / "checkpoint-1"
    (written,) = pipeline("image-to-text", model=str(checkpoint), device="cpu")(image, max_new_tokens=4)
    arguments = ["generate", str(tmp_path / "xray.png"), "-m", str(checkpoint), "--max-new-tokens", "4"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert written["generated_text"].split("\n")[0] in result.stdout
