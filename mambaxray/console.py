"""What the commands share on the screen: one console for messages, one way to fail."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

SAFETY = "Research software, not a medical device: its reports must not be used for the care of patients."


def error_console() -> "Console":
    """The standard error, for messages and progress; the standard output is for results."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def failure(error: Exception) -> typer.Exit:
    """Tells a user's error in one line; raise what it returns: `raise failure(error) from error`."""
    error_console().print(f"error: {error}")
    return typer.Exit(2)


def quiet_transformers() -> None:
    """Keeps the remarks and bars of transformers and the Hub's client off the screen."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
