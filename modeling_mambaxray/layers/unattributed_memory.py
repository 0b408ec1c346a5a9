"""A memory of studies that nobody can name, such as the one that AM-MRG's authors may hand out."""

import json
import logging
from pathlib import Path
from typing import Self

from safetensors.torch import load_file, save_file
from torch import Tensor

_TENSORS, _DESCRIPTION = "memory.safetensors", "unattributed.json"
_logger = logging.getLogger(__name__)


class UnattributedMemory:
    """Vectors without the studies that they are of.

    It is no `StudyMemory`, which says of each row whose it is and that it is of the training split. A model with one
    can be run, but nobody can tell that its memory holds no study that it is evaluated on: AM-MRG's released code fills
    its report memory from the test split. Recipes refuse it, and reading one logs a warning.

    Attributes:
        vectors: `{"values": (rows, width)}` in float32.
        source: where it comes from, in words.
        study_ids, observations, reports: as a `StudyMemory` has them; here nothing is known.

    Raises:
        ValueError: the vectors are not `(rows, width)`.
    """

    reports = None

    def __init__(self, values: Tensor, source: str):
        if values.ndim != 2 or not len(values):
            raise ValueError(f"a memory's vectors must be (rows, width), got {tuple(values.shape)}")
        self.vectors = {"values": values.detach().float().cpu().contiguous()}
        self.source = source
        self.study_ids = ("unknown",) * len(values)
        self.observations = (None,) * len(values)

    def __len__(self) -> int:
        return len(self.study_ids)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder holds such a memory."""
        return (folder / _DESCRIPTION).is_file()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the memory into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.vectors, folder / _TENSORS)
        description = {"source": self.source, "split": "unknown", "rows": len(self)}
        (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Reads a memory, with a warning."""
        folder = Path(folder)
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        memory = cls(load_file(folder / _TENSORS)["values"], description["source"])
        memory.warn()
        return memory

    def warn(self) -> None:
        """Says what the memory is not."""
        _logger.warning(
            "the memory from %s does not say which studies it is of: it may hold those that the model is evaluated on, "
            "and scores are then worth nothing. Build a memory from the training split with `mambaxray memory build`",
            self.source,
        )


__all__ = ["UnattributedMemory"]
