"""What the commands share on the screen: one console for messages, one way to fail."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

SAFETY = "Research software, not a medical device: its reports must not be used for the care of patients."


def error_console() -> "Console":
    """The standard error, for messages and progress; the standard output is for results."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def refuse_inputs(output: Path | None, *inputs: Path | None) -> None:
    """Refuses an output that would overwrite what it is made from.

    Raises:
        ValueError: the output is one of the inputs.
    """
    if output is not None and any(file is not None and file.resolve() == output.resolve() for file in inputs):
        raise ValueError(f"{output} is an input of this command and would be overwritten: choose another output")


def failure(error: Exception) -> typer.Exit:
    """Prints a user's error in one line and returns the exit to raise: `raise failure(error) from error`."""
    error_console().print(f"error: {error}")
    return typer.Exit(2)


def quiet_transformers() -> None:
    """Silences warnings and progress bars of transformers and the Hub's client."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def study_progress(console: "Console", **options: Any) -> "Progress":
    """A bar that counts studies, shown on a terminal only; `options` are those of rich's `Progress`."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        **options,
    )


def result_console() -> "Console":
    """The standard output for tables of results, wide enough for them when it goes into a file."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 200
    return console


def print_unavailable(console: "Console", result: Mapping[str, Any]) -> None:
    """Prints what could not be scored and why, one line each."""
    for name, reason in result["unavailable"].items():
        console.print(f"{name}: unavailable: {reason}", soft_wrap=True)
