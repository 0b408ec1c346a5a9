"""What the recipes of all stages say: data, seed, arguments of the trainer."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import yaml
from pydantic import Field

from .recipe_sections import Section, refuse_unknown
from .recipe_text import RecipeError


class SourceSection(Section):
    """One of several sources.

    Attributes:
        source: what `mambaxray.data.load_studies` takes: `phantoms`, a folder, a data set's name.
        options: its options; for real data sets they choose the section that is the report.
        max_train: use only the first N training studies; all when null.
        max_validation: use only the first N validation studies; all when null.
        prefix: put before the ids of studies and patients, as `PREFIX/`, where those of several sources are alike and
            don't mean the same ones; nothing when null.
    """

    source: str
    options: dict[str, Any] = Field(default_factory=dict)
    max_train: int | None = None
    max_validation: int | None = None
    prefix: str | None = None


class DataSection(Section):
    """What is learned from.

    Attributes:
        source: what `mambaxray.data.load_studies` takes: `phantoms`, a folder, a data set's name.
        options: its options; for real data sets they choose the section that is the report.
        max_train: use only the first N training studies; all when null.
        max_validation: use only the first N validation studies; all when null.
        sources: several sources, each with options of its own, in place of all of these.
    """

    source: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    max_train: int | None = None
    max_validation: int | None = None
    sources: list[SourceSection] = Field(default_factory=list)

    def model_post_init(self, context: Any) -> None:
        for name in ("source", "options", "max_train", "max_validation") if self.sources else ():
            if getattr(self, name) != (default := _default(self, name)):
                raise RecipeError(
                    f"data.sources have their own {name}: give it there, and take the other back with "
                    f"data.{name}={'null' if default is None else default}"
                )

    @property
    def all_sources(self) -> list[SourceSection]:
        """The sources, however many; none when no source is named."""
        if self.sources or self.source is None:
            return self.sources
        fields = ("options", "max_train", "max_validation")
        return [SourceSection(source=self.source, **{name: getattr(self, name) for name in fields})]


class Recipe(Section):
    """What the recipes of all stages say.

    Attributes:
        stage: which kind of training this is; decides what else the recipe can say.
        plugins: modules that are imported before the recipe is used, such as one that registers a system of its own
            (`register_family`). They must be importable: installed, or beside the working folder's files.
        description: paper and data set, in words.
        seed: seed of everything random: initial weights, order of studies, phantoms.
        data: what is learned from.
        training: arguments of transformers' `TrainingArguments`.
        early_stopping_patience: stop when the best metric has not improved for this many evaluations; never when null.
    """

    stage: str
    plugins: list[str] = Field(default_factory=list)
    description: str = ""
    seed: int = 0
    data: DataSection = Field(default_factory=DataSection)
    training: dict[str, Any] = Field(default_factory=dict)
    early_stopping_patience: int | None = None

    # The run decides these: the folder, and one seed for everything.
    _RESERVED: ClassVar[tuple[str, ...]] = ("output_dir", "seed", "data_seed", "remove_unused_columns")

    def model_post_init(self, context: Any) -> None:
        arguments = self.arguments_class()
        known = [f.name for f in fields(arguments) if f.init and f.name not in self._RESERVED]
        refuse_unknown(self.training, known, "training")
        _check_numbers(self.training, arguments)
        if self.early_stopping_patience is not None:
            if self.early_stopping_patience < 1:
                raise RecipeError(f"early_stopping_patience must be positive, got {self.early_stopping_patience}")
            if not self.training.get("metric_for_best_model"):
                raise RecipeError("early_stopping_patience needs training.metric_for_best_model")
            if not self.training.get("load_best_model_at_end"):
                raise RecipeError("early_stopping_patience needs training.load_best_model_at_end: true")

    def arguments_class(self) -> type[Any]:
        """The class of the trainer's arguments, whose fields `training` can set."""
        from transformers import TrainingArguments

        return TrainingArguments

    def fixed_arguments(self) -> dict[str, Any]:
        """The arguments that other keys of the recipe decide."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, every default written out."""
        return self.model_dump()

    def to_yaml(self) -> str:
        """The resolved recipe; `load_recipe` reads it back as it is."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=100)


def check_parts(section: Any, *names: str) -> None:
    """A model is either taken whole from a checkpoint or put together from all of its parts."""
    given = [name for name in names if getattr(section, name) is not None]
    if section.checkpoint is not None and given:
        raise RecipeError(
            f"model.checkpoint is a whole model, so model.{given[0]} can't be given too; take it back with "
            f"model.{given[0]}=null"
        )
    if section.checkpoint is None and len(given) < len(names):
        both = "both " if len(names) > 1 else ""
        raise RecipeError(f"give model.checkpoint, or {both}{' and '.join(f'model.{name}' for name in names)}")
    for name in given:
        value = getattr(section, name)
        if isinstance(value, dict) and "model_type" not in value:
            raise RecipeError(f"model.{name} is a configuration without model_type")


def check_checkpoint(section: Any, *names: str) -> None:
    """What a whole model has settled can't be given beside it: nothing a recipe says is passed over."""
    if section.checkpoint is None:
        return
    for name in names:
        if getattr(section, name) != (default := _default(section, name)):
            raise RecipeError(
                f"model.checkpoint is a whole model, which model.{name} can't change; leave it out, or take it back "
                f"with model.{name}={'null' if default is None else default}"
            )


def _default(section: Section, name: str) -> Any:
    return type(section).model_fields[name].get_default(call_default_factory=True)


def _check_numbers(training: Mapping[str, Any], arguments: type[Any]) -> None:
    """Refuses words where `arguments` has a number, which it would take until it calculates with them."""
    for argument in fields(arguments):
        value = training.get(argument.name)
        if isinstance(value, str) and type(argument.default) in (int, float):
            raise RecipeError(f"training.{argument.name} must be a number, got {value!r}")
    for name in ("max_steps", "num_train_epochs"):
        value = training.get(name, -1)
        if isinstance(value, int | float) and value <= 0 and value != -1:
            raise RecipeError(f"training.{name} must be positive, or -1 for no limit, got {value!r}")


__all__ = ["DataSection", "Recipe", "SourceSection", "check_checkpoint", "check_parts"]
