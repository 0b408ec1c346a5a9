"""The commands that can be steps of a benchmark, beside recipes: what builds something out of a trained model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recipe import RecipeError


@dataclass(frozen=True)
class BenchCommand:
    """A command as a step.

    Attributes:
        build: writes its result to a folder, with options; goes on where it was interrupted.
        needed: options that must be given.
        optional: options that can be given.
        folders: those options that name the folder of a model or memory, whose content counts.
    """

    build: Callable[[Mapping[str, Any], Path], None]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def check(self, options: Mapping[str, Any]) -> None:
        """Raises RecipeError for an option that the command does not have, or lacks."""
        if unknown := [name for name in options if name not in (*self.needed, *self.optional)]:
            raise RecipeError(f"unknown option {unknown[0]}; known: {', '.join((*self.needed, *self.optional))}")
        if missing := [name for name in self.needed if name not in options]:
            raise RecipeError(f"lacks the option {', '.join(missing)}")


COMMANDS: dict[str, BenchCommand] = {}
"""The commands by the name that benches have for them."""

__all__ = ["COMMANDS", "BenchCommand"]
