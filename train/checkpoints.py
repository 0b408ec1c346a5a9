"""Checkpoints known to be complete: training that is killed while it writes one resumes from the previous one."""

import json
import logging
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.whole_file import flush_to_disk, write_whole

SEAL = "complete.json"
_logger = logging.getLogger(__name__)


class CheckpointSeal(TrainerCallback):
    """Writes into each checkpoint, after everything else, the names and sizes of its files.

    Works with any `Trainer`. A checkpoint counts as complete when it has its seal and every file that the seal names.
    """

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        # Every process writes the state of its random numbers into the checkpoint.
        PartialState().wait_for_everyone()
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SEAL]
            flush_to_disk([*files, folder])
            sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
            write_whole(folder / SEAL, json.dumps(sizes, indent=1))
        return control


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has its seal and every file, in full length, that the seal names."""
    try:
        sizes = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        # An empty seal names nothing, and so vouches for nothing.
        return bool(sizes) and all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):  # absent, not JSON, or not names and sizes
        return False


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a Trainer's output folder, None when there is none."""
    found = [
        (int(step), path)
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (step := path.name.rpartition("-")[2]).isdecimal()
    ]
    for _, path in sorted(found, reverse=True):
        if is_complete(path):
            return path
        _logger.warning("%s is incomplete (no valid %s) and is not used", path, SEAL)
    return None


__all__ = ["CheckpointSeal", "is_complete", "last_complete_checkpoint"]
