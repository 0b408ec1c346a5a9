"""The commands that make and publish repositories of models."""

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import SeedOption
from .console import error_console, failure, quiet_transformers


def tiny(
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for the models.", show_default=False)],
    seed: SeedOption = 0,
) -> None:
    """Write a tiny model of every system for tests.

    The models have random weights and generate nonsense, but load and run like real ones. Each is saved to a folder of
    its own with its processor and takes less than 200 kB beside the code.

    \b
    Example:
      mambaxray tiny models/
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
    Path, typer.Argument(metavar="FOLDER", help="Model folder, such as runs/1/model.", show_default=False)
]
_BaseModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Hub name of the model that this one needs (its language model, or the base model of its adapter), if it "
        "was trained with a local copy.",
    ),
]
_Examples = Annotated[bool, typer.Option(help="Generate reports for three drawn X-rays and show them in the card.")]


def push(
    folder: _Folder,
    repository: Annotated[
        str,
        typer.Argument(
            metavar="REPOSITORY", help="Repository on the Hub, such as you/chest-xray-reports.", show_default=False
        ),
    ],
    base_model: _BaseModel = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Branch to push to, created if necessary. Default: main.")
    ] = None,
    examples: _Examples = True,
    include_patient_text: Annotated[
        bool,
        typer.Option(
            "--include-patient-text",
            help="RISK: also publish files that may contain text of patients' reports, readable by everybody who can "
            "see the repository.",
        ),
    ] = False,
) -> None:
    """Publish a model on the Hugging Face Hub.

    The repository gets the model with its code, so that it loads without this package, and a model card (see
    mambaxray card). Log in first: hf auth login. Checkpoints and other files of training are not uploaded.

    \b
    Examples:
      mambaxray push runs/1/model you/chest-xray-reports --private
      mambaxray push runs/1/model you/chest-xray-reports \\
        --base-model meta-llama/Llama-2-7b-chat-hf
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
            help="Scores of the model, written by mambaxray evaluate --output. Default: scores.json in the model's "
            "folder or its parent.",
        ),
    ] = None,
    base_model: _BaseModel = None,
    examples: _Examples = True,
) -> None:
    """Write or update a model card.

    FOLDER/README.md states what the model is, what it was trained on and how, its scores, limits, licences and
    citations. Unknown values are listed as "not recorded". Text that you add yourself is kept.

    \b
    Example:
      mambaxray card runs/1/model --scores runs/1/scores.json
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
        typer.Option("--output", "-o", metavar="FOLDER", help="New folder. Default: FOLDER-export beside the model."),
    ] = None,
    vllm: Annotated[
        bool, typer.Option("--vllm/--no-vllm", help="Check that vLLM's transformers backend can serve it.")
    ] = True,
) -> None:
    """Export a report generator with all its weights to one folder for servers.

    A language model that is saved by reference is included, and adapters are merged. docs/serving.md lists the servers
    and how to start them.

    \b
    Example:
      mambaxray export runs/1/model --output served
    """
    quiet_transformers()
    from .export import export_model

    output = output or folder.resolve().with_name(f"{folder.resolve().name}-export")
    try:
        export_model(folder, output, for_vllm=vllm)
    except (OSError, ValueError) as error:
        raise failure(error) from error
    error_console().print(f"model saved to {output}")
