"""Several memories of training studies that one model looks up, each by its name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ..hub.private_memory import PrivateMemoryMixin
from .study_memory import StudyMemory
from .unattributed_memory import UnattributedMemory


class MissingMemoryError(ValueError):
    """A model without the memories that it looks up, such as one from the Hub."""


class StudyMemories(dict[str, StudyMemory]):
    """Memories by name, kept in a folder of a model: each in a sub-folder of that name. In the place of a `StudyMemory`
    may be an `UnattributedMemory`."""

    def save(self, folder: Path) -> None:
        """Writes each memory."""
        for name, memory in self.items():
            memory.save_pretrained(folder / name)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads all memories that there are.

        Raises:
            MemoryFormatError: one can't be read.
        """
        memories: dict[str, Any] = {}
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                is_attributed = not UnattributedMemory.is_in(path)
                memories[path.name] = (StudyMemory if is_attributed else UnattributedMemory).from_pretrained(path)
        return cls(memories)


class StudyMemoriesMixin(PrivateMemoryMixin):
    """For models that look up `StudyMemory` artefacts: those of `memory_vectors`, all of them or none.

    They are saved and loaded with the model and never pushed by default, so a model from the Hub has none
    (`study_memory` is None) until `set_memories` gives it some, and refuses to write reports.
    """

    memory_class = StudyMemories
    study_memory: StudyMemories | None = None

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As in the base class; the configuration notes which models the memories' vectors are of."""
        for name, memory in (self.study_memory or {}).items():
            if isinstance(memory, StudyMemory) and "model" in memory.source.options:
                self.config.memory_models[name] = memory.source.options["model"]
        super().save_pretrained(save_directory, *args, **kwargs)

    def set_memories(self, memories: Mapping[str, StudyMemory]) -> None:
        """As in the base class."""
        for name, memory in memories.items():
            if not isinstance(memory, StudyMemory):
                raise ValueError(
                    f"the memory {name} is a {type(memory).__name__}, not a StudyMemory, which says of each row that "
                    "it is of the training split"
                )
        self._set_fitting(memories)

    def set_unattributed_memories(self, memories: Mapping[str, UnattributedMemory]) -> None:
        """As `set_memories`, with memories that do not say which studies they are of, and a warning for each."""
        self._set_fitting(memories)
        for memory in memories.values():
            memory.warn()

    def _set_fitting(self, memories: Mapping[str, Any]) -> None:
        expected = self.memory_vectors
        if unknown := sorted(memories.keys() - expected.keys()):
            raise ValueError(f"there is no memory {', '.join(unknown)}; the memories are {_listed(expected)}")
        if missing := sorted(expected.keys() - memories.keys()):
            raise ValueError(f"the memory {', '.join(missing)} is missing; the memories are {_listed(expected)}")
        for name, widths in expected.items():
            self._check_origin(name, memories[name])
            found = {vector: tensor.shape[1] for vector, tensor in memories[name].vectors.items()}
            if {vector: found.get(vector) for vector in widths} != dict(widths):
                raise ValueError(f"the memory {name} must have vectors of widths {dict(widths)}, got {found}")
        self.study_memory = StudyMemories(memories)

    def _check_origin(self, name: str, memory: Any) -> None:
        """Refuses a memory of another kind, and vectors of another model than those that this one was trained with, as
        far as these are known."""
        if not isinstance(memory, StudyMemory):
            return
        kind = memory.source.options.get("memory")
        if kind != name and kind in self.memory_vectors:
            raise ValueError(f"what is given as the memory {name} is a {kind} memory")
        made, trained_with = memory.source.options.get("model"), self.config.memory_models.get(name)
        if made is not None and trained_with is not None and made != trained_with:
            raise ValueError(
                f"the memory {name} was built with {memory.source.encoder}, another model than the memory that this "
                f"{type(self).__name__} was trained with, so its vectors mean something else: build it with the same"
            )

    def memory(self, name: str) -> StudyMemory:
        """The memory of a name.

        Raises:
            MissingMemoryError: the model has none.
        """
        found = (self.study_memory or {}).get(name)
        if found is None:
            raise MissingMemoryError(
                f"this {type(self).__name__} has no {name} memory, without which its reports would be wrong. Memories "
                "are built from training studies and are not pushed with a model: build them (`mambaxray memory "
                "build`), and give them with --memory NAME=FOLDER, model.set_memories, or as model.memories of a recipe"
            )
        return found


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none, as the configuration switches all off"


__all__ = ["MissingMemoryError", "StudyMemories", "StudyMemoriesMixin"]
