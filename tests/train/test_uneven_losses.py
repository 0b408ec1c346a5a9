"""Data-parallel training where a named loss exists in some processes only: it ends, and the log has every loss."""

import json
import os

import pytest
import torch
from outside_system import QueryForConditionalGeneration, QueryProcessor
from tiny_training import short_run

from mambaxray import ReportCollator, ReportTrainer, make_tiny_models
from mambaxray.data.phantoms import make_study
from mambaxray.train.processes import run_in_processes

_STEPS = 3


class _Shares(torch.utils.data.Dataset):
    """Batches of two studies whose first has labels and whose second has none: one for each of two processes."""

    def __init__(self):
        self.studies = [make_study(number, image_size=32) for number in range(2 * _STEPS)]
        for study in self.studies[1::2]:
            study["labels"] = None

    def __len__(self):
        return len(self.studies)

    def __getitem__(self, index):
        return self.studies[index]


def train(folder, model_folder, checkpointing):
    """Three steps, without shuffling; each process writes its weights' sum and the first the log."""
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    model = QueryForConditionalGeneration.from_pretrained(model_folder)
    processor = QueryProcessor.from_pretrained(model_folder)
    arguments = short_run(
        folder,
        max_steps=_STEPS,
        per_device_train_batch_size=2 // processes,
        gradient_checkpointing=checkpointing,
        ddp_backend="gloo" if processes > 1 else None,
        logging_steps=1,
        learning_rate=1e-3,
        train_sampling_strategy="sequential",
        ddp_timeout=120,
    )
    trainer = ReportTrainer(
        model=model,
        args=arguments,
        processing_class=processor,
        data_collator=ReportCollator(processor),
        train_dataset=_Shares(),
    )
    trainer.train()
    weights = {name: weight.double().sum().item() for name, weight in model.named_parameters()}
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    (folder / f"{processes}-{rank}.json").write_text(json.dumps({"weights": weights, "history": history}))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    (folder,) = make_tiny_models(tmp_path_factory.mktemp("tiny"), names=["outside_query"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_a_loss_of_one_process_only_stops_nobody_and_is_logged(tmp_path, model_folder, checkpointing):
    run_in_processes(train, (tmp_path, model_folder, checkpointing), 2)
    first, second = (json.loads((tmp_path / f"2-{rank}.json").read_text()) for rank in (0, 1))
    assert len(first["history"]) == _STEPS
    assert all({"report", "findings"} <= entry.keys() for entry in first["history"])
    assert second["weights"] == first["weights"]
    before = QueryForConditionalGeneration.from_pretrained(model_folder).named_parameters()
    assert [name for name, weight in before if first["weights"][name] == weight.double().sum().item()] == []
