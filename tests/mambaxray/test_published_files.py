"""Nothing is published by accident: a name planted in whatever lies in a model's folder never arrives at the Hub."""

import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainingArguments
from typer.testing import CliRunner

from mambaxray import ReportTrainer, evaluate_reports, make_tiny_models, push_folder, write_model_card
from mambaxray.cli import app
from mambaxray.modeling_mambaxray.hub.published_files import published_files

NAME = "Erika Mustermann"
STRAY = (
    "predictions.jsonl",
    "reports.csv",
    "notes.txt",
    "model_notes.safetensors",
    "pytorch_model.bin",
    "evaluation.html",
    "helper.py",
    "chest.png",
    "annotation.json",
    "trainer_state.json",
    "training_args.bin",
    "examples/patient_1.png",
    "data/README.md",
    "checkpoint-5/config.json",
    "_patient_text/study_memory/texts.json",
    ".hidden",
)


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A model's folder with a name in its path, and in everything that may lie there besides."""
    return planted(shutil.copytree(tiny_folder, tmp_path / NAME / "model"))


def planted(folder):
    for name in STRAY:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(NAME, encoding="utf-8")
    scores = scores_of({NAME: "No effusion.", "b": f"Seen by {NAME}. Edema.", "c": f"Seen by {NAME}. Edema."})
    assert NAME in json.dumps(scores)
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return folder


def scores_of(references):
    return evaluate_reports(references, dict.fromkeys(references, "Edema."), metrics=["BLEU", "clinical"], ci=False)


def tells(hub, name=NAME):
    """The files at the Hub, in any commit, that hold the name in their content or path."""
    commits = [files for commits in hub.repositories.values() for files in commits.values()]
    return [path for files in commits for path, content in files.items() if name.encode() in content or name in path]


def note_paths(folder):
    for name in ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        values |= {"name_or_path": str(folder), "_name_or_path": str(folder), "made_in": [{"folder": str(folder)}]}
        (folder / name).write_text(json.dumps(values), encoding="utf-8")


def from_python(folder):
    note_paths(folder)
    push_folder(folder, "me/model", examples=False)


def from_the_command_line(folder):
    note_paths(folder)
    result = CliRunner().invoke(app, ["push", str(folder), "me/model", "--no-examples"])
    assert result.exit_code == 0, result.output


def from_the_model_and_its_processor(folder):
    AutoModelForImageTextToText.from_pretrained(folder).push_to_hub("me/model")
    AutoProcessor.from_pretrained(folder).push_to_hub("me/model")


def while_saving_into_the_folder(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.save_pretrained(folder, push_to_hub=True, repo_id="me/model")
    AutoProcessor.from_pretrained(folder).save_pretrained(folder, push_to_hub=True, repo_id="me/model")


PUSHES = (from_python, from_the_command_line, from_the_model_and_its_processor, while_saving_into_the_folder)


@pytest.mark.parametrize("push", PUSHES)
def test_a_planted_name_does_not_arrive_by_any_way_to_push(hub, folder, push):
    push(folder)
    assert {"config.json", "model.safetensors", "processor_config.json"} <= set(hub.files("me/model"))
    assert tells(hub) == []


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_a_planted_name_does_not_arrive_by_the_trainer(hub, tiny_folder, tmp_path, monkeypatch, strategy):
    monkeypatch.chdir(tmp_path)
    processor = AutoProcessor.from_pretrained(tiny_folder)
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    size = model.config.vision_config.image_size
    prompt = processor(text=[processor.default_prompt], return_tensors="pt")["input_ids"][0]
    row = {"input_ids": prompt, "labels": prompt.masked_fill(prompt == processor.image_token_id, -100)} | {
        "pixel_values": torch.zeros(3, size, size)
    }
    (tmp_path / "run").mkdir()
    for name in STRAY:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(NAME, encoding="utf-8")
    arguments = TrainingArguments(
        "run", max_steps=2, save_steps=1, remove_unused_columns=False, use_cpu=True, report_to=[], push_to_hub=True,
        hub_model_id="me/model", hub_strategy=strategy, hub_always_push=True,
    )  # fmt: skip
    trainer = ReportTrainer(model=model, args=arguments, train_dataset=[row] * 4, processing_class=processor)
    trainer.train()
    trainer.push_to_hub()
    files = hub.files("me/model")
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md"} <= set(files)
    assert ("checkpoint-2/optimizer.pt" in files) == (strategy == "all_checkpoints")
    assert ("last-checkpoint/optimizer.pt" in files) == (strategy == "checkpoint")
    assert tells(hub) == []


def test_scores_enter_a_repository_without_texts_and_ids(hub, folder):
    push_folder(folder, "me/model", examples=False)
    scores = json.loads(hub.files("me/model")["scores.json"])
    own = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert scores["scores"] == own["scores"]
    assert scores["honesty"]["baselines"] == own["honesty"]["baselines"]
    assert scores["signature"] == own["signature"]
    assert set(scores) == {"scores", "intervals", "honesty", "signature"}


def test_weights_in_shards_code_and_vocabularies_are_published_and_nothing_of_a_similar_name(tmp_path):
    wanted = ["README.md", "adapter_model.safetensors", "config.json", "merges.txt", "model-00001-of-00002.safetensors"]
    wanted += ["model.fp16.safetensors", "model.safetensors.index.json", "modeling_mine.py", "tokenizer.model"]
    for name in [*wanted, "model_a.safetensors", "modeling_other.py", "model-1.safetensors", "READMEs.md"]:
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "modeling_mine.Mine"}}', encoding="utf-8")
    assert [path.as_posix() for path in published_files(tmp_path)] == sorted(wanted)


def test_a_card_shows_the_baselines_beside_the_scores_in_words(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    references = {"a": "Edema.", "b": "No edema.", "c": "Edema."}
    (folder / "scores.json").write_text(json.dumps(scores_of(references)), encoding="utf-8")
    lines = ModelCard.load(write_model_card(folder, examples=False)).text.splitlines()
    (row,) = [line for line in lines if "Finding F1, micro, 14 observations, uncertain as negative" in line]
    assert 'title="F1_micro_14_uncertain-negative"' in row
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    heads = [
        cell.strip() for cell in next(line for line in lines if "best constant report" in line).strip("|").split("|")
    ]
    # The model writes the best constant report, and the card shows that it does.
    assert cells[1] == cells[heads.index("best constant report")]


def test_a_processors_further_tokenizer_is_published_without_paths(tmp_path, hub):
    (folder,) = make_tiny_models(tmp_path, names=["bidirectional_rrg"])
    (folder / "text_tokenizer" / "notes.txt").write_text(NAME, encoding="utf-8")
    (folder / "other").mkdir()
    (folder / "other" / "tokenizer.json").write_text(NAME, encoding="utf-8")
    file = folder / "text_tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"name_or_path": str(folder)}), encoding="utf-8")
    push_folder(folder, "me/model", examples=False)
    (commits,) = hub.repositories.values()
    pushed = {name for files in commits.values() for name in files}
    assert {name for name in pushed if "/" in name} == {
        "text_tokenizer/tokenizer.json",
        "text_tokenizer/tokenizer_config.json",
    }
    assert tells(hub) == tells(hub, str(folder)) == []
