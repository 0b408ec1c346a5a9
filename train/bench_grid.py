"""The grid of a benchmark: which cells there are, and the recipe of each.

A bench file names a base recipe and, on up to five axes, choices that replace values of it. A cell is one choice from
each axis. Its recipe can refer to steps that run before it, see `bench_steps`. What a bench file says is described at
`Bench`; `benches/` holds some.
"""

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field

from ..evaluation.published import load_published
from ..evaluation.radeval_metrics import RADEVAL_METRICS
from ..evaluation.score_tables import wanted_scores
from .bench_steps import PlannedStep, Step, check_names, plan_steps, references
from .recipe import make_recipe, read_recipe
from .recipe_finetune import FinetuneRecipe
from .recipe_sections import Section, build_section
from .recipe_text import RecipeError, names_in, read_named, set_value

_BENCHES = files(__package__) / "benches"

LARGEST_BATCH = 256
"""Where `test.batch_size: largest` begins."""

AXES: tuple[str, ...] = ("dataset", "vision_encoder", "decoder", "variant", "checkpoint")
"""The axes of CXPMRG-Bench, in the order in which their choices replace values."""


MORE_COLUMNS: tuple[str, ...] = (
    *("Bleu_1", "Bleu_2", "Bleu_3", "RadGraph_F1", "BERTScore", "RadCliQ", "epochs", "loss_gap", "copied"),
    "copied_by_chance",
)
"""The columns that a bench can have beside those of CXPMRG-Bench."""


class Choice(Section):
    """One choice on an axis.

    Attributes:
        set: values that replace those of the recipe, the keys with dots: `model.vision_encoder: path/or/hub-id`.
        recipe: another recipe to start from, by name or file.
        train: false to evaluate the recipe's `model.checkpoint` as it is.
        predictions: somebody's reports of the test split, in place of a model of ours: a file as
            `mambaxray evaluate` takes it.
        only: combine this choice with the named choices of other axes alone: `{dataset: [CheXpert Plus]}`.
        steps: what this choice changes of the bench's steps, by their names.
    """

    set: dict[str, Any] = Field(default_factory=dict)
    recipe: str | None = None
    train: bool | None = None
    predictions: str | None = None
    only: dict[str, Any] = Field(default_factory=dict)
    steps: dict[str, Step] = Field(default_factory=dict)


class TestSection(Section):
    """How the test split is evaluated.

    Attributes:
        max_studies: use only the first N test studies; all when null.
        batch_size: studies per process and step; `largest` for what fits in the device's memory, as for the time column
            of CXPMRG-Bench: `LARGEST_BATCH`, made smaller by a tenth as often as it does not fit.
        num_workers: processes that read images ahead, per process.
        metrics: families or scores as `evaluate_reports` names them; all but radeval's when null.
        external_python: Python of an environment with radeval, for its metrics.
        evidence: keep with each report what it rests on, where the model's system gives that.
    """

    max_studies: int | None = None
    batch_size: int | str = 8
    num_workers: int = 0
    metrics: list[str] | None = None
    external_python: str | None = None
    evidence: bool = False

    def model_post_init(self, context: Any) -> None:
        if isinstance(self.batch_size, str) and self.batch_size != "largest":
            raise RecipeError(f"test.batch_size must be a number or largest, got {self.batch_size!r}")
        for name in ("max_studies", "batch_size"):
            if isinstance(value := getattr(self, name), int) and value < 1:
                raise RecipeError(f"test.{name} must be positive, got {value}")
        try:
            wanted_scores(self.metrics, RADEVAL_METRICS)
        except ValueError as error:
            raise RecipeError(f"test.metrics: {error}") from error


class Bench(Section):
    """What a bench file says.

    Attributes:
        recipe: the recipe that all cells start from, by name or file; of the stage `finetune`.
        description: what is compared, in words.
        set: values that replace those of the recipe in all cells.
        seeds: every cell is trained once with each of these seeds, and the table shows the mean with its interval; with
            the recipe's own seed when empty.
        processes: how many processes train and evaluate a cell together: one per GPU.
        published: which of the papers' rows stand beside ours: `own` (each paper's own system), `all` or `none`. A data
            set's choice is called as in the papers ("CheXpert Plus", "MIMIC-CXR", "IU X-ray") to have such rows. Or the
            tables whose rows stand there, whatever their data set: `{AM-MRG: [IV]}`.
        columns: further columns of the table: `Bleu_1` to `Bleu_3`; `RadGraph_F1`, `BERTScore`, `RadCliQ`, which need
            radeval; `epochs` up to the best evaluation, and `loss_gap`, validation less training loss there; `copied`,
            the share of a report that comes from its exemplar, and `copied_by_chance`, which need `test.evidence`; and
            what the Trainer logs at its last evaluation, such as `eval_loss` or `eval_text_to_vision_shuffled`.
        test: how the test split is evaluated.
        steps: what can run before a cell, by name. The cells that write `${NAME}` in place of a folder need the step,
            and those steps that it needs itself.
        dataset: choices of the first axis, by name; and so on for the other axes.
    """

    recipe: str
    description: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default_factory=list)
    processes: int = 1
    published: str | dict[str, list[str]] = "own"
    columns: list[str] = Field(default_factory=list)
    test: TestSection = Field(default_factory=TestSection)
    steps: dict[str, Step] = Field(default_factory=dict)
    dataset: dict[str, Choice] = Field(default_factory=dict)
    vision_encoder: dict[str, Choice] = Field(default_factory=dict)
    decoder: dict[str, Choice] = Field(default_factory=dict)
    variant: dict[str, Choice] = Field(default_factory=dict)
    checkpoint: dict[str, Choice] = Field(default_factory=dict)

    def model_post_init(self, context: Any) -> None:
        if self.processes < 1:
            raise RecipeError(f"processes must be positive, got {self.processes}")
        if any(isinstance(seed, bool) or not isinstance(seed, int) for seed in self.seeds) or len(
            set(self.seeds)
        ) < len(self.seeds):
            raise RecipeError(f"seeds must be different integers, got {self.seeds}")
        if self.processes > 1 and self.test.batch_size == "largest":
            # One process out of memory would leave the others waiting for it.
            raise RecipeError("test.batch_size: largest needs processes: 1")
        self._check_choices()
        if unknown := [name for name in self.columns if name not in MORE_COLUMNS and not name.startswith("eval_")]:
            raise RecipeError(f"columns can be {', '.join(MORE_COLUMNS)}, or eval_ and a name, got {unknown[0]!r}")
        check_names(self.steps)
        self._check_published()

    def _check_published(self) -> None:
        if isinstance(self.published, str):
            if self.published not in ("own", "all", "none"):
                raise RecipeError(f"published must be own, all or none, or tables by paper, got {self.published!r}")
            return
        printed = {(row.paper, row.table) for row in load_published()}
        for paper, tables in self.published.items():
            if unknown := [table for table in tables if (paper, table) not in printed]:
                known = ", ".join(f"{p} {t}" for p, t in sorted(printed))
                raise RecipeError(f"published names table {unknown[0]} of {paper!r}; there are {known}")

    def _check_choices(self) -> None:
        for axis, choices in ((axis, getattr(self, axis)) for axis in AXES):
            for name, choice in choices.items():
                for other, names in choice.only.items():
                    known = getattr(self, other, {}) if other in AXES and other != axis else None
                    if known is None or not isinstance(names, list) or not names:
                        axes = ", ".join(a for a in AXES if a != axis)
                        raise RecipeError(f"{axis}.{name}.only maps {axes} to lists of choices, got {other}: {names!r}")
                    if unknown := [n for n in names if n not in known]:
                        raise RecipeError(
                            f"{axis}.{name}.only names {unknown[0]!r}; {other} has {', '.join(known) or 'no choices'}"
                        )
                if unknown := [step for step in choice.steps if step not in self.steps]:
                    known_steps = ", ".join(self.steps) or "no steps"
                    raise RecipeError(f"{axis}.{name}.steps names {unknown[0]!r}; the bench has {known_steps}")

    def _belong_together(self, names: Mapping[str, str]) -> bool:
        choices = [getattr(self, axis)[name] for axis, name in names.items() if name]
        return all(names[other] in allowed for choice in choices for other, allowed in choice.only.items())

    def cells(self) -> list["Cell"]:
        """All cells, the last axis changing fastest, those of one cell's seeds together.

        Raises:
            RecipeError: a choice sets what its recipe has not, or two cells would share a folder.
            FileNotFoundError: a recipe that does not exist.
        """
        axes = [getattr(self, axis) or {"": Choice()} for axis in AXES]
        cells = [
            self._cell(names, seed)
            for chosen in itertools.product(*axes)
            if self._belong_together(names := dict(zip(AXES, chosen, strict=True)))
            for seed in self.seeds or (None,)
        ]
        if not cells:
            raise RecipeError("no cell is left: what the choices say under `only` excludes all combinations")
        folders = [cell.folder for cell in cells]
        if twice := {str(folder) for folder in folders if folders.count(folder) > 1}:
            raise RecipeError(f"names of choices differ in signs only, so cells would share {', '.join(sorted(twice))}")
        return cells

    def _cell(self, names: dict[str, str], seed: int | None) -> "Cell":
        choices = [getattr(self, axis)[name] for axis, name in names.items() if name]
        recipes = [choice.recipe for choice in choices if choice.recipe is not None]
        values = copy.deepcopy(read_recipe(recipes[-1] if recipes else self.recipe))
        for replaced in (self.set, *(choice.set for choice in choices)):
            for key, value in replaced.items():
                set_value(values, key, copy.deepcopy(value))
        if seed is not None:
            values["seed"] = seed
        where = ", ".join(name for name in names.values() if name)
        try:
            recipe = make_recipe(values)
        except RecipeError as error:
            raise RecipeError(f"cell {where}: {error}") from error
        if not isinstance(recipe, FinetuneRecipe):
            raise RecipeError(f"cell {where}: its recipe is of the stage {recipe.stage}, but a cell writes reports")
        predictions = next((choice.predictions for choice in reversed(choices) if choice.predictions is not None), None)
        train = next((choice.train for choice in reversed(choices) if choice.train is not None), predictions is None)
        if predictions is not None and train:
            raise RecipeError(f"cell {where}: predictions and train: true exclude each other")
        if predictions is None and not train and recipe.model.checkpoint is None:
            raise RecipeError(f"cell {where}: train: false needs model.checkpoint, the model to evaluate")
        layers = {
            name: [step, *(choice.steps[name] for choice in choices if name in choice.steps)]
            for name, step in self.steps.items()
        }
        wanted = [] if predictions is not None else references(recipe.to_dict())
        try:
            steps = plan_steps(list(wanted), layers, seed)
        except RecipeError as error:
            raise RecipeError(f"cell {where}: {error}") from error
        return Cell(names, recipe, train, seed, predictions, steps)


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: a choice from each axis, and what follows from them.

    Attributes:
        names: the choice's name for each of `AXES`, empty where the bench does not have the axis.
        recipe: what is trained on what.
        train: whether it is trained, or evaluated as it is.
        seed: the seed that stands for this cell among those of the bench; None where the bench has none.
        predictions: a file of reports to score, in place of a model; None for a model.
        steps: what runs before it, each behind all that it needs; `${NAME}` in the recipe stands for their results.
    """

    names: Mapping[str, str]
    recipe: FinetuneRecipe
    train: bool
    seed: int | None = None
    predictions: str | None = None
    steps: tuple[PlannedStep, ...] = ()

    @property
    def title(self) -> str:
        """The cell in a few words."""
        title = " / ".join(name for name in self.names.values() if name) or "the only cell"
        return title if self.seed is None else f"{title}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where the cell lies within the bench's folder."""
        parts = [_slug(name) for name in self.names.values() if name] or ["cell"]
        return Path("cells", *parts, *([] if self.seed is None else [f"seed-{self.seed}"]))


def load_bench(bench: str | Path) -> Bench:
    """Reads and checks a bench file.

    Args:
        bench: name of a bench that comes with the package, or path of a YAML file. Its key `extends` names another
            bench, whose keys it has where it does not say them itself.

    Raises:
        FileNotFoundError: neither a file nor a name that is known.
        RecipeError: the file is no YAML, or a key or value is not one that a bench has.
    """
    return make_bench(_read(bench, ()))


def list_benches() -> dict[str, str]:
    """The benches that come with the package, by name, and what each compares."""
    return {name: str(_read(name, ()).get("description", "")) for name in names_in(_BENCHES)}


def _read(bench: str | Path, path: tuple[str, ...]) -> dict[str, Any]:
    """A bench's plain data; `path` are the benches that extend it."""
    name = str(bench)
    values = read_named(name, _BENCHES, "bench")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or base in (name, *path):
        raise RecipeError(f"{name}: extends must name another bench, got {base!r}")
    return _read(base, (*path, name)) | values


def make_bench(values: Mapping[str, Any]) -> Bench:
    """Checks plain data and makes a bench of it; errors as for `load_bench`."""
    values = dict(values)
    if "steps" in values:
        values["steps"] = _steps(values["steps"], "steps")
    for axis in AXES:
        if axis in values:
            if not isinstance(values[axis], Mapping) or not values[axis]:
                raise RecipeError(f"{axis} must hold choices by name, got {values[axis]!r}")
            values[axis] = {str(name): _choice(choice or {}, f"{axis}.{name}") for name, choice in values[axis].items()}
    return build_section(Bench, values, "")


def _choice(values: Any, where: str) -> Choice:
    if isinstance(values, Mapping) and "steps" in values:
        values = {**values, "steps": _steps(values["steps"], f"{where}.steps")}
    return build_section(Choice, values, where)


def _steps(values: Any, where: str) -> dict[str, Step]:
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where} must hold steps by name, got {values!r}")
    return {str(name): build_section(Step, step or {}, f"{where}.{name}") for name, step in values.items()}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "cell"


__all__ = [
    "AXES",
    "LARGEST_BATCH",
    "MORE_COLUMNS",
    "Bench",
    "Cell",
    "Choice",
    "TestSection",
    "load_bench",
    "make_bench",
]
