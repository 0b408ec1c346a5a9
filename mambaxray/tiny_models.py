"""Tiny models with random weights, one of each system, for tests and for other people's CI.

They load and run like real ones and write nonsense.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    PROCESSOR_MAPPING,
    AutoModel,
    BertConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    SwinConfig,
)

from .configuration.configuration_mambaxray import MambaXrayConfig
from .configuration.configuration_vision_mamba import VisionMambaConfig
from .configuration.configuration_vmamba import VMambaConfig
from .data.phantoms import make_study
from .data.whole_file import require_free_folder
from .modeling_mambaxray.hub.repository_code import has_code
from .processing.image_processing_mambaxray import MambaXrayImageProcessor
from .processing.processing_mambaxray import MambaXrayProcessor
from .train.tokenizer import train_report_tokenizer

IMAGE_SIZE = 32
_VOCABULARY = 320
_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION_SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "image_size": IMAGE_SIZE, "state_size": 4}
# Of stage 1: two clusters a side.
_PRETRAINING_SIZES = _VISION_SIZES | {"patch_size": 8, "cluster_size": 2, "decoder_hidden_size": 16}
_VMAMBA_SIZES: dict[str, Any] = {"image_size": IMAGE_SIZE, "embed_dim": 8, "depths": [1, 1]}
_SWIN_SIZES = {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
_NAME_OF_SWIN, _NAME_OF_VMAMBA = "r2gengpt", "r2gencsr"


def make_tiny_models(folder: str | Path, seed: int = 0) -> list[Path]:
    """Writes a tiny model of every system, with its processor, into a folder of its own.

    Args:
        folder: where the models' folders go, named like the systems' `model_type`; `r2gengpt` is the report generator
            with a Swin encoder, `r2gencsr` that with a VMamba.
        seed: random seed of the weights.

    Raises:
        FileExistsError: a folder of such a name holds something already.

    Returns:
        The models' folders. Each holds less than 300 kB, most of it code.
    """
    tokenizer = train_report_tokenizer([make_study(number)["report"] for number in range(20)], _VOCABULARY)
    made = []
    for name, config in _configs(tokenizer):
        path = Path(folder) / name
        require_free_folder(path)
        # The processor of a report generator adds its placeholder to the tokenizer.
        _save_processor(config, copy.deepcopy(tokenizer), path)
        torch.manual_seed(seed)
        model = AutoModel.from_config(config).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                # So large that the image decides what is written.
                if parameter.ndim > 1 and "A_log" not in parameter_name:
                    parameter.mul_(4.0)
        model.save_pretrained(path)
        made.append(path)
    return made


def _configs(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, PreTrainedConfig]]:
    """A configuration of each family that this package registers."""
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    tokens["vocab_size"] = len(tokenizer)
    swin = SwinConfig(image_size=IMAGE_SIZE, **_SWIN_SIZES)
    for name, config_class in CONFIG_MAPPING._extra_content.items():
        if not has_code(config_class):
            continue
        if issubclass(config_class, MambaXrayConfig):
            decoder = LlamaConfig(**_SIZES, **tokens)
            # The placeholder comes behind the vocabulary.
            yield name, config_class(VisionMambaConfig(**_VISION_SIZES), decoder, image_token_id=len(tokenizer))
            if config_class is MambaXrayConfig:
                yield _NAME_OF_SWIN, config_class(swin, decoder, image_token_id=len(tokenizer))
                vmamba = VMambaConfig(**_VMAMBA_SIZES)
                yield _NAME_OF_VMAMBA, config_class(vmamba, decoder, image_token_id=len(tokenizer))
        elif issubclass(config_class, VisionMambaConfig):
            yield name, config_class(**_VISION_SIZES if config_class is VisionMambaConfig else _PRETRAINING_SIZES)
        elif config_class is VMambaConfig:
            yield name, config_class(**_VMAMBA_SIZES)
        else:
            yield name, config_class(VisionMambaConfig(**_VISION_SIZES), BertConfig(**_SIZES, **tokens), 16)


def _save_processor(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    image_processor = MambaXrayImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    processor_class = PROCESSOR_MAPPING.get(type(config), None)
    if processor_class is None:
        image_processor.save_pretrained(path)
    elif issubclass(processor_class, MambaXrayProcessor):
        processor_class(image_processor, tokenizer, num_image_tokens=config.num_image_tokens).save_pretrained(path)
    else:
        processor_class(image_processor, tokenizer).save_pretrained(path)


__all__ = ["IMAGE_SIZE", "make_tiny_models"]
