"""Training images cut at random places, the same whenever the same epoch is trained again."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    import datasets


class RandomCrops(Dataset):
    """Studies with `crop_positions`, which say where the processor cuts their views.

    A position depends on the seed, the epoch, the study's number and the view's, and on nothing else: worker processes,
    resuming and the number of processes change nothing.

    Args:
        studies: in the package's schema (`data/schema.py`).
        seed: of the positions.

    Attributes:
        epoch: `CropEpoch` counts it, in memory that worker processes share.
    """

    def __init__(self, studies: "datasets.Dataset", seed: int):
        self.studies, self.seed = studies, seed
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        study = self.studies[index]
        positions = [self._position(index, view) for view in range(len(study["images"]))]
        return {**study, "crop_positions": positions}

    def _position(self, index: int, view: int) -> tuple[float, float]:
        name = f"{self.seed} {self.epoch.item()} {index} {view}".encode()
        digest = hashlib.blake2b(name, digest_size=8).digest()
        top, left = (int.from_bytes(part) / (2**32 - 1) for part in (digest[:4], digest[4:]))
        return top, left


class CropEpoch(TrainerCallback):
    """Tells `RandomCrops` which epoch begins, also when training resumes within it."""

    def __init__(self, crops: RandomCrops):
        self.crops = crops

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.crops.epoch.fill_(int(state.epoch or 0))
        return control


__all__ = ["CropEpoch", "RandomCrops"]
