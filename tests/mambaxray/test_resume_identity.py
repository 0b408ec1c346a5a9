"""A file of reports is continued only with what it was made with, by content, not by name."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from mambaxray import generate_predictions
from mambaxray.cli import app
from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.made_with import MadeWith


@pytest.fixture
def scans(tmp_path):
    (tmp_path / "scans").mkdir()
    for number in range(2):
        make_study(number)["images"][0].save(tmp_path / "scans" / f"{number}.png")
    return tmp_path / "scans"


@pytest.fixture
def model_folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def generate(scans, model, output, *options):
    arguments = ["generate", str(scans), "-m", str(model), "-o", str(output), "--device", "cpu"]
    return CliRunner().invoke(app, [*arguments, *(options or ("--max-new-tokens", "3"))])


def retrain(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        model.projector.weight += 1
    model.save_pretrained(folder)


def change_processor(folder):
    file = folder / "processor_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | {"instruction": "Describe."}), encoding="utf-8")


def change_generation(folder):
    file = folder / "generation_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | {"num_beams": 3}), encoding="utf-8")


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_generate_resumes_with_the_same_and_refuses_all_else(model_folder, scans, tmp_path, name):
    output = tmp_path / name
    assert generate(scans, model_folder, output).exit_code == 0
    before = output.read_bytes()
    done = generate(scans, model_folder, output, "--max-new-tokens", "3", "--resume")
    assert done.exit_code == 0, done.output
    # A copy elsewhere is the same model.
    copied = shutil.copytree(model_folder, tmp_path / "copy")
    assert generate(scans, copied, output, "--max-new-tokens", "3", "--resume").exit_code == 0
    for options in (("--max-new-tokens", "4"), ("--max-new-tokens", "3", "--prompt", "Any edema?")):
        other = generate(scans, model_folder, output, *options, "--resume")
        assert other.exit_code == 2
        assert "another settings" in " ".join(other.output.split())
    for change, what in ((change_processor, "processor"), (change_generation, "model"), (retrain, "model")):
        changed = shutil.copytree(model_folder, tmp_path / change.__name__)
        change(changed)
        other = generate(scans, changed, output, "--max-new-tokens", "3", "--resume")
        assert other.exit_code == 2, other.output
        assert f"another {what}" in " ".join(other.output.split())
    assert output.read_bytes() == before


def test_a_study_whose_image_has_changed_is_written_again(model_folder, scans, tmp_path):
    output = tmp_path / "out.jsonl"
    generate(scans, model_folder, output)
    Image.new("L", (64, 64), 9).save(scans / "new.png")
    make_study(7)["images"][0].save(scans / "0.png")
    (scans / "new.png").unlink()
    result = generate(scans, model_folder, output, "--max-new-tokens", "3", "--resume")
    assert result.exit_code == 0, result.output
    assert "1 reports are written again" in " ".join(result.output.split())
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert sorted(row["study_id"] for row in rows) == sorted(str(scans / f"{number}.png") for number in range(2))


def test_predictions_of_a_model_that_was_retrained_in_its_folder_are_not_resumed(model_folder, tmp_path):
    processor = AutoProcessor.from_pretrained(model_folder)
    studies = [make_study(number) for number in range(2)]
    options = {"output": tmp_path / "predictions.jsonl", "max_new_tokens": 2}
    generate_predictions(AutoModelForImageTextToText.from_pretrained(model_folder), processor, studies, **options)
    again = AutoModelForImageTextToText.from_pretrained(model_folder)
    generate_predictions(again, processor, studies, resume=True, **options)
    retrain(model_folder)
    again = AutoModelForImageTextToText.from_pretrained(model_folder)
    with pytest.raises(ValueError, match="made with another model"):
        generate_predictions(again, processor, studies, resume=True, **options)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    processor.instruction = "Any edema?"
    with pytest.raises(ValueError, match="another model, another processor"):
        generate_predictions(again, processor, studies, resume=True, **options)


@pytest.mark.parametrize("kind", ["list", "datasets"])
def test_predictions_of_a_study_whose_image_has_changed_are_written_again(model_folder, tmp_path, kind):
    model = AutoModelForImageTextToText.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)

    def predict(*numbers):
        studies = [make_study(number) | {"study_id": str(place)} for place, number in enumerate(numbers)]
        studies = [study | {"report": "clear"} for study in studies]
        if kind == "datasets":
            rows = [{name: study[name] for name in ("study_id", "images", "report")} for study in studies]
            studies = Dataset.from_list(
                rows,
                features=Features(
                    {"study_id": Value("string"), "images": List(ImageFeature()), "report": Value("string")}
                ),
            )
        path = tmp_path / "predictions.jsonl"
        generate_predictions(model, processor, studies, output=path, resume=True, max_new_tokens=2)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["study_id"]: row["made_with"] for row in rows}

    first = predict(0, 1)
    assert predict(0, 1) == first
    changed = predict(0, 7)
    assert changed["0"] == first["0"]
    assert changed["1"] != first["1"]


def test_an_identity_reads_what_it_wrote_and_compares_what_both_know():
    made = MadeWith("a", "b", "c").with_images(["https://x/1.png"])
    assert MadeWith.read(str(made)) == made
    assert made.differences(MadeWith.read("")) == []
    assert made.differences(replace(made, processor="z", images="y")) == ["processor", "images"]


def test_an_output_that_cannot_be_written_is_told_before_the_model_works(scans, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "out.jsonl", "/dev/full/out.csv", "/proc/out.csv"):
        # There is no such model, which is found later.
        result = generate(scans, "./absent", output)
        assert result.exit_code == 2
        assert "can't be written" in " ".join(result.output.split())
        assert "Traceback" not in result.output


def test_sampling_options_reach_generate_and_repeat_with_their_seed(model_folder, scans, tmp_path):
    def reports(*options):
        output = tmp_path / "sampled.jsonl"
        result = generate(scans, model_folder, output, "--max-new-tokens", "8", "--overwrite", *options)
        assert result.exit_code == 0, result.output
        return [json.loads(line)["report"] for line in output.read_text(encoding="utf-8").splitlines()]

    sampled = reports("--temperature", "5.0", "--top-k", "50", "--seed", "1")
    assert sampled == reports("--temperature", "5.0", "--top-k", "50", "--seed", "1")
    assert sampled != reports("--temperature", "5.0", "--top-k", "50", "--seed", "2")
    assert sampled != reports()
    refused = generate(scans, model_folder, tmp_path / "x.jsonl", "--temperature", "0")
    assert refused.exit_code == 2
    assert "--temperature must be positive" in refused.output
