"""The commands that make and publish repositories of models."""

from pathlib import Path
from typing import Annotated

import typer

from .console import error_console, failure, quiet_transformers


def tiny(
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for the models.", show_default=False)],
    seed: Annotated[int, typer.Option(metavar="N", help="Start of the random weights.")] = 0,
) -> None:
    """Write a tiny model of every system, to test programs with.

    The models have random weights and write nonsense, but load and run like real ones. Together they take less than
    2 MB. Each goes into a folder of its own with its processor.

    Example:

    - mambaxray tiny models/
    """
    from .tiny_models import make_tiny_models

    quiet_transformers()
    try:
        made = make_tiny_models(output, seed)
    except (OSError, ValueError) as error:
        raise failure(error) from error
    for path in made:
        error_console().print(str(path))
