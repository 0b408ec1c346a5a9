"""What runs before a benchmark's cells: steps that refer to each other's results, each identified by its content.

A step is a recipe of any stage, or a command that builds something from a trained model. What refers to its result
writes `${NAME}` where the folder's path is to stand: in the cell's own recipe, or in another step. A cell is preceded
by the steps that it refers to, and by those that they refer to; cells that agree in a step share it.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from .bench_commands import COMMANDS
from .recipe import make_recipe, read_recipe
from .recipe_base import Recipe
from .recipe_sections import Section
from .recipe_text import RecipeError, set_value

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_KEY_DIGITS = 12
_NOT_CONTENT = ("description",)


class Step(Section):
    """A step of a bench, or what a choice changes of it.

    Attributes:
        recipe: the recipe that is trained, by name or file; of any stage.
        command: in place of a recipe, what is built: a name of `bench_commands.COMMANDS`.
        set: values that replace those of the recipe, the keys with dots; or the options of the command.
        seed: the step's own seed, in place of the cell's, so that all seeds of the bench share the step.
    """

    recipe: str | None = None
    command: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None

    def model_post_init(self, context: Any) -> None:
        if self.recipe is not None and self.command is not None:
            raise RecipeError(f"a step has a recipe or a command, not both: {self.recipe}, {self.command}")
        if self.command is not None and self.command not in COMMANDS:
            raise RecipeError(f"command must be one of {', '.join(COMMANDS)}, got {self.command!r}")


@dataclass(frozen=True)
class PlannedStep:
    """A step as a cell needs it.

    Attributes:
        name: what the bench calls it.
        recipe: what is trained; None for a command. `${NAME}` stands for another step's result.
        command: the command's name; None for a recipe.
        options: of the command.
        needs: names of the steps that it refers to.
        key: digest of all that, and of the keys of the steps that it needs: equal keys are equal work.
    """

    name: str
    recipe: Recipe | None
    command: str | None
    options: Mapping[str, Any]
    needs: tuple[str, ...]
    key: str

    @property
    def folder(self) -> Path:
        """Where the step lies within the bench's folder."""
        kind = self.recipe.stage if self.recipe is not None else str(self.command)
        return Path("steps", f"{kind.replace(' ', '-')}-{self.key}")

    @property
    def result(self) -> Path:
        """The folder that `${NAME}` stands for, within the bench's folder."""
        return self.folder / ("run/model" if self.recipe is not None else "built")


def plan_steps(
    wanted: Sequence[str], layers: Mapping[str, Sequence[Step]], seed: int | None
) -> tuple[PlannedStep, ...]:
    """The steps that lead to those wanted, each behind all that it needs.

    Args:
        wanted: names of steps.
        layers: for each step of the bench what it says of it, and then what the cell's choices change of it.
        seed: the cell's seed; the recipes' own when None.

    Raises:
        RecipeError: a name that is no step's, steps that need each other, or a step that says something impossible.
        FileNotFoundError: a recipe that does not exist.
    """
    planned: dict[str, PlannedStep] = {}

    def plan(name: str, path: tuple[str, ...]) -> None:
        if name in planned:
            return
        if name in path:
            raise RecipeError(f"steps need each other: {' -> '.join((*path[path.index(name) :], name))}")
        if name not in layers:
            raise RecipeError(f"${{{name}}} names no step; there are {', '.join(layers) or 'none'}")
        recipe, command, options = _work(name, layers[name], seed)
        values = options if recipe is None else recipe.to_dict()
        needs = tuple(dict.fromkeys(references(values)))
        for needed in needs:
            plan(needed, (*path, name))
        content = {key: value for key, value in values.items() if key not in _NOT_CONTENT}
        keys = {needed: planned[needed].key for needed in needs}
        planned[name] = PlannedStep(name, recipe, command, options, needs, _digest([command, resolved(content, keys)]))

    for name in wanted:
        plan(name, ())
    return tuple(planned.values())


def _work(name: str, layers: Sequence[Step], seed: int | None) -> tuple[Recipe | None, str | None, dict[str, Any]]:
    """What a step does when all layers are laid over each other: a recipe, or a command and its options."""
    work = next((layer for layer in reversed(layers) if layer.recipe is not None or layer.command is not None), None)
    if work is None:
        raise RecipeError(f"step {name}: give its recipe or its command")
    own_seed = next((layer.seed for layer in reversed(layers) if layer.seed is not None), seed)
    values: dict[str, Any] = {} if work.recipe is None else copy.deepcopy(read_recipe(work.recipe))
    for layer in layers:
        for key, value in layer.set.items():
            set_value(values, key, copy.deepcopy(value))
    if own_seed is not None and (work.command is None or "seed" in COMMANDS[work.command].options):
        values["seed"] = own_seed
    try:
        if work.recipe is not None:
            return make_recipe(values), None, {}
        command = str(work.command)
        COMMANDS[command].check(values)
        return None, command, values
    except RecipeError as error:
        raise RecipeError(f"step {name}: {error}") from error


def references(values: Any) -> Iterator[str]:
    """The names of steps that plain data refers to, in order, with repetitions."""
    if isinstance(values, str):
        yield from _REFERENCE.findall(values)
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from references(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from references(value)


def resolved(values: Any, places: Mapping[str, Any]) -> Any:
    """Plain data in which each `${NAME}` is replaced by `places[NAME]`."""
    if isinstance(values, str):
        return _REFERENCE.sub(lambda match: str(places[match[1]]), values)
    if isinstance(values, Mapping):
        return {key: resolved(value, places) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [resolved(value, places) for value in values]
    return values


def check_names(steps: Mapping[str, Step]) -> None:
    """Raises RecipeError for a step whose name can't stand in `${NAME}`."""
    for name in steps:
        if not _NAME.fullmatch(name):
            raise RecipeError(f"steps are named with letters, digits, - and _, got {name!r}")


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:_KEY_DIGITS]


__all__ = ["PlannedStep", "Step", "check_names", "plan_steps", "references", "resolved"]
