"""Vectors of training studies that a model looks up, as an artefact in a folder of its own beside the model.

A memory can hold text of patients' reports, and its vectors come from their images. It lies in the sub-folder of a
model that is never pushed unless somebody asks for it, and it takes studies of the training split only.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..hub.repository_code import PATIENT_TEXT_FOLDER

_FORMAT = 1
_TENSORS, _DESCRIPTION = "memory.safetensors", "memory.json"
_TRAINING = "train"


class HeldOutStudyError(ValueError):
    """A study that a memory may not hold, because it, or its patient, is not in the training split."""


class MemoryFormatError(ValueError):
    """A folder that holds no memory, or one whose parts do not fit each other."""


@dataclass(frozen=True)
class TrainingSplit:
    """Which studies may be remembered: those of the training split whose patients are in no other split.

    Attributes:
        patients: patient of each training study.
        held_out_studies: split of each study of the other splits.
        held_out_patients: split of each of their patients.
    """

    patients: Mapping[str, str]
    held_out_studies: Mapping[str, str]
    held_out_patients: Mapping[str, str]

    @classmethod
    def of(cls, studies: Iterable[Mapping[str, Any]]) -> Self:
        """From all studies of a data set.

        Args:
            studies: with `study_id`, `patient_id` and `split` each; of every split, or nothing can be held out.

        Raises:
            ValueError: a study is in two splits or has two patients.
        """
        patients: dict[str, str] = {}
        others: dict[str, str] = {}
        other_patients: dict[str, str] = {}
        for study in studies:
            name, patient, split = study["study_id"], study["patient_id"], study["split"]
            if split == _TRAINING:
                if patients.setdefault(name, patient) != patient:
                    raise ValueError(f"study {name} has two patients, {patients[name]} and {patient}")
            else:
                others[name] = other_patients[patient] = split
        both = sorted(patients.keys() & others.keys())
        if both:
            raise ValueError(f"{len(both)} studies are in two splits, the first is {both[0]}")
        return cls(patients, others, other_patients)

    def check(self, study_ids: Sequence[str], patient_ids: Sequence[str]) -> None:
        """Refuses what may not be remembered.

        Raises:
            HeldOutStudyError: a study is not in the training split, or its patient has studies in another one.
            ValueError: the data set says that a study is of another patient, or there are not as many patients as
                studies.
        """
        if len(study_ids) != len(patient_ids):
            raise ValueError(f"patient_ids has {len(patient_ids)} rows, study_ids has {len(study_ids)}")
        for study, patient in zip(study_ids, patient_ids, strict=True):
            if study in self.held_out_studies:
                raise HeldOutStudyError(
                    f"study {study} is in the {self.held_out_studies[study]} split, not in training"
                )
            if patient in self.held_out_patients:
                raise HeldOutStudyError(
                    f"patient {patient} of study {study} has studies in the {self.held_out_patients[patient]} split"
                )
            if study not in self.patients:
                raise HeldOutStudyError(f"study {study} is not in the data set's training split")
            if self.patients[study] != patient:
                raise ValueError(f"study {study} is of patient {self.patients[study]}, not of {patient}")


@dataclass(frozen=True)
class MemorySource:
    """Where a memory comes from.

    Attributes:
        data_set: name of the data set.
        encoder: folder or Hub id of the model that made the vectors.
        encoder_revision: its commit on the Hub, where it has one.
        seed: of what was drawn at random, where anything was.
        options: what else decided which rows there are and what is in them, as plain data.
    """

    data_set: str
    encoder: str
    encoder_revision: str | None = None
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class StudyMemory:
    """Rows of vectors, each of a training study.

    A study can have several rows: regions of its image, sentences of its report, its views.

    Attributes:
        vectors: by name, `(rows, width)` in float32; a memory of one kind calls it `values`.
        study_ids: study of each row.
        patient_ids: patient of each row.
        observations: observation that each row stands for; None for rows that stand for none.
        reports: text of each row's report; None when the memory holds no text.
        source: where it comes from.

    Source: AM-MRG, section III-C (memories), the dual-stage paper, section III-D (DMSR); AM-MRG's released code filled
    its memory with studies of the test split, which this refuses.
    """

    def __init__(
        self,
        vectors: Mapping[str, Tensor],
        study_ids: Sequence[str],
        patient_ids: Sequence[str],
        source: MemorySource,
        split: TrainingSplit,
        *,
        observations: Sequence[str | None] | None = None,
        reports: Sequence[str] | None = None,
    ):
        """Puts a memory together; arguments as the attributes.

        Args:
            split: what may be remembered; every row is checked.

        Raises:
            HeldOutStudyError: a row is of a study outside the training split, or of a patient of another split.
            ValueError: the parts have different lengths, or there are none.
        """
        split.check(study_ids, patient_ids)
        self._set(vectors, study_ids, patient_ids, source, observations, reports)

    def _set(
        self,
        vectors: Mapping[str, Tensor],
        study_ids: Sequence[str],
        patient_ids: Sequence[str],
        source: MemorySource,
        observations: Sequence[str | None] | None,
        reports: Sequence[str] | None,
    ) -> None:
        rows = len(study_ids)
        parts: dict[str, Any] = {"patient_ids": patient_ids, **vectors}
        parts |= {} if observations is None else {"observations": observations}
        parts |= {} if reports is None else {"reports": reports}
        if not rows or not vectors:
            raise ValueError("a memory needs at least one row and one kind of vectors")
        for name, part in parts.items():
            if len(part) != rows:
                raise ValueError(f"{name} has {len(part)} rows, study_ids has {rows}")
        for name, tensor in vectors.items():
            if tensor.ndim != 2:
                raise ValueError(f"vectors[{name!r}] must be (rows, width), got {tuple(tensor.shape)}")
            if not tensor.isfinite().all():
                raise ValueError(f"vectors[{name!r}] holds values that are not finite")
        self.vectors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in vectors.items()}
        self.study_ids, self.patient_ids = tuple(study_ids), tuple(patient_ids)
        self.observations = (None,) * rows if observations is None else tuple(observations)
        self.reports = None if reports is None else tuple(reports)
        self.source = source
        # Where these parts have been written to, and the files as they were then.
        self._saved: tuple[Path, list[Any], Any, list[tuple[int, ...]]] | None = None

    def __len__(self) -> int:
        return len(self.study_ids)

    def counts(self) -> dict[str, Any]:
        """Numbers of rows, studies and patients, and of rows by observation."""
        by_observation = Counter(name for name in self.observations if name is not None)
        return {
            "rows": len(self),
            "studies": len(set(self.study_ids)),
            "patients": len(set(self.patient_ids)),
            "rows_by_observation": dict(by_observation),
        }

    @staticmethod
    def folder_beside(model_folder: str | Path, name: str) -> Path:
        """Where a model's memory of a name belongs: in the sub-folder that is not pushed."""
        return Path(model_folder) / PATIENT_TEXT_FOLDER / name

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the memory: vectors as safetensors, all else as JSON. The files of a memory there are replaced.

        What this object has written before is not written again where the file system can give the same file a second
        name (a hard link), so the checkpoints of a run share one copy, whichever of them is deleted.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # The description comes last: without it a folder that was interrupted on the way is no memory. Files are made
        # anew and not written over, since they can be those of other folders, too.
        for name in (_DESCRIPTION, _TENSORS):
            (folder / name).unlink(missing_ok=True)
        if not self._link_into(folder):
            save_file(self.vectors, folder / _TENSORS)
            (folder / _DESCRIPTION).write_text(self._description(), encoding="utf-8")
        self._saved = (folder.resolve(), self._parts(), self._state(), _file_facts(folder))

    def _link_into(self, folder: Path) -> bool:
        """Gives what was written before a name in a folder; False where that can't be, or it would be out of date."""
        if self._saved is None:
            return False
        earlier, parts, state, facts = self._saved
        now = self._parts()
        is_same = len(now) == len(parts) and all(one is other for one, other in zip(now, parts, strict=True))
        if not is_same or self._state() != state:
            return False
        try:
            if _file_facts(earlier) != facts:
                return False
            for name in (_TENSORS, _DESCRIPTION):
                os.link(earlier / name, folder / name)
        except OSError:  # deleted, on another disk, or on one without hard links
            (folder / _TENSORS).unlink(missing_ok=True)
            return False
        return True

    def _parts(self) -> list[Any]:
        """What may be replaced, which no copy of it may count for."""
        return [self.study_ids, self.patient_ids, self.observations, self.reports, *self.vectors.values()]

    def _state(self) -> Any:
        """What else tells whether the memory has changed: how often each tensor was written to, and the source."""
        versions = [(name, tensor._version) for name, tensor in self.vectors.items()]
        return versions, json.dumps(vars(self.source), default=dict)

    def _description(self) -> str:
        description = {
            "format": _FORMAT,
            "split": _TRAINING,
            "source": {**vars(self.source), "options": dict(self.source.options)},
            "counts": self.counts(),
            "widths": {name: tensor.shape[1] for name, tensor in self.vectors.items()},
            "study_ids": self.study_ids,
            "patient_ids": self.patient_ids,
            "observations": self.observations,
            "reports": self.reports,
        }
        return json.dumps(description, ensure_ascii=False, indent=1)

    @classmethod
    def from_pretrained(cls, folder: str | Path, split: TrainingSplit | None = None) -> Self:
        """Reads a memory.

        Args:
            folder: where `save_pretrained` wrote it.
            split: to check every row anew, such as against the split of the data that is evaluated on.

        Raises:
            FileNotFoundError: there is no memory.
            HeldOutStudyError: a row is of a study that `split` does not allow.
            MemoryFormatError: the files do not fit each other, or were written by a later version.
        """
        folder = Path(folder)
        for name in (_DESCRIPTION, _TENSORS):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} holds no {name}; memories are built from the training data and do not come with a "
                    "model from the Hub"
                )
        try:
            description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            if description["format"] != _FORMAT:
                raise MemoryFormatError(f"{folder} has format {description['format']}, this version reads {_FORMAT}")
            if description["split"] != _TRAINING:
                raise MemoryFormatError(f"{folder} is of the {description['split']} split, not of training")
            memory = cls.__new__(cls)
            memory._set(
                load_file(folder / _TENSORS),
                description["study_ids"],
                description["patient_ids"],
                MemorySource(**description["source"]),
                description["observations"],
                description["reports"],
            )
            if memory.counts() != description["counts"]:
                raise MemoryFormatError(f"{folder}: the rows are not those that {_DESCRIPTION} counts")
        except MemoryFormatError:
            raise
        except Exception as error:  # a damaged file makes its reader fail in any way
            raise MemoryFormatError(f"{folder} is no memory that can be read: {error}") from error
        if split is not None:
            split.check(memory.study_ids, memory.patient_ids)
        return memory

    def select(self, rows: Sequence[int] | Tensor) -> Self:
        """The memory of some of the rows, in the order given."""
        chosen = torch.as_tensor(rows, dtype=torch.long)
        indices = chosen.tolist()
        part = type(self).__new__(type(self))
        part._set(
            {name: tensor[chosen] for name, tensor in self.vectors.items()},
            [self.study_ids[i] for i in indices],
            [self.patient_ids[i] for i in indices],
            self.source,
            [self.observations[i] for i in indices],
            None if self.reports is None else [self.reports[i] for i in indices],
        )
        return part


def _file_facts(folder: Path) -> list[tuple[int, ...]]:
    """What tells whether the files of a memory are those that they were."""
    found = [(folder / name).stat() for name in (_TENSORS, _DESCRIPTION)]
    return [(status.st_ino, status.st_size, status.st_mtime_ns) for status in found]


__all__ = ["HeldOutStudyError", "MemoryFormatError", "MemorySource", "StudyMemory", "TrainingSplit"]
