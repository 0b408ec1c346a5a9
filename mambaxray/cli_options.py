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
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse DICOM files about which there are doubts: no chest radiograph, not for presentation, unusable "
        "windows. Without it they are read with a warning.",
    ),
]
AllowBlankOption = Annotated[
    bool, typer.Option("--allow-blank", help="Read images in which there is nothing to see, which else are refused.")
]

__all__ = ["AllowBlankOption", "DeviceOption", "PromptOption", "StrictOption"]
