"""What a training run leaves behind about itself: its recipe, the environment, the code's revision, the results.

Also what becomes of a folder that holds a run already: it is gone on with, extended, corrected, begun again or refused.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..data.whole_file import write_whole
from .alignment_result import GUARD
from .checkpoints import last_complete_checkpoint
from .recipe import make_recipe, read_recipe
from .recipe_base import Recipe
from .recipe_text import RecipeError
from .run_inputs import changed_inputs, run_inputs
from .run_result import ENVIRONMENT_FILE, RECIPE_FILE, RESULT_FILE

CHECKPOINTS, MODEL, BASE, PICTURES = "checkpoints", "model", "base", "pictures"
PAIRS = "pairs.jsonl"
CLASSIFICATION_FILES = ("classification.json", "classification.md")
_MADE = (
    RECIPE_FILE,
    ENVIRONMENT_FILE,
    RESULT_FILE,
    CHECKPOINTS,
    MODEL,
    BASE,
    PICTURES,
    *CLASSIFICATION_FILES,
    PAIRS,
    GUARD,
)
_WRITTEN_AT_START = (RECIPE_FILE, ENVIRONMENT_FILE)
# Where a run waits that another one is to replace.
_ASIDE = ".replaced"
_PACKAGES = ("mambaxray", "torch", "transformers", "accelerate", "datasets", "peft", "tokenizers", "numpy", "pillow")
# What can change when a run is resumed: how long it trains, and how it is looked at. `training.` and more.
_FREE = (
    *("description", "metrics", "picture_every", "picture_images", "early_stopping_patience", "data.max_validation"),
    *("training.max_steps", "training.num_train_epochs", "training.per_device_eval_batch_size", "training.report_to"),
)
# With another number of processes it keeps the studies of a step together; `check_same_batches` looks at the product.
_FREE_TO_GO_ON = "training.per_device_train_batch_size"
_FREE_PREFIXES = ("training.eval_", "training.save_", "training.logging_", "training.dataloader_")


def check_run_folder(folder: Path, recipe: Recipe) -> bool:
    """Whether the run of this recipe is finished in this folder; a run that can't be gone on with is refused.

    A folder can be used when it holds no run, when its run has not come to a checkpoint, so that nothing is lost, or
    when its recipe differs in nothing that decides what is learned: a longer run resumes from the last checkpoint.

    Raises:
        RecipeError: the folder holds something else, or a run of another recipe, or a longer one has no checkpoint to
            go on from; the message names what differs.
    """
    recipe_file = folder / RECIPE_FILE
    if not (folder / ENVIRONMENT_FILE).is_file() or not recipe_file.is_file():
        if taken := next((name for name in _MADE if (folder / name).exists()), None):
            raise RecipeError(f"{folder / taken} exists and is of no run: choose another output folder")
        return False
    differences = _differences(_values(recipe_file), recipe.to_dict())
    decisive = [name for name in differences if name not in _FREE and not name.startswith(_FREE_PREFIXES)]
    checkpoint = last_complete_checkpoint(folder / CHECKPOINTS)
    finished = (folder / RESULT_FILE).is_file()
    longer = {name for name in ("training.max_steps", "training.num_train_epochs") if name in differences}
    if checkpoint is not None and (longer or not finished):
        decisive = [name for name in decisive if name != _FREE_TO_GO_ON]
    if decisive and (finished or checkpoint is not None):
        raise RecipeError(
            f"{folder} holds a run of another recipe: {_describe(differences, decisive)}. Choose another output "
            "folder, or begin again in this one with --restart, which deletes that run"
        )
    if finished or checkpoint is not None:
        _refuse_changed_inputs(folder, recipe)
    if not finished or not longer:
        return finished
    if checkpoint is None:
        raise RecipeError(
            f"{folder} holds a finished run without a checkpoint, so it can't be extended "
            f"({_describe(differences, longer)}); begin again with --restart, which deletes that run"
        )
    return False


def _refuse_changed_inputs(folder: Path, recipe: Recipe) -> None:
    environment = json.loads((folder / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
    if changed := changed_inputs(environment.get("inputs", {}), recipe.to_dict()):
        raise RecipeError(
            f"{folder} holds a run that began with other content of {', '.join(changed)}. Choose another output "
            "folder, or begin again in this one with --restart, which deletes that run"
        )


def claim_run_folder(folder: Path, recipe: Recipe) -> None:
    """Writes recipe and environment into the folder, which `check_run_folder` has found free; an old result goes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).unlink(missing_ok=True)
    environment = describe_run(recipe.seed) | {"inputs": run_inputs(recipe.to_dict())}
    write_whole(folder / ENVIRONMENT_FILE, json.dumps(environment, indent=2))
    write_whole(folder / RECIPE_FILE, recipe.to_yaml())


def _require_run(folder: Path) -> bool:
    """Whether there is a run; False where there is nothing of one."""
    if (folder / ENVIRONMENT_FILE).is_file() and (folder / RECIPE_FILE).is_file():
        return True
    if any((folder / name).exists() for name in _MADE):
        raise RecipeError(
            f"{folder} is not the folder of a run, so nothing in it is deleted: choose another output folder"
        )
    return False


def delete_run(folder: Path) -> None:
    """Deletes what a run has made in its folder, and nothing else.

    Raises:
        RecipeError: the folder is not a run's.
    """
    if not _require_run(folder):
        return
    # The recipe last: with it the folder is still known for a run's when this is interrupted.
    for name in sorted(_MADE, key=(RESULT_FILE, ENVIRONMENT_FILE, RECIPE_FILE).__contains__):
        _remove(folder / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def unchanged_if_refused(folder: Path, *, restart: bool = False) -> Iterator[None]:
    """Leaves a run's folder as it was when what is done within is interrupted or ends by an error of the user's.

    Args:
        folder: of the run; what else lies in it is not touched.
        restart: whether the run that it holds makes room for another. It is deleted at the end.

    Raises:
        RecipeError: there is something to make room, and it is of no run.
    """
    aside = folder / _ASIDE
    if aside.is_dir():
        # Of a restart that was killed: before the new run had begun, or after.
        if (folder / RECIPE_FILE).is_file():
            shutil.rmtree(aside)
        else:
            _move_all(aside, folder)
    if restart:
        _require_run(folder)
    held = [name for name in _MADE if (folder / name).exists()]
    texts = {} if restart else {name: (folder / name).read_bytes() for name in _WRITTEN_AT_START if name in held}
    if restart and held:
        _move_all(folder, aside)
    try:
        yield
    except (KeyboardInterrupt, OSError, TypeError, ValueError):
        for name in _MADE:
            if restart or name not in held:
                _remove(folder / name)
        for name, content in texts.items():
            (folder / name).write_bytes(content)
        if aside.is_dir():
            _move_all(aside, folder)
        raise
    if aside.is_dir():
        shutil.rmtree(aside)


def _move_all(source: Path, target: Path) -> None:
    """Moves all of a run; the recipe goes first and comes back last, so that half a run is none."""
    target.mkdir(exist_ok=True)
    names = [name for name in _MADE if (source / name).exists()]
    for name in names if target.name == _ASIDE else reversed(names):
        os.replace(source / name, target / name)
    if source.name == _ASIDE:
        source.rmdir()


def _values(file: Path) -> dict[str, Any]:
    try:
        values = read_recipe(file)
    except RecipeError as error:
        raise RecipeError(f"{file} can't be read, so this folder can't be gone on with: {error}") from error
    try:
        return make_recipe(values).to_dict()
    except RecipeError:  # of an older version of this package
        return values


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys with dots whose values differ."""
    flat_old, flat_new = dict(_flat(old)), dict(_flat(new))
    names = [*flat_new, *(name for name in flat_old if name not in flat_new)]
    return {
        name: (flat_old.get(name), flat_new.get(name)) for name in names if flat_old.get(name) != flat_new.get(name)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value or None if isinstance(value, Mapping) else value


def _describe(differences: Mapping[str, tuple[Any, Any]], names: Any) -> str:
    shown = [f"{name} is {differences[name][0]!r} there, {differences[name][1]!r} here" for name in sorted(names)]
    return "; ".join(shown[:3]) + (f"; and {len(shown) - 3} more" if len(shown) > 3 else "")


def describe_run(seed: int) -> dict[str, Any]:
    """Versions, machine, seed, and the git revision where the package runs from a repository."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "seed": seed,
        "git": git_revision(),
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": devices or ["cpu"],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def git_revision() -> dict[str, Any] | None:
    """Commit of the repository that this package runs from, and whether its files were changed; None elsewhere."""
    root = Path(__file__).resolve().parents[1]
    if shutil.which("git") is None or not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "changed": bool(git("status", "--porcelain"))}


__all__ = [
    "BASE",
    "CHECKPOINTS",
    "CLASSIFICATION_FILES",
    "ENVIRONMENT_FILE",
    "GUARD",
    "MODEL",
    "PAIRS",
    "PICTURES",
    "check_run_folder",
    "claim_run_folder",
    "delete_run",
    "describe_run",
    "git_revision",
    "unchanged_if_refused",
]
