"""Training in several processes of one machine."""

import json
import os

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from mambaxray.train.processes import run_in_processes


class _Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(3))

    def forward(self, x, y):
        prediction = x @ self.slope
        return {"loss": (prediction - y).square().mean(), "logits": prediction}


def _rows(count=32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator)
    return [{"x": row, "y": row.sum()} for row in x]


def fit_line(folder):
    """Trains on batches of 8 over all processes and writes slope and losses."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    arguments = TrainingArguments(
        str(folder),
        max_steps=6,
        per_device_train_batch_size=8 // processes,
        learning_rate=0.1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        ddp_backend="gloo" if processes > 1 else None,
        remove_unused_columns=False,
    )
    trainer = Trainer(model=_Line(), args=arguments, train_dataset=_rows())
    trainer.train()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        slope = trainer.model.slope.tolist()
        (folder / "result.json").write_text(json.dumps({"slope": slope, "losses": losses, "processes": processes}))


def fail(message):
    raise ValueError(message)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        run_in_processes(fit_line, (folder,), processes)
        results.append(json.loads((folder / "result.json").read_text()))
    one, two = results
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["slope"] == pytest.approx(one["slope"], abs=1e-5)
    assert [float(x) for x in two["losses"]] == pytest.approx([float(x) for x in one["losses"]], abs=1e-4)


@pytest.mark.slow
def test_a_failing_process_ends_the_group_with_its_message():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="no such data"):
        run_in_processes(fail, ("no such data",), 2)


def test_no_processes_are_refused():
    with pytest.raises(ValueError, match="got 0"):
        run_in_processes(fail, ("",), 0)
