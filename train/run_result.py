"""What came out of a training run, as its folder keeps it. Reading it loads neither torch nor transformers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recipe import read_recipe, with_defaults
from .recipe_text import RecipeError
from .run_inputs import changed_inputs

RECIPE_FILE, RESULT_FILE, ENVIRONMENT_FILE = "recipe.yaml", "result.json", "environment.json"


@dataclass(frozen=True)
class RunResult:
    """What came out of a run.

    Attributes:
        model_dir: folder of the trained model, with its processor.
        metrics: the last evaluation, `eval_loss` and others; of the best checkpoint where the recipe goes back to it.
            Empty without validation data.
        history: the Trainer's log, one dict per entry, with `step`.
        steps: optimizer steps in all.
        seconds: time of training in the process that finished it.
        trained_parameters: number of parameters that were trained.
        total_parameters: number of all parameters.
    """

    model_dir: Path
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    steps: int
    seconds: float
    trained_parameters: int
    total_parameters: int


def read_result(output: str | Path) -> RunResult:
    """The result of a finished run.

    Raises:
        FileNotFoundError: the run in this folder is not finished.
    """
    values = json.loads((Path(output) / RESULT_FILE).read_text(encoding="utf-8"))
    return RunResult(**values | {"model_dir": Path(output) / "model"})


def finished_result(values: Mapping[str, Any], output: str | Path) -> RunResult | None:
    """The result of a recipe that was finished in this folder, None where it was not, or with other data or models.

    Args:
        values: the recipe's plain data, which need not have been checked: it equals a recipe that was.
        output: the run's folder.
    """
    output = Path(output)
    try:
        same = with_defaults(values) == read_recipe(output / RECIPE_FILE)
        environment = json.loads((output / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
        return read_result(output) if same and not changed_inputs(environment.get("inputs", {}), values) else None
    except (OSError, TypeError, ValueError, RecipeError):
        # Nothing to rely on: the run itself reports what is wrong.
        return None


__all__ = ["ENVIRONMENT_FILE", "RECIPE_FILE", "RESULT_FILE", "RunResult", "finished_result", "read_result"]
