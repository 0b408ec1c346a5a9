"""Options that several commands have."""

from typing import Annotated

import typer

PromptOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Instruction to the model. Default: the one that it was trained with."),
]
DeviceOption = Annotated[
    str,
    typer.Option(metavar="DEVICE", help="Where to compute: auto (a GPU if there is one), cpu, cuda, cuda:1 ..."),
]

__all__ = ["DeviceOption", "PromptOption"]
