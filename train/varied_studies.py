"""Training studies that differ from epoch to epoch: parts of the context left out, sections asked for in turn,
images cut at random places."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.sections import section_report


class VariedStudies(Dataset):
    """Studies of which each draws, in every epoch, what its prompt says and which section it is asked for.

    So that one model serves with and without each part of the context, each part of a study's context is left out by
    itself at a rate. What is drawn follows from the seed, the epoch and the study alone: it is the same in every
    process and when a run is resumed.

    Args:
        studies: a data set of the package's schema.
        context: the parts that the processor's prompts say (`processor.context`).
        dropout: rate at which each of them is left out, from 0 to 1.
        sections: one of these is asked for, of those that the study's report has, and becomes its `report`. By default
            the report is as it is.
        random_crop: whether each study names a place to cut out of each view (`crop_positions`).
        cleaning: how such a section is cleaned, as the reports of the data set were.
        seed: of what is drawn.

    Raises:
        ValueError: the rate is out of range.
    """

    def __init__(
        self,
        studies: Any,
        *,
        context: Sequence[str] = (),
        dropout: float = 0.0,
        sections: Sequence[str] = (),
        cleaning: str | None = None,
        random_crop: bool = False,
        seed: int = 0,
    ):
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be from 0 to 1, got {dropout}")
        self._studies = studies
        self._context = tuple(context)
        self._dropout = dropout
        self._sections = tuple(sections)
        self._cleaning = cleaning
        self._random_crop = random_crop
        self._seed = seed
        # Worker processes that live through all epochs see it, too.
        self._epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose draws are given; `EpochOfStudies` sets it."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._studies)

    def __getitem__(self, index: int) -> dict[str, Any]:
        study = dict(self._studies[int(index)])
        name = study.get("study_id", int(index))
        for part in self._context:
            if self._draw(name, part) < self._dropout:
                study.pop(part, None)
        told = {section: section_report(study, section, self._cleaning) for section in self._sections}
        if found := [section for section, text in told.items() if text]:
            section = found[int(self._draw(name, "section") * len(found))]
            study |= {"section": section, "report": told[section]}
        if self._random_crop:
            study["crop_positions"] = [
                tuple(self._draw(name, f"{side} of view {view}") for side in ("top", "left"))
                for view in range(len(study["images"]))
            ]
        return study

    def _draw(self, study: Any, what: str) -> float:
        """A number from 0 to below 1, different for every study, epoch and purpose."""
        key = f"{self._seed}/{self.epoch}/{study}/{what}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest()) / 2**56


class EpochOfStudies(TrainerCallback):
    """Tells `VariedStudies` which epoch of a Trainer begins.

    Args:
        studies: the training studies.
    """

    def __init__(self, studies: VariedStudies):
        self._studies = studies

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A resumed epoch counts as the one that was interrupted."""
        self._studies.epoch = int(state.epoch or 0)


__all__ = ["EpochOfStudies", "VariedStudies"]
