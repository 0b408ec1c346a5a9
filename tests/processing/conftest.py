"""Pictures, DICOM files and tokenizers made on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import make_dicom
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SIZE = (96, 80)  # height, width: not square, so that swapped axes are seen


@pytest.fixture(scope="session")
def grey() -> np.ndarray:
    """An 8-bit picture (96, 80) with all grey values, smooth enough for lossy compression."""
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    wave = 0.5 + 0.25 * np.sin(rows / 9) + 0.25 * np.cos(columns / 7 + rows / 20)
    wave = (wave - wave.min()) / (wave.max() - wave.min())
    return np.rint(wave * 255).astype(np.uint8)


@pytest.fixture(scope="session")
def png(grey: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The picture as the 8-bit PNG that every other form is compared with."""
    path = tmp_path_factory.mktemp("pictures") / "twin.png"
    Image.fromarray(grey).save(path)
    return path


@pytest.fixture
def write_dicom(tmp_path: Path) -> Callable[..., Path]:
    """Write what `make_dicom` makes of its arguments."""

    def write(pixels: np.ndarray, *, file_name: str = "xray.dcm", **options: Any) -> Path:
        path = tmp_path / file_name
        path.write_bytes(make_dicom(pixels, **options))
        return path

    return write


def _byte_level_bpe(special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["The heart is normal. No effusion. Human: Assistant:"], trainer)
    return tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer with bos, eos and pad, as Llama-like models have after a pad token was chosen."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(["<s>", "</s>", "<pad>"]), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture
def tokenizer_with_eos_only() -> PreTrainedTokenizerFast:
    """Neither bos nor pad, as GPT-2-like models ship."""
    return PreTrainedTokenizerFast(tokenizer_object=_byte_level_bpe(["<|endoftext|>"]), eos_token="<|endoftext|>")


@pytest.fixture
def bare_tokenizer() -> PreTrainedTokenizerFast:
    """No special tokens at all."""
    return PreTrainedTokenizerFast(tokenizer_object=_byte_level_bpe([]))
