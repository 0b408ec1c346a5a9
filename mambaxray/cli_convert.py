"""The command that converts the authors' checkpoints: `mambaxray convert`."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

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
            "generation), emrrg (report generation with hybrid layers), ammrg (report generation with memories) or "
            "vmamba (VMamba's image classifier, whose encoder is used).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the model.")],
    text_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Language model (required for finetune, emrrg and ammrg) or text encoder (contrast) that the "
            "checkpoint was trained with and does not fully contain: a folder, or a name on the Hugging Face Hub.",
        ),
    ] = None,
    vision_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Vision encoder for a finetune, emrrg or ammrg checkpoint that was trained with a frozen one, such as "
            "the converted contrast checkpoint: a folder or Hub name.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Field of a report generator's configuration that its weights do not show, such as "
            "query_attention_heads=12; may be repeated.",
        ),
    ] = None,
    memory: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Pickled memory of an ammrg checkpoint, visual=FILE or report=FILE; may be repeated. Only numpy "
            "arrays are read. Such a memory does not say which studies it holds.",
        ),
    ] = None,
) -> None:
    """Convert a checkpoint released by the authors of MambaXray-VL, EMRRG, AM-MRG or VMamba.

    The output folder works as --model of every command and with from_pretrained. No code in the file is executed. A
    file with unknown or missing weights is refused, and their names are reported.

    \b
    Examples:
      mambaxray convert pretrain.pth --stage pretrain --output models/stage1
      mambaxray convert clip.pth --stage contrast \\
        --text-model emilyalsentzer/Bio_ClinicalBERT --output models/stage2
      mambaxray convert delta.pth --stage finetune \\
        --text-model meta-llama/Llama-2-7b-chat-hf --output models/report
      mambaxray convert ammrg.pth --stage ammrg \\
        --text-model meta-llama/Llama-2-7b-chat-hf --output models/ammrg
      mambaxray convert vssm_base_0229_ckpt_epoch_237.pth --stage vmamba \\
        --output models/vmamba-base
    """
    from .train.convert_checkpoint import convert_checkpoint

    try:
        model = convert_checkpoint(
            checkpoint,
            stage,
            output,
            text_model=text_model,
            vision_encoder=vision_encoder,
            options={name: yaml.safe_load(value) for name, value in _pairs(option, "--option")},
            memories=dict(_pairs(memory, "--memory")),
        )
    except (OSError, ValueError) as error:
        raise failure(error) from error
    parameters = sum(parameter.numel() for parameter in model.parameters())
    error_console().print(f"{type(model).__name__} with {parameters:,} parameters saved to {output}")


def _pairs(texts: list[str] | None, name: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts or ()]
    for key, separator, value in pairs:
        if not (key and separator and value):
            raise ValueError(f"{name} reads NAME=VALUE, got {key + separator + value!r}")
    return [(key, value) for key, _, value in pairs]
