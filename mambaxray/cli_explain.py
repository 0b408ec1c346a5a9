"""The command that shows where a model looks while it generates: `mambaxray explain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_options import MAX_NEW_TOKENS_HELP, MODEL_HELP, AllowBlankOption, DeviceOption, PromptOption, StrictOption
from .console import SAFETY, error_console, failure, quiet_transformers


def explain(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image file (DICOM, PNG, JPEG, TIFF ...); several images are views of one study.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="HTML file to write.")] = Path(
        "explanation.html"
    ),
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help=MAX_NEW_TOKENS_HELP),
    ] = None,
    prompt: PromptOption = None,
    device: DeviceOption = "auto",
    strict: StrictOption = False,
    allow_blank: AllowBlankOption = False,
) -> None:
    """Generate a report for one study and show the model's attention to the image for each word.

    The page shows the image, the report and, for each word, a map of the attention to the image; for EMRRG models also
    the map and the gate of each hybrid layer.

    Example: mambaxray explain chest.dcm --model demo/model --output explanation.html
    """
    from .evaluation.attention import explain_report
    from .evaluation.pages.attention_page import write_attention_page
    from .generate import load_pipeline

    console = error_console()
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "prompt": prompt}
    try:
        quiet_transformers()
        pipeline = load_pipeline(model, device, strict=strict, allow_blank=allow_blank)
        explanation = explain_report(
            pipeline.model,
            pipeline.processor,
            images,
            **{name: value for name, value in options.items() if value is not None},
        )
        write_attention_page(
            output,
            explanation,
            title="Where the model looked",
            summary=f"{', '.join(map(str, images))}, read by {model}",
        )
    except (OSError, ValueError) as error:
        raise failure(error) from error
    console.print(SAFETY)
    console.print(f"the page: {output}")
