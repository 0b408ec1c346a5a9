"""Tiny models with random weights, one of each system, for tests and for other people's CI.

They load and run like real ones and write nonsense.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedTokenizerBase

from .configuration.families import Family, families, load
from .data.phantoms import make_study
from .data.whole_file import require_free_folder
from .modeling_mambaxray.hub.repository_code import has_code
from .modeling_mambaxray.hub.separate_parts import SeparatePartsMixin
from .modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory, TrainingSplit
from .processing.processing_mambaxray import MambaXrayProcessor
from .train.tokenizer import train_report_tokenizer

IMAGE_SIZE = 32
_VOCABULARY = 320
_LLAMA = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION_MAMBA = {"hidden_size": 16, "num_hidden_layers": 1, "image_size": IMAGE_SIZE, "state_size": 4}
_SWIN = {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
_VMAMBA = {"image_size": IMAGE_SIZE, "embed_dim": 8, "depths": [1, 1]}
_PARTS = {
    "vision_config": {"model_type": "vision_mamba", **_VISION_MAMBA},
    "text_config": {"model_type": "llama", **_LLAMA},
}
# Systems that are the plain report generator with another vision encoder.
_VARIANTS = {
    "r2gengpt": {"vision_config": {"model_type": "swin", "image_size": IMAGE_SIZE, **_SWIN}},
    "r2gencsr": {"vision_config": {"model_type": "vmamba", **_VMAMBA}},
}


def make_tiny_models(folder: str | Path, seed: int = 0, names: Iterable[str] | None = None) -> list[Path]:
    """Writes a tiny model of every system, with its processor, into a folder of its own.

    Args:
        folder: where the models' folders go, named like the systems' `model_type`; `r2gengpt` is the report generator
            with a Swin encoder, `r2gencsr` that with a VMamba.
        seed: random seed of the weights.
        names: which of the systems, those of `register_family` among them; by default all of this package.

    Returns:
        The models' folders. Each holds less than 200 kB beside the code. A system that looks up memories has some of
        phantoms, with random vectors.

    Raises:
        FileExistsError: a folder of such a name holds something already.
        ValueError: there is no system of a name.
    """
    tokenizer = train_report_tokenizer([make_study(number)["report"] for number in range(20)], _VOCABULARY)
    made = []
    for name, family, fields in _chosen_systems(names):
        config = tiny_config(family, tokenizer, fields)
        path = Path(folder) / name
        require_free_folder(path)
        # The processor of a report generator adds its placeholder to the tokenizer.
        _save_processor(family, config, copy.deepcopy(tokenizer), path)
        torch.manual_seed(seed)
        model = AutoModel.from_config(config).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                # So large that the image decides what is written.
                if parameter.ndim > 1 and "A_log" not in parameter_name:
                    parameter.mul_(4.0)
        if widths := getattr(model, "memory_vectors", None):
            model.set_memories({name: _tiny_memory(vectors) for name, vectors in widths.items()})
        # Whole, so that it can also be trained.
        parts = {"save_training_parts": True} if isinstance(model, SeparatePartsMixin) else {}
        model.save_pretrained(path, **parts)
        made.append(path)
    return made


def tiny_config(
    family: Family, tokenizer: PreTrainedTokenizerBase, fields: dict[str, Any] | None = None
) -> PreTrainedConfig:
    """The configuration of a tiny model of any family, for images of `IMAGE_SIZE`.

    Args:
        family: its row, whose `tiny` says what a vision Mamba and a Llama do not.
        tokenizer: gives the vocabulary; the placeholder of a report generator comes behind it.
        fields: further fields of the configuration.
    """
    config_class = family.config_class
    given: dict[str, Any] = {name: part for name, part in _PARTS.items() if name in config_class.sub_configs}
    given |= copy.deepcopy(dict(family.tiny)) | (fields or {})
    if "text_config" in given:
        tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        given["text_config"] = given["text_config"] | tokens | {"vocab_size": len(tokenizer)}
    if _makes_prompts(family):
        given["image_token_id"] = len(tokenizer)
    return config_class(**given)


def _chosen_systems(names: Iterable[str] | None) -> Iterator[tuple[str, Family, dict[str, Any]]]:
    """Name, family and the configuration's own fields of each system."""
    known = families()
    systems: dict[str, tuple[Family, dict[str, Any]]] = {name: (family, {}) for name, family in known.items()}
    systems |= {name: (known["mambaxray"], fields) for name, fields in _VARIANTS.items()}
    ours = [name for name, (family, _) in systems.items() if has_code(family.config_class)]
    for name in ours if names is None else names:
        if name not in systems:
            raise ValueError(f"there is no system {name!r}; the systems are {', '.join(sorted(systems))}")
        yield name, *systems[name]


def _tiny_memory(widths: Mapping[str, int], rows: int = 6) -> StudyMemory:
    """Random vectors, as if they were of phantoms."""
    studies = [make_study(number) for number in range(rows)]
    return StudyMemory(
        {name: torch.randn(rows, width) for name, width in widths.items()},
        [study["study_id"] for study in studies],
        [study["patient_id"] for study in studies],
        MemorySource("phantoms", "none: random vectors"),
        TrainingSplit.of(studies),
        reports=[study["report"] for study in studies],
    )


def _makes_prompts(family: Family) -> bool:
    return family.processor_class is not None and issubclass(family.processor_class, MambaXrayProcessor)


def _save_processor(family: Family, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    image_processor = load(family.image_processor)(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    if family.processor_class is None:
        image_processor.save_pretrained(path)
    elif _makes_prompts(family):
        num_image_tokens = config.num_image_tokens
        family.processor_class(image_processor, tokenizer, num_image_tokens=num_image_tokens).save_pretrained(path)
    else:
        family.processor_class(image_processor, tokenizer).save_pretrained(path)


__all__ = ["IMAGE_SIZE", "make_tiny_models", "tiny_config"]
