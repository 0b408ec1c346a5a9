"""Training in several processes, and training that is killed: the losses are those of one quiet run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_training import TINY

from mambaxray import load_recipe, run_recipe
from mambaxray.train.checkpoints import is_complete, last_complete_checkpoint
from mambaxray.train.processes import run_in_processes

# 21 training studies in batches of 4: checkpoint 9 lies in the middle of the second epoch.
KILLED = [*TINY, "training.max_steps=24", "training.save_steps=3", "training.eval_strategy=no", "metrics=null"]


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
