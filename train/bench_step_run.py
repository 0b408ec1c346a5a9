"""Run a step of a benchmark: once, resumable, and again when what it was made from has changed."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from ..data.whole_file import write_whole
from ..evaluation.made_with import digest_of_folder
from .bench_commands import COMMANDS
from .bench_steps import PlannedStep, resolved
from .processes import run_in_processes
from .recipe import make_recipe
from .recipe_base import Recipe
from .run import run_recipe
from .run_folder import delete_run

STEP_FILE = "step.json"
_PARTS = ("checkpoint", "vision_encoder", "text_encoder", "language_model", "stage1", "qformer")
_GROUPS = ("memories", "parts")
_logger = logging.getLogger(__name__)


def run_step(step: PlannedStep, output: Path, places: Mapping[str, Path], processes: int) -> None:
    """Runs a step unless it is done; an interrupted one goes on.

    Args:
        step: what to do.
        output: the bench's folder.
        places: the results of the steps that it needs.
        processes: how many processes train together.
    """
    folder = output / step.folder
    values = _resolved(step, places)
    inputs = _inputs(step, values)
    if is_stale(step, output, places):
        _logger.warning("step %s: what it is made from has changed, so it begins again", step.name)
        _delete(step, folder)
    elif is_current(step, output, places):
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, step, inputs, None)
    started = perf_counter()
    if step.recipe is not None:
        run_in_processes(_train, (make_recipe(values), folder / "run"), processes)
    else:
        COMMANDS[str(step.command)].build(values, output / step.result)
    _write(folder, step, inputs, perf_counter() - started)


def is_current(step: PlannedStep, output: Path, places: Mapping[str, Path]) -> bool:
    """Whether the step's result is there, made from what lies at `places` now."""
    is_done = _read(output / step.folder).get("seconds") is not None and (output / step.result).is_dir()
    return is_done and not is_stale(step, output, places)


def is_stale(step: PlannedStep, output: Path, places: Mapping[str, Path]) -> bool:
    """Whether the step was begun with models or memories that have since been changed where they lie.

    Those that are gone, to make room perhaps, do not count.
    """
    known = _read(output / step.folder).get("inputs")
    now = _inputs(step, _resolved(step, places))
    return known is not None and any(known.get(key) != digest for key, digest in now.items())


def part_digests(model: Mapping[str, Any]) -> dict[str, str]:
    """The folders that a recipe's `model` names, each as its key with dots and a digest of its content."""
    named: dict[str, Any] = {key: model.get(key) for key in _PARTS}
    for group in _GROUPS:
        named |= {f"{group}.{name}": folder for name, folder in (model.get(group) or {}).items()}
    folders = {key: Path(name) for key, name in named.items() if isinstance(name, str)}
    return {key: digest_of_folder(folder) for key, folder in folders.items() if folder.is_dir()}


def _resolved(step: PlannedStep, places: Mapping[str, Path]) -> dict[str, Any]:
    return resolved(dict(step.options) if step.recipe is None else step.recipe.to_dict(), places)


def _inputs(step: PlannedStep, values: Mapping[str, Any]) -> dict[str, str]:
    """What the step is made from: folders with models or memories, by content."""
    if step.recipe is not None:
        return part_digests(values["model"])
    named = {key: values[key] for key in COMMANDS[str(step.command)].folders if key in values}
    return {key: digest_of_folder(Path(folder)) for key, folder in named.items() if Path(folder).is_dir()}


def _train(recipe: Recipe, folder: Path) -> None:
    run_recipe(recipe, folder)


def _read(folder: Path) -> dict[str, Any]:
    file = folder / STEP_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _write(folder: Path, step: PlannedStep, inputs: Mapping[str, str], seconds: float | None) -> None:
    values = {"step": step.name, "key": step.key, "inputs": inputs, "seconds": seconds}
    write_whole(folder / STEP_FILE, json.dumps(values, indent=1))


def _delete(step: PlannedStep, folder: Path) -> None:
    if step.recipe is not None:
        delete_run(folder / "run")
    elif (folder / "built").is_dir():
        shutil.rmtree(folder / "built")


__all__ = ["is_current", "is_stale", "part_digests", "run_step"]
