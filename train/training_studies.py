"""The studies that a memory may be built from: the training split, without patients of the other splits."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..modeling_mambaxray.layers.study_memory import TrainingSplit

if TYPE_CHECKING:
    import datasets


class MemoryBuildError(ValueError):
    """A memory that can't be built from these studies, or not in this folder."""


class TrainingStudies:
    """The training split of a data set, with what may be remembered of it.

    Attributes:
        split: what a memory may hold.
        study_ids, patient_ids, labels, reports: of each study that may be remembered.
        left_out: how many studies were left out since their patients have studies in other splits.
    """

    def __init__(self, splits: "Mapping[str, datasets.Dataset]", *, leave_out_shared_patients: bool = False):
        """From all splits of a data set.

        Args:
            splits: as `load_studies` gives them.
            leave_out_shared_patients: go without the studies of patients who have studies in other splits, instead of
                refusing the data set.

        Raises:
            HeldOutStudyError: a training study's patient has studies in another split.
            MemoryBuildError: there are no training studies.
            ValueError: a study is in two splits or has two patients.
        """
        identities = [
            {"study_id": study, "patient_id": patient, "split": name}
            for name, part in splits.items()
            for study, patient in zip(part["study_id"], part["patient_id"], strict=True)
        ]
        self.split = TrainingSplit.of(identities)
        if not len(splits.get("train", ())):
            raise MemoryBuildError(f"there are no training studies, only {', '.join(splits) or 'nothing'}")
        training = splits["train"]
        kept: Sequence[int] = range(len(training))
        if leave_out_shared_patients:
            kept = [row for row, p in enumerate(training["patient_id"]) if p not in self.split.held_out_patients]
        self.left_out = len(training) - len(kept)
        if not kept:
            raise MemoryBuildError("every training study's patient has studies in another split, so none is left")
        self._data = training.select(kept).with_format("arrow") if self.left_out else training.with_format("arrow")
        text = training.select_columns(["study_id", "patient_id", "labels", "report"]).select(kept)
        self.study_ids: list[str] = list(text["study_id"])
        self.patient_ids: list[str] = list(text["patient_id"])
        self.labels: list[Mapping[str, int | None]] = list(text["labels"])
        self.reports: list[str] = [report or "" for report in text["report"]]
        self.split.check(self.study_ids, self.patient_ids)
        self.content = digest_of([identities, self.study_ids, self.labels, self.reports])

    def __len__(self) -> int:
        return len(self.study_ids)

    def with_label(self, observation: str, value: int) -> list[int]:
        """Positions of the studies whose label of an observation has a value."""
        return [row for row, labels in enumerate(self.labels) if labels[observation] == value]

    def with_report(self) -> list[int]:
        """Positions of the studies that have a report."""
        return [row for row, report in enumerate(self.reports) if report.strip()]

    def rows(self, positions: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Studies with these columns, images as files in memory or paths."""
        return self._data.select_columns(list(columns))[list(positions)].to_pylist()


def order_by_seed(rows: Iterable[int], names: Sequence[str], seed: int, purpose: str) -> list[int]:
    """Rows in an order that looks random and depends on nothing but their names, the seed and the purpose."""

    def key(row: int) -> bytes:
        return hashlib.sha256(f"{seed}\0{purpose}\0{names[row]}\0{row}".encode()).digest()

    return sorted(rows, key=key)


def digest_of(values: Any) -> str:
    """A digest of plain data."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


__all__ = ["MemoryBuildError", "TrainingStudies", "digest_of", "order_by_seed"]
