"""Recipes: everything that decides a training run, in one YAML file.

A recipe is a tree of pydantic models, one for each stage (`recipe_pretrain.py` and its neighbours). Its file may leave
out what has a default; a key that does not exist is an error that names the nearest one. Values can be replaced by
overrides such as `training.learning_rate=1e-4`. Reading a recipe loads neither torch nor transformers; checking one
does.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from .recipe_align import AlignRecipe
from .recipe_base import Recipe
from .recipe_classify import ClassifyRecipe
from .recipe_contrast import ContrastRecipe
from .recipe_finetune import FinetuneRecipe
from .recipe_pretrain import PretrainRecipe
from .recipe_sections import build_section, fill_defaults
from .recipe_text import RecipeError, names_in, override_value, read_named

_RECIPES = files(__package__) / "recipes"


class Stage(NamedTuple):
    """A stage of training.

    Attributes:
        recipe: the class of its recipes.
        module: the module of this package whose `make_trainer(recipe, arguments, output)` trains it.
    """

    recipe: type[Recipe]
    module: str


STAGES: dict[str, Stage] = {
    "pretrain": Stage(PretrainRecipe, ".pretrain"),
    "contrast": Stage(ContrastRecipe, ".contrast"),
    "classify": Stage(ClassifyRecipe, ".classify"),
    "finetune": Stage(FinetuneRecipe, ".finetune"),
    "align": Stage(AlignRecipe, ".align"),
}
"""The stages by the name that recipes and the command line have for them."""


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return names_in(_RECIPES)


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        recipe: name of a recipe of this package, or path of a YAML file.
        overrides: replacements `key=value`, the key with dots, the value in YAML: `training.learning_rate=1e-4`,
            `model.freeze=[language_model]`, `data.source=path/to/folder`.

    Raises:
        FileNotFoundError: neither a file nor a name that is known.
        RecipeError: the file is no YAML, or a key or value is not one that the stage has.
    """
    return make_recipe(read_recipe(recipe, overrides))


def read_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe's plain data, as its file and the overrides have it; arguments and errors as for `load_recipe`."""
    values = read_named(str(recipe), _RECIPES, "recipe")
    for override in overrides:
        override_value(values, override)
    return values


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain data with every default written out, as `Recipe.to_dict` has it, but unchecked."""
    return fill_defaults(STAGES[values["stage"]].recipe, values)


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """Checks plain data and makes the recipe of its stage.

    Raises:
        RecipeError: a key or value is not one that the stage has.
    """
    stage = values.get("stage")
    if not isinstance(stage, str) or stage not in STAGES:
        raise RecipeError(f"stage is {stage!r}; it must be one of {', '.join(STAGES)}")
    return build_section(STAGES[stage].recipe, values, "")


__all__ = [
    "STAGES",
    "RecipeError",
    "Stage",
    "list_recipes",
    "load_recipe",
    "make_recipe",
    "read_recipe",
    "with_defaults",
]
