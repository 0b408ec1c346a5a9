"""Pictures, DICOM files and tokenizers made on the spot."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PATIENT = "Secretname^Jane"
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


def raw_element(keyword: str, kind: str, value: bytes) -> RawDataElement:
    """An element that pydicom writes as it is, little-endian."""
    return RawDataElement(Tag(keyword), kind, len(value), value, 0, False, True)


@pytest.fixture
def write_dicom(tmp_path: Path) -> Callable[..., Path]:
    """Write a DICOM of stored values (H, W) or (H, W, 3) that names a patient; more elements by keyword.

    `raw` are elements as a value representation and bytes that need not be valid; `absent` are left out.
    """

    def write(
        pixels: np.ndarray,
        *,
        bits: int | None = None,
        photometric: str = "MONOCHROME2",
        encapsulated: bytes | None = None,
        syntax: UID = ExplicitVRLittleEndian,
        file_name: str = "xray.dcm",
        preamble: bool = True,
        raw: Mapping[str, tuple[str, bytes]] | None = None,
        absent: Iterable[str] = (),
        **elements: Any,
    ) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.PatientName = dataset.PatientID = PATIENT
        dataset.ViewPosition = "PA"
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated = pixels.dtype.itemsize * 8
        dataset.BitsStored = bits or dataset.BitsAllocated
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = encapsulated or pixels.tobytes()
        dataset["PixelData"].VR = "OB" if encapsulated or dataset.BitsAllocated == 8 else "OW"
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        for keyword, (kind, value) in (raw or {}).items():
            dataset._dict[Tag(keyword)] = raw_element(keyword, kind, value)
        for keyword in absent:
            del dataset[keyword]
        if raw:  # else pydicom would try to convert it
            dataset.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, dataset._character_set)
        path = tmp_path / file_name
        if preamble:
            dataset.save_as(path, enforce_file_format=True)
        else:
            del dataset.file_meta
            dataset.save_as(path, implicit_vr=False, little_endian=True)
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
