"""What the training tests share: a processor for small phantoms, a model that fits it, and arguments of a short run."""

from pathlib import Path
from typing import Any

import torch
from tiny import tiny_config
from transformers import TrainingArguments

from mambaxray import MambaXrayForConditionalGeneration, MambaXrayImageProcessor, MambaXrayProcessor
from mambaxray.train.tokenizer import train_report_tokenizer


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
