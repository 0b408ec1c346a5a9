"""The code that every saved model and processor carries, so that it loads where this package is not installed.

A class goes into one file, named like its module, with all that it needs (`bundle.py`). `config.json` and the
processors' files say which class is in which file (`auto_map`, `custom_pipelines`). Where this package is installed,
its own classes are used and none of this is looked at.

Models, processors and image processors get a file each, for they are also saved and pushed one by one.
"""

import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import IMAGE_PROCESSOR_MAPPING

from .auto_classes import registered_models

try:
    from .bundle import class_code
except ImportError:

    def class_code(cls: type, parts: frozenset[type] = frozenset()) -> str:
        """The text of the file that holds a class: this one, which is handed on as it is."""
        return Path(sys.modules[cls.__module__].__file__).read_text(encoding="utf-8")


PATIENT_TEXT_FOLDER = "_patient_text"
"""Sub-folder of a model for what may hold text of patients' reports. It is not pushed: the Trainer's own push leaves
out what begins with an underscore, too."""
LOCAL_PARTS_FILE = Path(".cache", "huggingface", "local_parts.json")
"""In a model's folder: from which folders of this machine its left-out parts came. The Hub's client uploads nothing
that is in a folder `.cache/huggingface`, whoever calls it: `hf upload`, or the Trainer for a model or a checkpoint."""


_CHECKPOINT = re.compile(r"checkpoint-\d+")


def is_checkpoint(folder: str | os.PathLike) -> bool:
    """Whether a folder is named like a Trainer's checkpoint (`checkpoint-10`)."""
    return _CHECKPOINT.fullmatch(Path(folder).name) is not None


def code_reference(cls: type) -> str:
    """`file.Class`, the form in which `auto_map` names a class."""
    return f"{_file_stem(cls)}.{cls.__name__}"


def has_code(cls: type) -> bool:
    """Whether a class is one whose code is saved: of this package, or of a repository; not a user's own subclass."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def write_code(cls: type, folder: str | os.PathLike, parts: Iterable[type] = ()) -> None:
    """Writes the file that holds a class into a folder.

    Args:
        cls: the class.
        folder: where the file goes.
        parts: further models that the file holds, for what is made of them.

    Raises:
        BundleError: a module of the package can't go into one file.
    """
    file = Path(folder) / f"{_file_stem(cls)}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(class_code(cls, frozenset(parts)), encoding="utf-8")


class _CodeMixin:
    """What models and processors share."""

    def _classes_of_files(self) -> list[type]:
        """The classes whose files are written beside what is saved; none for a subclass from elsewhere."""
        return [type(self)] if has_code(type(self)) else []

    def _upload_modified_files(
        self, working_dir: str | os.PathLike, repo_id: str, files_timestamps: Mapping[str, float], **kwargs: Any
    ) -> Any:
        # transformers notes what there was after the code has been written, and would miss it.
        code = {f"{_file_stem(cls)}.py" for cls in self._classes_of_files()}
        before = {name: time for name, time in files_timestamps.items() if name not in code}
        before |= dict.fromkeys((PATIENT_TEXT_FOLDER, LOCAL_PARTS_FILE.parts[0]), math.inf)
        return super()._upload_modified_files(working_dir, repo_id, before, **kwargs)


class ProcessorCodeMixin(_CodeMixin):
    """For processors: `save_pretrained` and `push_to_hub` also write the code.

    Attributes:
        auto_class_name: which Auto class loads them.
    """

    auto_class_name: ClassVar[str]

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As usual, with the code by which the folder loads without this package."""
        for cls in self._classes_of_files():
            write_code(cls, save_directory)
        # transformers 5.24 pushes only from a folder that is named by a string.
        return super().save_pretrained(os.fspath(save_directory), push_to_hub, **kwargs)

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As usual, with the place of the code."""
        values = super().to_dict(*args, **kwargs)
        if has_code(type(self)):
            values["auto_map"] = {self.auto_class_name: code_reference(type(self))}
        return values


class ModelCodeMixin(_CodeMixin):
    """For models: `save_pretrained` and `push_to_hub` also write the code.

    Attributes:
        repository_pipelines: for each task the pipeline that the repository offers, and the Auto class that loads its
            model.
    """

    repository_pipelines: ClassVar[Mapping[str, tuple[type, str]]] = {}

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """As `PreTrainedModel.save_pretrained`, with the code by which the folder loads without this package.

        Arguments as there.
        """
        if is_main_process:
            for cls in self._classes_of_files():
                write_code(cls, save_directory, self._classes_of_parts() if cls is type(self) else ())
        entries = self._config_entries()
        # Only what is saved has them: with them, transformers asks for trust in code that nobody needs here.
        before = {name: vars(self.config).pop(name) for name in entries if name in vars(self.config)}
        vars(self.config).update(entries)
        try:
            if is_checkpoint(save_directory):
                # The Trainer looks for the names of the model's own modules, and passes over all others.
                kwargs["save_original_format"] = False
            super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        finally:
            for name in entries:
                del vars(self.config)[name]
            vars(self.config).update(before)

    def _classes_of_parts(self) -> set[type]:
        """Models of this package that the configuration names, such as a vision encoder."""
        configs = [type(getattr(self.config, name, None)) for name in self.config.sub_configs]
        found = [registered.get(config) for config in configs for _, registered in registered_models()]
        return {cls for cls in found if cls is not None and has_code(cls)}

    def _config_entries(self) -> dict[str, Any]:
        """What `config.json` says about the code."""
        if not has_code(type(self)):
            return {}
        stem = _file_stem(type(self))
        auto_map = {"AutoConfig": f"{stem}.{type(self.config).__name__}"}
        for name, registered in registered_models():
            if registered.get(type(self.config)) is type(self):
                auto_map[name] = code_reference(type(self))
        pipelines = {
            task: {"impl": f"{stem}.{pipeline.__name__}", "pt": [auto_class], "type": "multimodal"}
            for task, (pipeline, auto_class) in self.repository_pipelines.items()
        }
        return {"auto_map": auto_map} | ({"custom_pipelines": pipelines} if pipelines else {})

    def _classes_of_files(self) -> list[type]:
        # A processor of transformers does not bring the code of an image processor of ours.
        image_processors = IMAGE_PROCESSOR_MAPPING._extra_content.get(type(self.config)) or {}
        return [*super()._classes_of_files(), *(cls for cls in image_processors.values() if cls and has_code(cls))]


def _file_stem(cls: type) -> str:
    return cls.__module__.rpartition(".")[2]


__all__ = [
    "LOCAL_PARTS_FILE",
    "PATIENT_TEXT_FOLDER",
    "ModelCodeMixin",
    "ProcessorCodeMixin",
    "code_reference",
    "has_code",
    "is_checkpoint",
    "write_code",
]
