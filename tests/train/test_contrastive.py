"""Stage 2 with the plain Trainer, in one process and in two that act as one."""

import os

import pytest
import torch
from tiny import VISION_CONFIGS, tiny_tokenizer
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, Trainer, TrainingArguments

from mambaxray import (
    ContrastiveCollator,
    MambaXrayDualEncoder,
    MambaXrayDualEncoderConfig,
    MambaXrayImageProcessor,
    compute_retrieval_metrics,
)
from mambaxray.data.phantoms import make_phantoms
from mambaxray.train.processes import run_in_processes


def make_collator(studies):
    tokenizer = tiny_tokenizer(" ".join(studies["report"]))
    return ContrastiveCollator(MambaXrayImageProcessor(size={"height": 32, "width": 32}), tokenizer, 60)


def make_model(collator):
    torch.manual_seed(0)
    text = BertConfig(
        vocab_size=len(collator.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return MambaXrayDualEncoder(MambaXrayDualEncoderConfig(VISION_CONFIGS["vision_mamba"](), text, projection_dim=16))


def make_studies(count=32):
    return make_phantoms(count, seed=1, image_size=32, splits={"train": 1.0})["train"]


def arguments(folder, **more):
    values = {"remove_unused_columns": False, "report_to": [], "seed": 0, "save_strategy": "no", "use_cpu": True}
    return TrainingArguments(str(folder), logging_steps=1, **values | more)


def test_the_plain_trainer_learns_pairs_and_tells_the_recall(tmp_path):
    studies = make_studies(16)
    collator = make_collator(studies)
    trainer = Trainer(
        model=make_model(collator),
        args=arguments(tmp_path, max_steps=40, learning_rate=5e-3, per_device_train_batch_size=16),
        train_dataset=studies,
        eval_dataset=studies,
        data_collator=collator,
        compute_metrics=compute_retrieval_metrics,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.7 * before["eval_loss"]
    for direction in ("image_to_text", "text_to_image"):
        for k in (1, 5, 10):
            assert f"eval_{direction}_recall@{k}" in after
        assert after[f"eval_{direction}_recall@5"] > before[f"eval_{direction}_recall@5"]


def test_labels_tell_which_reports_are_the_same():
    studies = make_studies(4)
    rows = [studies[0], studies[1], studies[0] | {"report": f" {studies[0]['report']}\n"}]
    labels = make_collator(studies)(rows)["labels"].tolist()
    assert labels[0] == labels[2] != labels[1]
    assert min(labels) >= 0


def test_a_tokenizer_without_padding_is_refused():
    tokenizer = tiny_tokenizer("a")
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="has no pad token"):
        ContrastiveCollator(MambaXrayImageProcessor(), tokenizer)


def train_and_save(folder):
    """Loss and gradients of one batch of 16, then losses and weights of a short training; rank 0 writes them."""
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if processes > 1:
        distributed.init_process_group("gloo")
    studies = make_studies()
    collator = make_collator(studies)
    model = make_model(collator)
    size = 16 // processes
    wrapped = DistributedDataParallel(model) if processes > 1 else model
    # The whole batch is collated, so that padding is the same whatever the share.
    batch = collator([studies[index] for index in range(16)])
    share = {name: values[rank * size : (rank + 1) * size] for name, values in batch.items()}
    loss = wrapped(**share).loss
    loss.backward()
    result = {"loss": loss.detach(), "gradients": {name: p.grad.clone() for name, p in model.named_parameters()}}
    torch.save(loss.detach(), folder / f"loss-{rank}.pt")
    trainer = Trainer(
        model=make_model(collator),
        args=arguments(
            folder,
            max_steps=4,
            learning_rate=1e-3,
            per_device_train_batch_size=size,
            ddp_backend="gloo" if processes > 1 else None,
        ),
        train_dataset=studies,
        data_collator=collator,
    )
    trainer.train()
    result["losses"] = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    result["weights"] = trainer.model.state_dict()
    if rank == 0:
        torch.save(result, folder / "result.pt")


@pytest.mark.slow
def test_two_processes_of_8_pairs_equal_one_of_16(tmp_path):
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        run_in_processes(train_and_save, (folder,), processes)
        results.append(torch.load(folder / "result.pt", weights_only=True))
    one, two = results
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / "2" / f"loss-{rank}.pt", weights_only=True), one["loss"])
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-3)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=1e-3, atol=1e-5, msg=name)


def gather_unequal():
    distributed.init_process_group("gloo")
    from mambaxray.modeling_mambaxray.layers.contrastive import gather_batch

    gather_batch(torch.zeros(1 + int(os.environ["RANK"]), 2))


@pytest.mark.slow
def test_batches_of_different_sizes_are_refused_and_named():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=r"\[\(1, 2\), \(2, 2\)\]"):
        run_in_processes(gather_unequal, (), 2)
