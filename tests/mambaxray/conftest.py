"""A tiny model with its processor in a folder, and a few pictures, as a user would have them on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from mambaxray import (
    MambaXrayConfig,
    MambaXrayForConditionalGeneration,
    MambaXrayImageProcessor,
    MambaXrayProcessor,
    VisionMambaConfig,
    make_tiny_models,
)
from mambaxray.processing.study_prompts import DEFAULT_INSTRUCTION, DEFAULT_PROMPT_TEMPLATE

_TEXTS = [
    "The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax.",
    "Mild cardiomegaly with small left pleural effusion. No focal consolidation.",
    DEFAULT_PROMPT_TEMPLATE.replace("{instruction}", DEFAULT_INSTRUCTION),
]


def _make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="session")
def processor() -> MambaXrayProcessor:
    # 32 px in patches of 16: 4 tokens, and cls.
    image_processor = MambaXrayImageProcessor(size={"height": 32, "width": 32})
    return MambaXrayProcessor(image_processor, _make_tokenizer(), num_image_tokens=5)


@pytest.fixture(scope="session")
def model(processor: MambaXrayProcessor) -> MambaXrayForConditionalGeneration:
    """Random weights, large enough that different pictures get different reports."""
    torch.manual_seed(0)
    tokenizer = processor.tokenizer
    config = MambaXrayConfig(
        vision_config=VisionMambaConfig(hidden_size=32, num_hidden_layers=1, image_size=32, patch_size=16),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            initializer_range=0.5,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=processor.image_token_id,
    )
    return MambaXrayForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def model_folder(
    model: MambaXrayForConditionalGeneration, processor: MambaXrayProcessor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny report generator with its processor, to read and to copy, not to write into."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_models(folder)
    return folder / "mambaxray"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four readable pictures of different content and size."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    paths = [folder / name for name in ("a1.png", "a2.jpg", "b.tif", "a10.png")]
    for index, path in enumerate(paths):
        noise = generator.integers(0, 256, size=(5, 4 + index), dtype=np.uint8)
        Image.fromarray(noise).resize((60 + 10 * index, 70), Image.Resampling.BICUBIC).save(path)
    return paths
