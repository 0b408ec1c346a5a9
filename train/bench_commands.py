"""The commands that can be steps of a benchmark, beside recipes: what builds something out of a trained model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recipe_text import RecipeError

_VISUAL = ("cam", "threshold", "regions", "per_disease")
_REPORT = {
    "reports": "reports",
    "unit": "unit",
    "pooling": "pooling",
    "report_dtype": "dtype",
    "max_report_length": "max_length",
}
"""Options of the report memory, and what `ReportMemoryOptions` calls them."""
_BUILD = ("leave_out_shared_patients", "batch_size", "processes", "devices")


@dataclass(frozen=True)
class BenchCommand:
    """A command as a step.

    Attributes:
        build: writes its result to a folder, with options; goes on where it was interrupted. Its errors say what is
            wrong with them.
        needed: options that must be given.
        optional: options that can be given.
        folders: those options that name a model, whose content counts where it is a folder.
    """

    build: Callable[[Mapping[str, Any], Path], None]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    folders: tuple[str, ...] = ("model",)

    @property
    def options(self) -> tuple[str, ...]:
        """All options."""
        return (*self.needed, *self.optional)

    def check(self, options: Mapping[str, Any]) -> None:
        """Raises RecipeError for an option that the command does not have, or lacks."""
        if unknown := [name for name in options if name not in self.options]:
            raise RecipeError(f"unknown option {unknown[0]}; known: {', '.join(self.options)}")
        if missing := [name for name in self.needed if name not in options]:
            raise RecipeError(f"lacks the option {', '.join(missing)}")


def _memories(options: Mapping[str, Any], output: Path) -> None:
    from .build_memories import build_am_mrg_memories
    from .report_memory import ReportMemoryOptions
    from .visual_memory import VisualMemoryOptions

    own = ("kinds", "report_encoder", "report_encoder_revision", "with_reports", "seed", *_BUILD)
    build_am_mrg_memories(
        output,
        options["model"],
        options["dataset"],
        data_options=options.get("dataset_options"),
        visual=VisualMemoryOptions(**_given(options, {name: name for name in _VISUAL})),
        report=ReportMemoryOptions(**_given(options, _REPORT)),
        **_given(options, {name: name for name in own}),
    )


def _retrieval(options: Mapping[str, Any], output: Path) -> None:
    from .build_memories import build_retrieval_memory

    build_retrieval_memory(
        output,
        options["model"],
        options["dataset"],
        data_options=options.get("dataset_options"),
        **_given(options, {name: name for name in _BUILD}),
    )


def _part(options: Mapping[str, Any], output: Path) -> None:
    from transformers import AutoModel, AutoProcessor

    model, name = AutoModel.from_pretrained(options["model"]), options["part"]
    part = getattr(model, name, None)
    if part is None or not hasattr(part, "save_pretrained"):
        parts = ", ".join(each for each, child in model.named_children() if hasattr(child, "save_pretrained"))
        raise ValueError(f"{options['model']} has no part {name!r} that can be saved; it has {parts}")
    part.save_pretrained(output)
    processor = AutoProcessor.from_pretrained(options["model"])
    for each in ("tokenizer", "image_processor"):
        if hasattr(processor, each):
            getattr(processor, each).save_pretrained(output)


def _phantoms(options: Mapping[str, Any], output: Path) -> None:
    from ..data.phantoms import make_phantoms

    make_phantoms(**options).save_to_disk(output)


def _given(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Those options that are given, by the names of the function's arguments."""
    return {argument: options[name] for name, argument in names.items() if name in options}


COMMANDS: dict[str, BenchCommand] = {
    "memory build": BenchCommand(
        _memories,
        needed=("model", "dataset"),
        optional=(
            *("dataset_options", "kinds", *_VISUAL, *_REPORT, "report_encoder", "report_encoder_revision"),
            *("with_reports", "seed", *_BUILD),
        ),
        folders=("model", "report_encoder"),
    ),
    "retrieval build": BenchCommand(_retrieval, needed=("model", "dataset"), optional=("dataset_options", *_BUILD)),
    "part": BenchCommand(_part, needed=("model", "part")),
    "phantoms": BenchCommand(_phantoms, needed=("num_studies",), optional=("image_size",), folders=()),
}
"""The commands by the name that benches have for them:

- `memory build`, `retrieval build`: with the options of the command line, such as `per_disease` or `report_encoder`;
  `kinds` and `dataset_options` hold what is repeated there.
- `part`: saves one part of a model (`language_model`, `vision_encoder`, `text_encoder`), with its tokenizer, as a model
  of its own.
- `phantoms`: draws phantoms, for a `data.source` that all cells share.
"""

__all__ = ["COMMANDS", "BenchCommand"]
