"""What a report was made with, by content: so that reports of two models never end in one file.

Every file of reports that can be resumed notes it with each report, as `model=… processor=… settings=… images=…`, a
digest each. Reading and comparing it loads neither torch nor transformers.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

_DIGITS = 16
_MODEL_FILES = (
    *("config.json", "adapter_config.json", "generation_config.json", "*.safetensors", "*.index.json"),
    *("*.bin", "_patient_text/**/*"),
)
_PROCESSOR_FILES = (
    *("processor_config.json", "preprocessor_config.json", "*.jinja", "additional_chat_templates/*"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model"),
)
# What says where a model was, or who saved it, and not what it is.
_NOT_CONTENT = ("_name_or_path", "name_or_path", "transformers_version", "_commit_hash")


@dataclass(frozen=True)
class MadeWith:
    """Digests of all that decides what a report says; "" for what is not known.

    Attributes:
        model: weights, configuration and generation settings of the model.
        processor: its processor.
        settings: prompt and arguments of this run.
        images: the study's images.
    """

    model: str = ""
    processor: str = ""
    settings: str = ""
    images: str = ""

    @classmethod
    def of_saved(cls, model: str, settings: Mapping[str, Any]) -> Self:
        """For the model in a folder, or of that name on the Hub as far as it is in the cache of this machine."""
        folder = saved_folder(model)
        if folder is None:
            return cls(settings=_digest_of_data(settings))
        return cls(_digest_of_model(folder), _digest_of_files(folder, _PROCESSOR_FILES), _digest_of_data(settings))

    @classmethod
    def of_loaded(cls, model: "PreTrainedModel", processor: "ProcessorMixin", settings: Mapping[str, Any]) -> Self:
        """For a model in memory. Its weights are read once, see `tensor_digests` for how long that takes; those of one
        that is spread over processes are not known here."""
        from ..modeling_mambaxray.generation.continuous_generation import is_sharded
        from ..modeling_mambaxray.hub.tensor_digests import fingerprint, tensor_digests

        configurations = [model.config.to_dict(), model.generation_config.to_dict()]
        tokenizer = getattr(processor, "tokenizer", None)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend is not None else tokenizer and tokenizer.get_vocab()
        weights = ""
        if not is_sharded(model):
            digests = tensor_digests(model.state_dict())
            weights = fingerprint(digests, digests)
        return cls(
            _digest_of_data([weights, *configurations, *_digests_of_memories(model)]),
            _digest_of_data([processor.to_dict(), vocabulary]),
            _digest_of_data(settings),
        )

    @classmethod
    def read(cls, text: str) -> Self:
        """What `str()` wrote; parts that this version does not know are left out."""
        names = {field.name for field in fields(cls)}
        parts = (part.partition("=") for part in text.split())
        return cls(**{name: value for name, _, value in parts if name in names})

    def __str__(self) -> str:
        parts = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"{name}={value}" for name, value in parts if value)

    def with_images(self, images: Iterable[Any]) -> Self:
        """The same for a study: by path, size and time of change of each file, by content for images in memory."""
        return replace(self, images=_digest_of_data([_file_facts(image) for image in images]))

    def differences(self, other: "MadeWith") -> list[str]:
        """Names of what is known of both and differs."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [name for name, own, others in pairs if own and others and own != others]


def saved_folder(model: str) -> Path | None:
    """The folder with a model's files: itself, or that of its newest revision in the Hub's cache; None for neither."""
    if os.path.isdir(model):
        return Path(model)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(file).parent if isinstance(file, str) else None


def digest_of_folder(folder: Path) -> str:
    """Digest of the model in a folder; where there is none, of all that lies in it and below."""
    if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return _digest_of_model(folder)
    return _digest_of_files(folder, ["**/*"])


def _digests_of_memories(model: "PreTrainedModel") -> list[str]:
    """Of what a model looks up; empty where it has no memories by name."""
    from ..modeling_mambaxray.hub.tensor_digests import fingerprint, tensor_digests

    memories = getattr(model, "study_memory", None)
    digests = []
    for name, memory in sorted(memories.items()) if isinstance(memories, Mapping) else ():
        vectors = tensor_digests(memory.vectors)
        digests.append(
            _digest_of_data([name, fingerprint(vectors, vectors), memory.study_ids, memory.patient_ids, memory.reports])
        )
    return digests


def _digest_of_model(folder: Path) -> str:
    own = _digest_of_files(folder, _MODEL_FILES)
    try:
        adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return own
    base = adapter.get("base_model_name_or_path")
    below = saved_folder(base) if isinstance(base, str) and base else None
    return own if below is None or below == folder else _digest_of_data([own, _digest_of_model(below)])


def _digest_of_files(folder: Path, patterns: Iterable[str]) -> str:
    """Of names and contents; settings count by what they say."""
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return _digest_of_data([[path.relative_to(folder).as_posix(), _digest_of_file(path)] for path in found])


def _digest_of_file(path: Path) -> str:
    status = path.stat()
    return _digest_of_content(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _digest_of_content(path: Path, size: int, changed: int) -> str:
    """Of a file as it is; read anew when its size or time of change are others."""
    if path.name.endswith("config.json"):
        try:
            return _digest_of_data(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            pass  # loading the model reports what is wrong
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_data(values: Any) -> str:
    text = json.dumps(_content(values), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _content(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _content(value) for key, value in values.items() if key not in _NOT_CONTENT}
    if isinstance(values, list | tuple):
        return [_content(value) for value in values]
    return values


def _file_facts(image: Any) -> Any:
    if isinstance(image, Mapping):  # as a data set of `datasets` keeps it: its file's bytes, or its path
        content, image = image.get("bytes"), image.get("path")
        if content is not None:
            return hashlib.sha256(content).hexdigest()
    if hasattr(image, "tobytes"):  # of Pillow, or an array
        return hashlib.sha256(image.tobytes()).hexdigest()
    try:
        status = os.stat(image)
    except (OSError, TypeError, ValueError):
        return [str(image) if isinstance(image, str | os.PathLike) else ""]  # an address
    return [os.path.abspath(image), status.st_size, status.st_mtime_ns]


__all__ = ["MadeWith", "digest_of_folder", "saved_folder"]
