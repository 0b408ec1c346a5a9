"""What a model remembers of its training studies: beside its weights on this machine, and never pushed by default."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from .repository_code import PATIENT_TEXT_FOLDER

MEMORY_FOLDER = Path(PATIENT_TEXT_FOLDER, "study_memory")


class Memory(Protocol):
    """What can be kept so: it writes itself into a folder and reads itself from there."""

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Self: ...


class PrivateMemoryMixin:
    """For models with a `study_memory`, which is saved and loaded with the model, in a sub-folder of its own.

    The sub-folder is left out of every push unless `mambaxray push --include-patient-text` asks for it: a memory can
    hold text of patients' reports. A model that was loaded without one has None in its place.

    Attributes:
        memory_class: what the memory is loaded with; None for systems without one.
        study_memory: the memory.
    """

    memory_class: ClassVar[type[Memory] | None] = None
    study_memory: Memory | None = None

    @property
    def memory_vectors(self) -> Mapping[str, Mapping[str, int]]:
        """The `StudyMemory` artefacts that `set_memories` takes, by the names that recipes have for them: the width of
        each of their `vectors`. Empty for systems that look nothing up."""
        return {}

    @classmethod
    def fields_from_memories(cls, memories: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of the configuration that follow from the memories that a model is to be given, such as widths."""
        return {}

    def set_memories(self, memories: Mapping[str, Any]) -> None:
        """Makes memories of training studies those of this model (`StudyMemoriesMixin` for systems that have any).

        Args:
            memories: a `StudyMemory` for each name of `memory_vectors`.

        Raises:
            ValueError: there is a name that the model has not, one is missing, or a memory does not fit.
        """
        if memories:
            raise ValueError(f"{type(self).__name__} looks up no memories; got {', '.join(sorted(memories))}")

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As usual, and the memory."""
        if is_main_process and self.study_memory is not None:
            self.study_memory.save(Path(save_directory) / MEMORY_FOLDER)
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any) -> Any:
        """As usual, and the memory where the folder has one."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        folder = None if pretrained_model_name_or_path is None else Path(pretrained_model_name_or_path) / MEMORY_FOLDER
        if cls.memory_class is not None and folder is not None and folder.is_dir():
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.study_memory = cls.memory_class.load(folder)
        return loaded


__all__ = ["Memory", "PrivateMemoryMixin"]
