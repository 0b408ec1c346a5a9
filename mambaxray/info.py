"""What a model is made of, and what this installation runs on, without loading any weights."""

import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from .configuration.configuration_mambaxray import MambaXrayConfig

Sections = dict[str, dict[str, str]]
"""Titles, and below each the names and values of its rows."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class ModelLoadError(ValueError):
    """A model that can't be used. The message names it and the reason on one line."""


def read_config(model: str) -> "MambaXrayConfig":
    """Configuration of a report generator in a folder or on the Hub.

    Raises:
        ModelLoadError: there is no such model, or it is not one of ours.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelLoadError(f"{model}: this folder holds no model (it has no config.json)")
    elif folder.exists():
        raise ModelLoadError(f"{model}: is a file; give the folder that holds the model")
    elif not _HUB_ID.fullmatch(model):
        raise ModelLoadError(f"{model}: no such folder")

    from transformers import AutoConfig

    from .configuration.configuration_mambaxray import MambaXrayConfig

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, TypeError, ValueError) as error:
        if folder.is_dir():
            raise ModelLoadError(f"{model}: its config.json can't be used ({first_line(error)})") from error
        raise ModelLoadError(
            f"{model}: no such folder, and no such model could be had from the Hugging Face Hub "
            "(is the name right, are you online, is the model public or are you logged in?)"
        ) from error
    if not isinstance(config, MambaXrayConfig):
        raise ModelLoadError(f"{model}: a model of type {config.model_type!r}, not a report generator of mambaxray")
    return config


def describe_model(model: str) -> Sections:
    """What `mambaxray info MODEL` shows.

    Raises:
        ModelLoadError: there is no such model, or it is not one of ours.
    """
    config = read_config(model)
    encoder, decoder = config.vision_config, config.text_config
    return {
        "Model": {
            "name": model,
            "family": config.model_type,
            "image tokens per study": str(config.num_image_tokens),
            "saved as": str(config.dtype or "unknown").removeprefix("torch."),
        },
        "Vision encoder": {
            "type": encoder.model_type,
            "image size": _image_size(encoder),
            "layers": _value(encoder, "num_hidden_layers", "depths"),
            "width": _value(encoder, "hidden_size"),
        },
        "Language model": {
            "type": decoder.model_type,
            "layers": _value(decoder, "num_hidden_layers"),
            "width": _value(decoder, "hidden_size"),
            "vocabulary": f"{decoder.vocab_size:,}",
        },
        "Parameters": _count_parameters(config),
        "Processor": _describe_processor(model, config),
        "Files": _file_sizes(model),
    }


def describe_environment() -> Sections:
    """What `mambaxray info` shows: versions, device and scan backends."""
    import torch

    from .modeling_mambaxray.ops.selective_scan import scan_backend, scan_problems

    has_cuda = torch.cuda.is_available()
    return {
        "Versions": {
            "mambaxray": __version__,
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "tokenizers", "pydicom")},
        },
        "Device": {
            "default": f"cuda ({torch.cuda.get_device_name()})" if has_cuda else "cpu",
            "CPU threads": str(torch.get_num_threads()),
        },
        "Selective scan": {
            "in use": scan_backend("cuda" if has_cuda else "cpu"),
            **{name: f"off: {problem}" if problem else "available" for name, problem in scan_problems().items()},
        },
    }


def _value(config: "PreTrainedConfig", *names: str) -> str:
    return next((str(getattr(config, name)) for name in names if hasattr(config, name)), "unknown")


def _image_size(config: "PreTrainedConfig") -> str:
    size = getattr(config, "image_size", None)
    if size is None:
        return "unknown"
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return f"{height} x {width} px"


def _count_parameters(config: "MambaXrayConfig") -> dict[str, str]:
    """Counts on torch's meta device, where weights have shapes but no memory."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    total = model.num_parameters()
    sizes = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()}
    counts = {
        "vision encoder": sizes.pop("vision_encoder"),
        "projection": sizes.pop("projector") + sizes.pop("layer_norm"),
        "language model": sizes.pop("language_model"),
        **{name.replace("_", " "): size for name, size in sizes.items()},
        "total": total,
    }
    return {part: f"{count:,}" for part, count in counts.items()}


def _describe_processor(model: str, config: "MambaXrayConfig") -> dict[str, str]:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(model)
    except (OSError, TypeError, ValueError) as error:
        return {"missing": f"reports can't be generated without it ({first_line(error)})"}
    size = processor.image_processor.size
    rows = {
        "pictures resized to": f"{size['height']} x {size['width']} px",
        "tokenizer": f"{type(processor.tokenizer).__name__}, {len(processor.tokenizer):,} tokens",
        "prompt": processor.default_prompt,
    }
    if processor.num_image_tokens != config.num_image_tokens:
        rows["mismatch"] = (
            f"it makes {processor.num_image_tokens} image tokens, the model needs {config.num_image_tokens}"
        )
    return rows


def _file_sizes(model: str) -> dict[str, str]:
    # The Hub's client tells connection errors by the HTTP library it is built on, which has changed its name before.
    from huggingface_hub.errors import HTTPError

    folder = Path(model)
    try:
        sizes = _sizes_in_folder(folder) if folder.is_dir() else _sizes_on_hub(model)
    except (OSError, HTTPError):
        return {"unknown": "the Hugging Face Hub can't be reached"}
    rows = {name: _readable_size(size) for name, size in sizes.items()}
    return {**rows, "total": _readable_size(sum(sizes.values()))}


def _sizes_in_folder(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def _sizes_on_hub(model: str) -> dict[str, int]:
    from huggingface_hub import HfApi

    files: list[Any] = HfApi().model_info(model, files_metadata=True).siblings or []
    return {file.rfilename: file.size or 0 for file in files}


def _readable_size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def first_line(error: Exception) -> str:
    """The message without what follows its first line, or the error's kind when it has no message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
