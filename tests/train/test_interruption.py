"""Training in several processes, and training that is killed: the losses are those of one quiet run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_training import TINY

from mambaxray import load_recipe, run_recipe
from mambaxray.train import checkpoints as checkpoints_module
from mambaxray.train.checkpoints import is_complete, last_complete_checkpoint
from mambaxray.train.processes import run_in_processes
from mambaxray.train.recipe import RecipeError
from mambaxray.train.report_trainer import ReportTrainer

# 21 training studies in batches of 4: checkpoint 9 lies in the middle of the second epoch.
KILLED = [*TINY, "training.max_steps=24", "training.save_steps=3", "training.eval_strategy=no", "metrics=null"]


class PowerCut(Exception):
    pass


@contextmanager
def stopping_at(step):
    """Training ends by an error when a number of steps are done and saved."""
    real = ReportTrainer.training_step

    def training_step(trainer, *args, **kwargs):
        if trainer.state.global_step == step:
            raise PowerCut
        return real(trainer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):  # noqa: PT012
        patch.setattr(ReportTrainer, "training_step", training_step)
        yield


def run_tiny(output, batch_size):
    # The Trainer's loss at evaluation is a mean over batches, so these must be the same; 3 studies for 2 processes.
    sizes = [f"training.per_device_train_batch_size={batch_size}", "training.per_device_eval_batch_size=1"]
    run_recipe(load_recipe("finetune_phantoms", [*TINY, *sizes]), output)


def history(folder):
    return json.loads((folder / "result.json").read_text())["history"]


def numbers(folder, names):
    return [entry[name] for entry in history(folder) for name in names if name in entry]


@pytest.mark.slow
def test_two_processes_have_the_losses_and_reports_of_one(tmp_path):
    run_in_processes(run_tiny, (tmp_path / "1", 4), 1)
    run_in_processes(run_tiny, (tmp_path / "2", 2), 2)
    for name in ("loss", "eval_loss"):
        one, two = (numbers(tmp_path / folder, [name]) for folder in "12")
        assert len(one) >= 2
        assert two == pytest.approx(one, rel=1e-4)
    scores = ["eval_F1_micro_14_uncertain-negative", "eval_unique_ratio"]
    assert numbers(tmp_path / "2", scores) == numbers(tmp_path / "1", scores)


def start(output):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["mambaxray", "finetune", "--recipe", "finetune_phantoms", "--output", str(output), *KILLED]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def kill_after(checkpoint, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not is_complete(checkpoint):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"{checkpoint} did not come"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit_and_past_a_half_written_checkpoint(tmp_path):
    killed, quiet = tmp_path / "killed", tmp_path / "quiet"
    kill_after(killed / "checkpoints" / "checkpoint-9", start(killed))
    assert not (killed / "result.json").exists()
    # What a process leaves that is killed while it writes a checkpoint.
    whole = last_complete_checkpoint(killed / "checkpoints")
    half = killed / "checkpoints" / "checkpoint-23"
    shutil.copytree(whole, half, ignore=shutil.ignore_patterns("complete.json", "scheduler.pt"))
    os.truncate(half / "model.safetensors", 1000)
    again = start(killed)
    assert again.wait() == 0, again.stderr.read()
    run_recipe(load_recipe("finetune_phantoms", KILLED), quiet)
    for name in ("loss", "grad_norm"):
        assert numbers(killed, [name]) == numbers(quiet, [name])
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (killed, quiet)]
    assert all((weight == weights[1][name]).all() for name, weight in weights[0].items())


@pytest.fixture
def checkpoints(tmp_path):
    run_recipe(load_recipe("finetune_phantoms", [*TINY, "metrics=null"]), tmp_path)
    assert last_complete_checkpoint(tmp_path / "checkpoints").name == "checkpoint-4"
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("harm", ["no seal", "short file", "no file"])
def test_an_incomplete_checkpoint_is_passed_over(checkpoints, harm):
    if harm == "no seal":
        (checkpoints / "checkpoint-4" / "complete.json").unlink()
    elif harm == "short file":
        os.truncate(checkpoints / "checkpoint-4" / "optimizer.pt", 100)
    else:
        (checkpoints / "checkpoint-4" / "rng_state.pth").unlink()
    assert last_complete_checkpoint(checkpoints).name == "checkpoint-2"


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert last_complete_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("best", [[], ["training.load_best_model_at_end=true", "training.metric_for_best_model=loss"]])
def test_a_checkpoint_is_deleted_only_when_the_next_one_is_complete(tmp_path, monkeypatch, best):
    """Power fails while the second checkpoint is on its way to the disk, and both may be of use."""
    overrides = [*TINY, "metrics=null", "training.save_total_limit=1", *best]

    def flush(paths):
        if any("checkpoint-4" in str(path) for path in paths):
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "flush_to_disk", flush)
        with pytest.raises(PowerCut):
            run_recipe(load_recipe("finetune_phantoms", overrides), tmp_path)
    assert last_complete_checkpoint(tmp_path / "checkpoints").name == "checkpoint-2"
    run_recipe(load_recipe("finetune_phantoms", overrides), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]


def test_incomplete_checkpoints_are_deleted_before_those_that_can_be_used(tmp_path):
    overrides = [*TINY, "metrics=null", "training.eval_strategy=no", "training.save_steps=1"]
    half = tmp_path / "checkpoints" / "checkpoint-9"
    with stopping_at(2):
        run_recipe(load_recipe("finetune_phantoms", overrides), tmp_path)
    half.mkdir()
    run_recipe(load_recipe("finetune_phantoms", [*overrides, "training.save_total_limit=2"]), tmp_path)
    left = {path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")}
    assert left == {"checkpoint-3", "checkpoint-4"}


def test_early_stopping_counts_on_after_an_interruption(tmp_path):
    """Without a step that changes anything, the metric of the first evaluation stays the best."""
    overrides = [
        *(*TINY, "metrics=null", "training.max_steps=12", "training.eval_steps=1", "training.save_steps=1"),
        *("training.learning_rate=1e-30", "early_stopping_patience=3", "training.metric_for_best_model=loss"),
        "training.load_best_model_at_end=true",
    ]
    recipe = load_recipe("finetune_phantoms", overrides)
    with stopping_at(3):
        run_recipe(recipe, tmp_path)
    assert last_complete_checkpoint(tmp_path / "checkpoints").name == "checkpoint-3"
    assert run_recipe(recipe, tmp_path).steps == 4
    # Killed after it had stopped, it takes no step further; with more patience it does.
    (tmp_path / "result.json").unlink()
    assert run_recipe(recipe, tmp_path).steps == 4
    (tmp_path / "result.json").unlink()
    assert run_recipe(load_recipe("finetune_phantoms", [*overrides, "early_stopping_patience=5"]), tmp_path).steps == 6


def test_a_run_goes_on_with_as_many_studies_a_step_and_with_the_state_of_its_optimizer(tmp_path):
    overrides = [*TINY, "metrics=null", "training.eval_strategy=no"]
    with stopping_at(3):
        run_recipe(load_recipe("finetune_phantoms", overrides), tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.yaml"
    before = recipe.read_bytes()
    message = r"1 process with 4 studies at a time, and here 1 would take 2: .*per_device_train_batch_size"
    halved = [*overrides, "training.per_device_train_batch_size=2"]
    with pytest.raises(RecipeError, match=message):
        run_recipe(load_recipe("finetune_phantoms", halved), tmp_path / "run")
    assert recipe.read_bytes() == before
    # As a checkpoint of two processes.
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    shutil.copy(checkpoint / "rng_state.pth", checkpoint / "rng_state_0.pth")
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_1.pth")
    (checkpoint / "complete.json").write_text(
        json.dumps({"rng_state_0.pth": os.stat(checkpoint / "rng_state_0.pth").st_size})
    )
    with pytest.raises(RecipeError, match=r"2 processes with 8 studies at a time, and here 1 would take 4: "):
        run_recipe(load_recipe("finetune_phantoms", overrides), tmp_path / "run")
    doubled = [*overrides, "training.per_device_train_batch_size=8"]
    assert run_recipe(load_recipe("finetune_phantoms", doubled), tmp_path / "run").steps == 4


def test_a_checkpoint_of_the_model_alone_is_not_gone_on_with(tmp_path):
    recipe = load_recipe(
        "finetune_phantoms", [*TINY, "metrics=null", "training.eval_strategy=no", "training.save_only_model=true"]
    )
    with stopping_at(3):
        run_recipe(recipe, tmp_path)
    with pytest.raises(RecipeError, match=r"checkpoint-2 holds the model alone \(training\.save_only_model\)"):
        run_recipe(recipe, tmp_path)
    assert run_recipe(recipe, tmp_path, restart=True).steps == 4


def test_a_run_that_was_moved_still_goes_back_to_its_best_checkpoint(tmp_path):
    """Steps that are far too long make the model worse and worse."""
    overrides = [
        *(*TINY, "metrics=null", "training.eval_steps=1", "training.save_steps=1", "training.learning_rate=0.5"),
        *("training.warmup_steps=0", "training.lr_scheduler_type=constant", "training.metric_for_best_model=loss"),
        "training.load_best_model_at_end=true",
    ]
    first = run_recipe(load_recipe("finetune_phantoms", overrides), tmp_path / "here")
    losses = [entry["eval_loss"] for entry in first.history if "eval_loss" in entry]
    assert first.metrics["eval_loss"] == min(losses) < losses[3]
    (tmp_path / "here" / "result.json").unlink()
    (tmp_path / "here").rename(tmp_path / "there")
    again = run_recipe(load_recipe("finetune_phantoms", overrides), tmp_path / "there")
    assert again.metrics["eval_loss"] == min(losses)
