"""Checkpoints known to be complete: training that is killed while it writes one resumes from the previous one."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.whole_file import flush_to_disk, write_whole
from .recipe_text import RecipeError

SEAL = "complete.json"
_logger = logging.getLogger(__name__)


class CheckpointSeal(TrainerCallback):
    """Writes into each checkpoint, after everything else, the names and sizes of its files.

    Works with any `Trainer`. A checkpoint counts as complete when it has its seal and every file that the seal names.

    Args:
        save_total_limit: delete checkpoints beyond this many, once a new one is complete; the new one and the best one
            stay. Give it here and not to the Trainer, which deletes before (transformers 5.24): what is killed then
            has lost what it could go on from. None keeps all.
    """

    def __init__(self, save_total_limit: int | None = None):
        self._limit = save_total_limit

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        # A checkpoint names the best one by the place where it was then, and the run may have been moved.
        best = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        if state.best_global_step and is_complete(best):
            state.best_model_checkpoint = str(best)
        return control

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
            best = state.best_model_checkpoint
            _delete_beyond(self._limit, folder.parent, {folder.name, *([Path(best).name] if best else [])})
        return control


def _delete_beyond(limit: int | None, folder: Path, kept: set[str]) -> None:
    """Deletes checkpoints until there are at most `limit`: first incomplete ones, then the oldest."""
    others = [path for _, path in _by_step(folder) if path.name not in kept]
    excess = len(others) + len(kept) - limit if limit else 0
    for path in sorted(others, key=is_complete)[: max(excess, 0)]:
        shutil.rmtree(path, ignore_errors=True)


def check_same_batches(checkpoint: Path, arguments: TrainingArguments) -> None:
    """Refuses to go on from a checkpoint that does not hold the state of training, or with batches of another size: the
    Trainer would begin with a new optimizer, or skip other studies than those that were learned from (5.24).

    Args:
        checkpoint: a complete one.
        arguments: of the Trainer that is to go on.

    Raises:
        RecipeError: saying how to go on.
    """
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    # One for each process; none where the model alone was saved.
    processes = len([*checkpoint.glob("rng_state*.pth")])
    again = "or begin again with --restart, which deletes that run"
    if not processes:
        raise RecipeError(
            f"{checkpoint} holds the model alone (training.save_only_model), so training can't go on from it: choose "
            f"another output folder, {again}"
        )
    if arguments.auto_find_batch_size or state.train_batch_size is None:
        return
    before, now = state.train_batch_size * processes, arguments.train_batch_size * arguments.world_size
    if before != now:
        raise RecipeError(
            f"{checkpoint} was trained by {_count(processes, 'process', 'processes')} with "
            f"{_count(before, 'study', 'studies')} at a time, and here {arguments.world_size} would take {now}: start "
            f"as many, or give training.per_device_train_batch_size such that it is {before}; {again}"
        )


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


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
    for _, path in reversed(_by_step(folder)):
        if is_complete(path):
            return path
        _logger.warning("%s is incomplete (no valid %s) and is not used", path, SEAL)
    return None


def _by_step(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a Trainer's output folder with their steps, the oldest first."""
    return sorted(
        (int(step), path)
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (step := path.name.rpartition("-")[2]).isdecimal()
    )


__all__ = ["CheckpointSeal", "check_same_batches", "is_complete", "last_complete_checkpoint"]
