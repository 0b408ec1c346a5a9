"""The command that converts the authors' checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from .console import error_console, failure


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="File that the authors released (.pth).", show_default=False)
    ],
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            "-s",
            metavar="STAGE",
            help="What the checkpoint is of: pretrain (images alone), contrast (images and reports), finetune "
            "(report generation), emrrg (report generation with hybrid layers) or vmamba (a classifier of VMamba's "
            "authors, of which the image encoder is taken).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the model.")],
    text_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Folder, or name on the Hugging Face Hub, of the language model (finetune, emrrg; needed) or text "
            "encoder (contrast) that it was trained with: the checkpoint does not hold it whole.",
        ),
    ] = None,
    vision_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Folder or Hub name of the vision encoder, for a finetune or emrrg checkpoint that was trained with "
            "a frozen one: the converted contrast checkpoint, for example.",
        ),
    ] = None,
) -> None:
    """Turn a checkpoint that the authors of MambaXray-VL or VMamba released into a model for this package.

    The folder can then be given to every command as --model, and to from_pretrained. Nothing in the file is run: it is
    read as numbers and settings only. A file with unknown or missing weights is refused, with their names.

    Examples:

    - mambaxray convert pretrain.pth --stage pretrain --output models/stage1

    - mambaxray convert clip.pth --stage contrast --text-model emilyalsentzer/Bio_ClinicalBERT --output models/stage2

    - mambaxray convert delta.pth --stage finetune --text-model meta-llama/Llama-2-7b-chat-hf --output models/report

    - mambaxray convert vssm_base_0229_ckpt_epoch_237.pth --stage vmamba --output models/vmamba-base
    """
    from .train.convert_checkpoint import convert_checkpoint

    try:
        model = convert_checkpoint(checkpoint, stage, output, text_model=text_model, vision_encoder=vision_encoder)
    except (OSError, ValueError) as error:
        raise failure(error) from error
    parameters = sum(parameter.numel() for parameter in model.parameters())
    error_console().print(f"{type(model).__name__} with {parameters:,} parameters is in {output}")
