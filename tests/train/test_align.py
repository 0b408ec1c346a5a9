"""Runs of the stage `align`: GRPO and DPO by TRL's own trainers, their guard, and going on after an interruption."""

import json
from pathlib import Path

import pytest
import torch
from tiny_training import phantom_processor, tiny_generator
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from mambaxray import load_recipe, run_recipe
from mambaxray.data.phantoms import make_phantoms
from mambaxray.train.recipe import RecipeError, make_recipe

pytest.importorskip("trl", reason="TRL is not installed: pip install mambaxray[rl]")

from mambaxray.cli import app
from mambaxray.train import align
from mambaxray.train.alignment_guard import is_worse, kl_to_start
from mambaxray.train.alignment_result import read_alignment
from mambaxray.train.frozen_encoder import remember_images
from mambaxray.train.preferences import preference_pairs, sampled_reports
from mambaxray.train.rewards import make_rewards
from mambaxray.train.run import training_arguments

DATA = "data.options={num_studies: 16, image_size: 32, splits: {train: 0.75, validation: 0.25}}"
COMMON = [
    DATA,
    "rewards={rouge: 0.5, length: 0.5}",
    "num_samples=2",
    "generation={max_new_tokens: 12}",
    "metrics=[ROUGE_L, located]",
    "training.per_device_eval_batch_size=4",
    "training.learning_rate=0.01",
    "training.warmup_steps=0",
    "training.logging_steps=1",
    "training.report_to=[]",
]
GRPO = [*COMMON, "training.per_device_train_batch_size=4", "training.max_steps=2", "training.save_steps=1"]
DPO = [*COMMON, "training.per_device_train_batch_size=4", "training.num_train_epochs=1", "training.save_steps=1"]


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A tiny report generator that has learned some words, saved."""
    folder = tmp_path_factory.mktemp("start")
    studies = make_phantoms(16, image_size=32, splits={"train": 1.0})["train"]
    processor = phantom_processor(studies["report"])
    model = tiny_generator(processor)
    batch = processor.prepare_studies(list(studies), with_reports=True, max_report_length=24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def changed(first: Path, second: Path) -> set[str]:
    """Names of the weights that differ."""
    states = [AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in (first, second)]
    return {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}


@pytest.fixture(scope="module")
def grpo(start, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("grpo") / "run"
    arguments = ["align", "--recipe", "align_phantoms", "--output", str(output), f"model.checkpoint={start}", *GRPO]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (output / "printed.txt").write_text(result.output)
    return output


def test_grpo_leaves_a_model_that_learned_and_what_it_learned_from(start, grpo):
    assert changed(start, grpo / "model")
    assert not any(name.startswith("vision_encoder") for name in changed(start, grpo / "model"))
    history = json.loads((grpo / "result.json").read_text())["history"]
    logged = {name for entry in history for name in entry}
    assert {"rewards/rouge/mean", "rewards/length/mean", "kl", "reward"} <= logged
    assert history[0]["kl"] == pytest.approx(0, abs=1e-5)


def test_the_guard_is_written_and_printed(grpo):
    result = read_alignment(grpo)
    assert result["studies"] == 4
    assert {"ROUGE_L", "located_F1_micro_14_uncertain-negative", "contradiction_rate"} <= result["scores"].keys()
    for each in result["scores"].values():
        assert each["difference"] == pytest.approx(each["after"] - each["before"])
        assert each["interval"][0] <= each["difference"] <= each["interval"][1]
    assert set(result["checks"]) == {
        *("unique_ratio", "repetition", "truncated_share", "empty_share", "words_per_report", "uncheckable_share")
    }
    assert result["kl_per_token"] > 0
    printed = (grpo / "printed.txt").read_text()
    assert all(
        name in printed for name in ("ROUGE_L", "unique_ratio", "uncheckable_share", "kl_per_token", "words_per")
    )
    for name in ("before", "after"):
        assert len((grpo / "guard" / f"{name}.jsonl").read_text().splitlines()) == 4


def test_the_saved_processor_is_the_one_of_the_start(start, grpo):
    names = ["model", *(f"checkpoints/{path.name}" for path in (grpo / "checkpoints").glob("checkpoint-*"))]
    assert len(names) > 1
    before = AutoProcessor.from_pretrained(start)
    for name in names:
        after = AutoProcessor.from_pretrained(grpo / name)
        assert after.chat_template == before.chat_template
        assert after.default_prompt == before.default_prompt


def test_a_finished_run_is_not_run_again(start, grpo):
    before = {path: path.stat().st_mtime_ns for path in grpo.rglob("*") if path.is_file() and path.name != ".lock"}
    recipe = load_recipe("align_phantoms", [f"model.checkpoint={start}", *GRPO])
    assert run_recipe(recipe, grpo).steps == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(RecipeError, match="beta is"):
        run_recipe(load_recipe("align_phantoms", [f"model.checkpoint={start}", *GRPO, "beta=0.5"]), grpo)


def test_prompts_are_those_of_training_and_evaluation(start, tmp_path):
    recipe = load_recipe("align_phantoms", [f"model.checkpoint={start}", *GRPO])
    trainer = align.make_trainer(recipe, training_arguments(recipe, tmp_path / "c"), tmp_path)
    processor = AutoProcessor.from_pretrained(start)
    study = make_phantoms(16, image_size=32, seed=0, splits={"train": 0.75, "validation": 0.25})["train"][0]
    (ids,), _, fields = trainer._tokenize_prompts(
        [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": study["images"][0]},
                        {"type": "text", "text": processor.prompt_for(study)},
                    ],
                }
            ]
        ]
    )
    ours = processor.prepare_studies([study])
    assert ids == ours["input_ids"][0].tolist()
    assert torch.equal(torch.as_tensor(fields["pixel_values"]), ours["pixel_values"])


def test_a_frozen_encoder_looks_at_each_image_once(start, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(align, "remember_images", lambda model: made.append(remember_images(model)) or made[-1])
    recipe = load_recipe("align_phantoms", [f"model.checkpoint={start}", *GRPO, "num_samples=4"])
    trainer = align.make_trainer(recipe, training_arguments(recipe, tmp_path / "c"), tmp_path)
    encoder_calls = []
    for model in (trainer.model, trainer.ref_model):
        model.vision_encoder.register_forward_hook(
            lambda *call: encoder_calls.append(call[2].last_hidden_state.shape[0])
        )
    trainer.train()
    (remembered,) = made
    # 12 training studies, of which 2 steps show one each, and 4 validation studies, which were encoded before.
    assert sum(encoder_calls) == 2
    assert remembered.encoded == 6
    assert remembered.asked > 2 * 4 * 2


def test_what_is_remembered_is_what_the_encoder_gives_and_has_a_size(start):
    model = AutoModelForImageTextToText.from_pretrained(start).eval()
    assert remember_images(model) is None, "a trained encoder changes"
    model.freeze_part("vision_encoder")
    images = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        expected = model.encode_images(images)
    remembered = remember_images(model, max_bytes=3 * expected[0].nbytes)
    assert torch.allclose(model.encode_images(images), expected, atol=1e-6)
    assert torch.allclose(model.encode_images(images[[4, 4, 3]]), expected[[4, 4, 3]], atol=1e-6)
    assert remembered.encoded == 5
    model.encode_images(images[:1])  # the oldest has gone
    assert (remembered.encoded, remembered.asked) == (6, 9)


@pytest.mark.parametrize("method", ["grpo", pytest.param("dpo", marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_to_the_same_weights(method, start, grpo, tmp_path, monkeypatch):
    name, options = ("align_phantoms", GRPO) if method == "grpo" else ("align_phantoms_dpo", DPO)
    recipe = load_recipe(name, [f"model.checkpoint={start}", *options])
    whole = grpo if method == "grpo" else tmp_path / "whole"
    if method == "dpo":
        run_recipe(recipe, whole)

    class Stopped(Exception):
        pass

    real = align.make_trainer

    def stopping(*given):
        trainer = real(*given)
        step = trainer.training_step

        def training_step(*args, **kwargs):
            if trainer.state.global_step == 1:
                raise Stopped
            return step(*args, **kwargs)

        trainer.training_step = training_step
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(align, "make_trainer", stopping)
        with pytest.raises(Stopped):
            run_recipe(recipe, tmp_path / "run")
    run_recipe(recipe, tmp_path / "run")
    assert changed(whole / "model", tmp_path / "run/model") == set()


@pytest.mark.slow
def test_dpo_makes_its_pairs_and_learns_from_them(start, tmp_path):
    output = tmp_path / "run"
    arguments = ["align", "-r", "align_phantoms_dpo", "-o", str(output), f"model.checkpoint={start}", *DPO]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    pairs = [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 12
    chosen = [pair for pair in pairs if pair["chosen"] is not None]
    assert chosen
    assert all(pair["chosen"] != pair["rejected"] for pair in chosen)
    assert changed(start, output / "model")
    assert read_alignment(output)["kl_per_token"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "dpo"])
def test_adapters_belong_to_the_model_in_the_runs_folder(method, start, tmp_path):
    name, options = ("align_phantoms", GRPO) if method == "grpo" else ("align_phantoms_dpo", DPO)
    recipe = load_recipe(name, [f"model.checkpoint={start}", *options, "model.lora={r: 2}"])
    result = run_recipe(recipe, tmp_path / "1")
    assert result.trained_parameters < result.total_parameters / 4
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    assert any("lora" in name for name, _ in model.named_parameters())
    assert read_alignment(tmp_path / "1")["kl_per_token"] > 0
    # A run from adapters begins from the whole of both.
    again = run_recipe(load_recipe("align_phantoms", [f"model.checkpoint={result.model_dir}", *GRPO]), tmp_path / "2")
    assert not any("lora" in name for name in AutoModelForImageTextToText.from_pretrained(again.model_dir).state_dict())


def test_pairs_are_the_best_and_the_worst_and_go_on_where_they_stopped(start, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(start).eval()
    processor = AutoProcessor.from_pretrained(start)
    studies = make_phantoms(10, image_size=32, splits={"train": 1.0})["train"]
    values = {
        "stage": "align",
        "method": "dpo",
        "model": {"checkpoint": "x"},
        "rewards": {"rouge": 1.0},
        "num_samples": 3,
    }
    recipe = make_recipe(values | {"generation": {"max_new_tokens": 8}})
    rewards = make_rewards(recipe.rewards)
    file = tmp_path / "pairs.jsonl"
    pairs = preference_pairs(model, processor, studies, rewards, recipe, file)
    whole = file.read_text()
    assert [json.loads(line)["study_id"] for line in whole.splitlines()] == studies["study_id"]
    assert pairs
    assert all(pair["chosen_rewards"]["rouge"] > pair["rejected_rewards"]["rouge"] for pair in pairs)
    # Cut within the second group and within a line.
    file.write_text("".join(whole.splitlines(keepends=True)[:9]) + '{"study_id": "half')
    assert preference_pairs(model, processor, studies, rewards, recipe, file) == pairs
    assert file.read_text() == whole
    # Those of another recipe, which a run may be corrected by before its first checkpoint, are not gone on with.
    other = make_recipe(values | {"generation": {"max_new_tokens": 2}})
    assert preference_pairs(model, processor, studies, rewards, other, file) != pairs
    assert all(len(pair["chosen"]) < 30 for pair in map(json.loads, file.read_text().splitlines()) if pair["chosen"])
    assert preference_pairs(model, processor, studies, rewards, recipe, file) == pairs
    reports = sampled_reports(model, processor, studies.select([0, 1]), 3, {"max_new_tokens": 8}, 5)
    assert len(reports) == 6
    assert reports == sampled_reports(model, processor, studies.select([0, 1]), 3, {"max_new_tokens": 8}, 5)


def test_the_divergence_from_itself_is_nothing(start):
    model = AutoModelForImageTextToText.from_pretrained(start).eval()
    processor = AutoProcessor.from_pretrained(start)
    studies = make_phantoms(3, image_size=32, splits={"train": 1.0})["train"]
    same = kl_to_start(model, str(start), processor, studies, ["the heart is", "no", "left effusion ."], 2)
    assert same == {"kl_per_token": pytest.approx(0, abs=1e-6), "kl_per_report": pytest.approx(0, abs=1e-5)}
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.5)
    moved = kl_to_start(model, str(start), processor, studies, ["the heart is", "no", "left effusion ."], 2)
    assert moved["kl_per_report"] > moved["kl_per_token"] > 0.001


@pytest.mark.parametrize(
    ("name", "interval", "expected"),
    [
        ("Bleu_4", (-0.2, -0.1), True),
        ("Bleu_4", (-0.2, 0.1), False),
        ("Bleu_4", (0.1, 0.2), False),
        ("contradiction_rate", (0.1, 0.2), True),
        ("contradiction_rate", (-0.2, -0.1), False),
    ],
)
def test_worse_is_lower_but_for_what_should_be_low(name, interval, expected):
    assert is_worse(name, interval) is expected


MINIMAL = {"stage": "align", "model": {"checkpoint": "some/model"}, "rewards": {"label_f1": 1.0}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rewards": {}}, "rewards is empty"),
        ({"rewards": {"label": 1.0}}, "unknown reward 'label'"),
        ({"rewards": {"label_f1": -1.0}}, "must be positive"),
        ({"method": "ppo"}, "method must be one of grpo, dpo"),
        ({"num_samples": 1}, "num_samples must be at least 2"),
        ({"beta": -0.1}, "beta must be positive or 0"),
        ({"beta": 0.0, "method": "dpo"}, "beta must be positive, got"),
        ({"uncertain": "maybe"}, "uncertain must be positive, negative or ignore"),
        ({"generation": {"temprature": 1}}, "unknown key generation.temprature; did you mean temperature"),
        ({"evaluation": {"num_beam": 1}}, "unknown key evaluation.num_beam; did you mean num_beams"),
        ({"training": {"num_generations": 4}}, "unknown key training.num_generations"),
        ({"training": {"eval_strategy": "steps"}}, "unknown key training.eval_strategy"),
        ({"training": {"epsilonn": 0.1}}, "unknown key training.epsilonn; did you mean epsilon"),
        ({"training": {"push_to_hub": True}}, "TRL's trainers upload all of their folder"),
        ({"metrics": ["BLUE"]}, "unknown metric 'BLUE'"),
        ({"model": {}}, "model lacks checkpoint"),
        ({"model": {"checkpoint": "a", "vision_encoder": "b"}}, "unknown key model.vision_encoder"),
    ],
)
def test_what_an_alignment_recipe_cannot_say_is_named(values, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(MINIMAL | values)


def test_a_reward_without_its_model_stops_the_run_before_it_begins(start, tmp_path):
    recipe = load_recipe("align_phantoms", [f"model.checkpoint={start}", *GRPO, "rewards={green: 1}"])
    with pytest.raises(RecipeError, match="rewards: GREEN needs the package radeval"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run/recipe.yaml").exists()


def test_a_start_that_does_not_exist_is_named(tmp_path):
    recipe = load_recipe("align_phantoms", ["model.checkpoint=no/such/model/here", *GRPO])
    with pytest.raises(FileNotFoundError, match=r"model\.checkpoint=no/such/model/here: no such folder"):
        run_recipe(recipe, tmp_path / "run")
