"""Every stage's model, its weights shared out over two processes (FSDP2), trains as one process does."""

import json
import os

import pytest
import torch
from tiny import VISION_CONFIGS, VOCABULARY, tiny_config
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import BertConfig

from mambaxray import (
    MambaXrayDualEncoder,
    MambaXrayDualEncoderConfig,
    MambaXrayForConditionalGeneration,
    MambaXrayForPreTraining,
    MambaXrayPreTrainingConfig,
)
from mambaxray.train.processes import run_in_processes

_BATCH, _STEPS = 4, 4
_TEXT = BertConfig(
    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
)
_TEXT.hidden_dropout_prob = _TEXT.attention_probs_dropout_prob = 0.0

MODELS = {
    "stage 1": lambda: MambaXrayForPreTraining(
        MambaXrayPreTrainingConfig(
            hidden_size=16, num_hidden_layers=4, image_size=32, patch_size=4, decoder_hidden_size=16
        )
    ),
    "stage 2": lambda: MambaXrayDualEncoder(
        MambaXrayDualEncoderConfig(VISION_CONFIGS["vision_mamba"](), _TEXT, projection_dim=8)
    ),
    "stage 3": lambda: MambaXrayForConditionalGeneration(tiny_config()),
}


def batch(stage):
    generator = torch.Generator().manual_seed(1)
    inputs = {"pixel_values": torch.randn(_BATCH, 3, 32, 32, generator=generator)}
    if stage != "stage 1":
        inputs["input_ids"] = torch.randint(3, VOCABULARY, (_BATCH, 20), generator=generator)
    if stage == "stage 3":
        config = tiny_config()
        inputs["input_ids"][:, 1 : 1 + config.num_image_tokens] = config.image_token_id
        inputs["labels"] = inputs["input_ids"].clone()
        inputs["labels"][:, :10] = -100
    return inputs


def train(folder):
    """A few steps on one batch, of which each process has its share, and the mean loss of each step."""
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if processes > 1:
        distributed.init_process_group("gloo")
    losses = {}
    for stage, make in MODELS.items():
        torch.manual_seed(0)
        model = make()
        if processes > 1:
            mesh = init_device_mesh("cpu", (processes,))
            for module in [m for m in model.modules() if type(m).__name__ in model._no_split_modules]:
                fully_shard(module, mesh=mesh)
            fully_shard(model, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        inputs = {name: rows.chunk(processes)[rank] for name, rows in batch(stage).items()}
        losses[stage] = []
        for _ in range(_STEPS):
            loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            mean = loss.detach().clone()
            if processes > 1:
                distributed.all_reduce(mean)
            losses[stage].append(mean.item() / processes)
    if rank == 0:
        (folder / f"{processes}.json").write_text(json.dumps(losses))


@pytest.mark.slow
def test_two_processes_with_half_of_the_weights_each_train_as_one_with_all(tmp_path):
    for processes in (1, 2):
        run_in_processes(train, (tmp_path,), processes)
    one, two = (json.loads((tmp_path / f"{processes}.json").read_text()) for processes in (1, 2))
    for stage in MODELS:
        assert one[stage][-1] < one[stage][0]
        assert two[stage] == pytest.approx(one[stage], abs=2e-5), stage
