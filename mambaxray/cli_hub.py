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

    The models have random weights and write nonsense, but load and run like real ones. Each goes into a folder of
    its own with its processor and takes less than 200 kB beside the code.

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


_Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The model's folder, such as runs/1/model.", show_default=False)
]
_BaseModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name on the Hugging Face Hub of the model that this one needs (its language model, or the model below "
        "its adapter), when it was trained with a copy of it on this machine.",
    ),
]
_Examples = Annotated[
    bool, typer.Option(help="Let the model write reports for three drawn X-rays, which are shown in the card.")
]


def push(
    folder: _Folder,
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="Where to: your name and the model's.", show_default=False)
    ],
    base_model: _BaseModel = None,
    private: Annotated[bool, typer.Option("--private", help="Only you can see the repository, if it is new.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Branch to push to, made if it is new. Default: main.")
    ] = None,
    examples: _Examples = True,
    include_patient_text: Annotated[
        bool,
        typer.Option(
            "--include-patient-text",
            help="RISK: also publish what may hold text of patients' reports. Everybody who can see the repository can "
            "read it.",
        ),
    ] = False,
) -> None:
    """Publish a model on the Hugging Face Hub.

    It goes there with its code, so that it loads without this package, and with a card (see mambaxray card). Log in
    first: hf auth login. Checkpoints and other left-overs of training stay here.

    Examples:

    - mambaxray push runs/1/model you/chest-xray-reports --private

    - mambaxray push runs/1/model you/chest-xray-reports --base-model meta-llama/Llama-2-7b-chat-hf
    """
    from .hub import push_folder

    quiet_transformers()
    try:
        url = push_folder(
            folder,
            repository,
            base_model=base_model,
            private=private or None,
            revision=revision,
            include_patient_text=include_patient_text,
            examples=examples,
        )
    except (OSError, ValueError) as error:
        raise failure(error) from error
    error_console().print(f"{folder} is published: {url}")


def card(
    folder: _Folder,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The model's scores, as mambaxray evaluate --output wrote them. Default: scores.json in the model's "
            "folder or the one above.",
        ),
    ] = None,
    base_model: _BaseModel = None,
    examples: _Examples = True,
) -> None:
    """Write a model's card, or bring it up to date.

    FOLDER/README.md says what the model is, what it was trained on and how, its scores, limits, licences and whom to
    cite. What is not known is called "not measured". What you write into it yourself stays.

    Example:

    - mambaxray card runs/1/model --scores runs/1/scores.json
    """
    from .model_card import write_model_card

    quiet_transformers()
    try:
        file = write_model_card(folder, scores=scores, base_model=base_model, examples=examples)
    except (OSError, ValueError) as error:
        raise failure(error) from error
    error_console().print(f"The card is {file}")


def export(
    folder: _Folder,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="A new folder. Default: FOLDER-export beside the model."),
    ] = None,
    vllm: Annotated[
        bool, typer.Option("--vllm/--no-vllm", help="Refuse a model that vLLM's transformers backend can't serve.")
    ] = True,
) -> None:
    """Put a report generator with all its weights into one folder, for servers.

    The language model, where the model only refers to it, comes along, and adapters are merged. What may serve the
    folder, and how, is in docs/serving.md.

    Example:

    - mambaxray export runs/1/model --output served
    """
    quiet_transformers()
    from .export import export_model

    output = output or folder.resolve().with_name(f"{folder.resolve().name}-export")
    try:
        export_model(folder, output, for_vllm=vllm)
    except (OSError, ValueError) as error:
        raise failure(error) from error
    error_console().print(f"The model is in {output}")
