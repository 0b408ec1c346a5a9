"""What a model is made of, and what this installation runs on, without loading any weights."""

import json
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


def read_generator_config(model: str) -> "MambaXrayConfig":
    """Configuration of a report generator in a folder or on the Hub.

    Raises:
        ModelLoadError: there is no such model, or it is not one of our report generators.
    """
    from .configuration.configuration_mambaxray import MambaXrayConfig

    config = read_config(model)
    if not isinstance(config, MambaXrayConfig):
        raise ModelLoadError(f"{model}: a model of type {config.model_type!r}, not a report generator of mambaxray")
    return config


def read_config(model: str) -> "PreTrainedConfig":
    """Configuration of a model of any of our families, in a folder or on the Hub.

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

    from transformers import CONFIG_MAPPING, AutoConfig

    from .configuration.families import families

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, TypeError, ValueError) as error:
        if folder.is_dir():
            model_type = _model_type(folder)
            if model_type is not None and model_type not in CONFIG_MAPPING:
                raise ModelLoadError(
                    f"{model}: a model of type {model_type!r}, which neither mambaxray nor transformers knows; "
                    "--plugin MODULE imports the module that registers it"
                ) from error
            raise ModelLoadError(f"{model}: its config.json can't be used ({first_line(error)})") from error
        raise ModelLoadError(
            f"{model}: no such folder, and no such model on the Hugging Face Hub "
            "(is the name right, are you online, is the model public or are you logged in?)"
        ) from error
    if config.model_type not in families():
        raise ModelLoadError(
            f"{model}: a model of type {config.model_type!r}, which is none of mambaxray's (--plugin MODULE imports a "
            "system of your own)"
        )
    return config


def describe_model(model: str) -> Sections:
    """What `mambaxray info MODEL` shows.

    Raises:
        ModelLoadError: there is no such model, or it is not one of ours.
    """
    from .configuration.configuration_mambaxray import MambaXrayConfig

    config = read_config(model)
    is_generator = isinstance(config, MambaXrayConfig)
    encoder, text = getattr(config, "vision_config", config), getattr(config, "text_config", None)
    sections = {
        "Model": {"name": model, "family": config.model_type},
        "Vision encoder": {
            "type": encoder.model_type,
            "image size": _image_size(encoder),
            "layers": _value(encoder, "num_hidden_layers", "depths"),
            "width": _value(encoder, "hidden_size"),
        },
    }
    if is_generator:
        sections["Model"]["image tokens per study"] = str(config.num_image_tokens)
    sections["Model"]["saved as"] = str(config.dtype or "unknown").removeprefix("torch.")
    if text is not None:
        sections["Language model" if is_generator else "Text encoder"] = {
            "type": text.model_type,
            "layers": _value(text, "num_hidden_layers"),
            "width": _value(text, "hidden_size"),
            "vocabulary": f"{text.vocab_size:,}",
        }
    processor = _describe_processor(model, config) if is_generator else _describe_inputs(model, text is not None)
    return {
        **sections,
        "Parameters": _count_parameters(config),
        "Processor": processor,
        "Files": _file_sizes(model),
    }


def describe_environment() -> Sections:
    """What `mambaxray info` shows: versions, device and scan backends."""
    import torch

    from .modeling_mambaxray.ops.scan_choice import choose_backend, scan_problems

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
            "in use": choose_backend("cuda" if has_cuda else "cpu"),
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


def _count_parameters(config: "PreTrainedConfig") -> dict[str, str]:
    """Counts on torch's meta device, where weights have shapes but no memory."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    counts = {"total": model.num_parameters()}
    sizes = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()}
    if "vision_encoder" in sizes:
        projection = getattr(model, "projection_parts", ())
        parts = {name.replace("_", " "): n for name, n in sizes.items() if name not in projection}
        # The few weights that belong to no module, such as a scale, count as projection.
        if rest := counts["total"] - sum(parts.values()):
            parts["projection" if projection else "others"] = rest
        counts = parts | counts
    return {part: f"{count:,}" for part, count in counts.items()}


def _describe_inputs(model: str, has_text: bool) -> dict[str, str]:
    """What prepares the inputs of a model that writes no reports."""
    from transformers import AutoImageProcessor, AutoTokenizer

    try:
        rows = {"images resized to": _image_steps(AutoImageProcessor.from_pretrained(model))}
        if has_text:
            tokenizer = AutoTokenizer.from_pretrained(model)
            rows["tokenizer"] = f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens"
    except (OSError, TypeError, ValueError) as error:
        return {"missing": first_line(error)}
    return rows


def _describe_processor(model: str, config: "MambaXrayConfig") -> dict[str, str]:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(model)
    except (OSError, TypeError, ValueError) as error:
        return {"missing": f"reports can't be generated without it ({first_line(error)})"}
    rows = {
        "images resized to": _image_steps(processor.image_processor),
        "tokenizer": f"{type(processor.tokenizer).__name__}, {len(processor.tokenizer):,} tokens",
        "prompt": processor.default_prompt,
    }
    if processor.num_image_tokens != config.num_image_tokens:
        rows["mismatch"] = (
            f"it makes {processor.num_image_tokens} image tokens, the model needs {config.num_image_tokens}"
        )
    return rows


def _image_steps(image_processor: Any) -> str:
    size, crop = image_processor.size, image_processor.crop_size
    resized = f"{size.shortest_edge} px (shorter edge)" if size.shortest_edge else f"{size.height} x {size.width} px"
    cut = f", of which {crop.height} x {crop.width} px are cut out" if image_processor.do_center_crop else ""
    return resized + cut


def _file_sizes(model: str) -> dict[str, str]:
    # The Hub's client raises the errors of its HTTP library, which has changed before.
    from huggingface_hub.errors import HTTPError

    folder = Path(model)
    try:
        sizes = _sizes_in_folder(folder) if folder.is_dir() else _sizes_on_hub(model)
    except (OSError, HTTPError):
        return {"unknown": "the Hugging Face Hub can't be reached"}
    rows = {name: _readable_size(size) for name, size in sizes.items()}
    return {**rows, "total": _readable_size(sum(sizes.values()))}


def _sizes_in_folder(folder: Path) -> dict[str, int]:
    from .modeling_mambaxray.hub.repository_code import PATIENT_TEXT_FOLDER

    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    private = folder / PATIENT_TEXT_FOLDER
    if private.is_dir():
        sizes[f"{private.name} (not pushed)"] = sum(
            path.stat().st_size for path in private.rglob("*") if path.is_file()
        )
    return sizes


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


def _model_type(folder: Path) -> str | None:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values.get("model_type") if isinstance(values, dict) else None


def first_line(error: Exception) -> str:
    """The message without what follows its first line, or the error's kind when it has no message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
