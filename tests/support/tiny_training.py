"""What the training tests share: a processor for small phantoms, a model that fits it, and arguments of a short run."""

from pathlib import Path
from typing import Any

import torch
from tiny import tiny_config
from transformers import TrainingArguments

from mambaxray import MambaXrayForConditionalGeneration, MambaXrayImageProcessor, MambaXrayProcessor
from mambaxray.train.tokenizer import train_report_tokenizer

TINY = [
    "data.options={num_studies: 30, image_size: 32}",
    "model.vision_encoder.image_size=32",
    "model.vision_encoder.hidden_size=24",
    "model.language_model.hidden_size=32",
    "model.language_model.intermediate_size=48",
    "model.language_model.num_hidden_layers=1",
    "model.language_model.num_attention_heads=2",
    "model.vocab_size=320",
    "model.max_report_length=20",
    "generation.max_new_tokens=5",
    "training.per_device_train_batch_size=4",
    "training.max_steps=4",
    "training.eval_steps=2",
    "training.save_steps=2",
    "training.logging_steps=1",
]
"""Overrides that make a run of `finetune_phantoms` take seconds."""


def phantom_processor(reports: list[str]) -> MambaXrayProcessor:
    """For images of 32 px and a tokenizer trained on the reports."""
    tokenizer = train_report_tokenizer(reports, vocab_size=320)
    return MambaXrayProcessor(MambaXrayImageProcessor(size={"height": 32, "width": 32}), tokenizer, num_image_tokens=5)


def tiny_generator(processor: MambaXrayProcessor, seed: int = 0) -> MambaXrayForConditionalGeneration:
    config = tiny_config()
    config.text_config.vocab_size, config.image_token_id = len(processor.tokenizer), processor.image_token_id
    torch.manual_seed(seed)
    return MambaXrayForConditionalGeneration(config)


def short_run(folder: Path, **more: Any) -> TrainingArguments:
    defaults = {"per_device_train_batch_size": 6, "report_to": [], "use_cpu": True, "save_strategy": "no"}
    return TrainingArguments(str(folder), remove_unused_columns=False, seed=0, **defaults | more)
