"""Options that several commands have."""

from typing import Annotated

import typer

MODEL_HELP = "Model: a folder, or a name on the Hugging Face Hub."
MAX_NEW_TOKENS_HELP = "Maximum length of a report in tokens. Default: the model's own, or 256."

PromptOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Instruction to the model. Default: the one it was trained with."),
]
DeviceOption = Annotated[
    str,
    typer.Option(metavar="DEVICE", help="Device: auto (a GPU if available), cpu, cuda, cuda:1 ..."),
]
SeedOption = Annotated[int, typer.Option(metavar="N", help="Random seed.")]
DatasetOptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset-option",
        metavar="KEY=VALUE",
        help="Option of the data set, such as num_studies=100 for phantoms; can be repeated.",
        show_default=False,
    ),
]
MemoryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--memory",
        metavar="NAME=FOLDER",
        help="Memory of training studies for a model that comes without, such as visual=memories/mimic/visual; can be "
        "repeated. It must be of the same models as the one that the model was trained with.",
        show_default=False,
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse questionable DICOM files (not a chest radiograph, not for presentation, unusable windows) instead "
        "of reading them with a warning.",
    ),
]
AllowBlankOption = Annotated[
    bool, typer.Option("--allow-blank", help="Accept images that show nothing, which are refused by default.")
]

__all__ = [
    "MAX_NEW_TOKENS_HELP",
    "MODEL_HELP",
    "AllowBlankOption",
    "DatasetOptionOption",
    "DeviceOption",
    "MemoryOption",
    "PromptOption",
    "SeedOption",
    "StrictOption",
]
