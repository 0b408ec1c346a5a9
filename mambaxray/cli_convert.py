"""The command that converts the authors' checkpoints: `mambaxray convert`."""

from pathlib import Path
from typing import Annotated

import typer

from .console import error_console, failure


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Released checkpoint file (.pth).", show_default=False)
    ],
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            "-s",
            metavar="STAGE",
            help="Kind of checkpoint: pretrain (images alone), contrast (images and reports), finetune (report "
            "generation), emrrg (report generation with hybrid layers) or vmamba (VMamba's image classifier, whose "
            "encoder is used).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the model.")],
    text_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Language model (required for finetune and emrrg) or text encoder (contrast) that the checkpoint was "
            "trained with and does not fully contain: a folder, or a name on the Hugging Face Hub.",
        ),
    ] = None,
    vision_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Vision encoder for a finetune or emrrg checkpoint that was trained with a frozen one, such as the "
            "converted contrast checkpoint: a folder or Hub name.",
        ),
    ] = None,
) -> None:
    """Convert a checkpoint released by the authors of MambaXray-VL, EMRRG or VMamba.

    The output folder works as --model of every command and with from_pretrained. No code in the file is executed. A
    file with unknown or missing weights is refused, and their names are reported.

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
    error_console().print(f"{type(model).__name__} with {parameters:,} parameters saved to {output}")
