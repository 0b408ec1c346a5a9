"""The command that shows where a model looks: `mambaxray explain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_options import (
    MAX_NEW_TOKENS_HELP,
    MODEL_HELP,
    AllowBlankOption,
    DeviceOption,
    MemoryOption,
    PromptOption,
    StrictOption,
)
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
    memory: MemoryOption = None,
    prompt: PromptOption = None,
    cam: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Classifiers: activation map, gradcam (default), gradcam++, hirescam, xgradcam or eigencam.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="TAU", help="Classifiers: patches above this value are kept. Default: 0.5."),
    ] = None,
    regions: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Classifiers: maximum number of regions per image. Default: 6."),
    ] = None,
    device: DeviceOption = "auto",
    strict: StrictOption = False,
    allow_blank: AllowBlankOption = False,
) -> None:
    """Show where a model looks in one study.

    For a report generator the page shows the report and, for each word, a map of the attention to the image; for EMRRG
    models also the map and the gate of each hybrid layer. For a stage-1 classifier it shows the probability of each
    observation, its class activation map, and the regions that a visual memory would keep.

    \b
    Examples:
      mambaxray explain chest.dcm --model demo/model --output explanation.html
      mambaxray explain frontal.png lateral.png --model runs/stage1/model \\
        --cam hirescam
    """
    from .configuration.families import families
    from .data.whole_file import require_writable
    from .info import read_config

    console = error_console()
    report_options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "prompt": prompt, "memory": memory}
    map_options: dict[str, Any] = {"cam": cam, "threshold": threshold, "most_regions": regions}
    summary = f"{', '.join(map(str, images))}, read by {model}"
    try:
        require_writable(output)
        quiet_transformers()
        is_classifier = families()[read_config(model).model_type].stage == "classify"
        _refuse(report_options if is_classifier else map_options, model, is_classifier)
        if is_classifier:
            _explain_diseases(images, model, output, summary, device, strict, allow_blank, _given(map_options))
        else:
            _explain_report(images, model, output, summary, device, strict, allow_blank, _given(report_options))
    except (OSError, ValueError) as error:
        raise failure(error) from error
    console.print(SAFETY)
    console.print(f"the page: {output}")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _refuse(options: dict[str, Any], model: str, is_classifier: bool) -> None:
    """Refuses options of the other kind of model, which would do nothing.

    Raises:
        ValueError: one was given.
    """
    names = {"most_regions": "--regions", "max_new_tokens": "--max-new-tokens"}
    for name in _given(options):
        kind = "a classifier, which writes no report" if is_classifier else "a report generator, not a classifier"
        raise ValueError(f"{model} is {kind}: leave out {names.get(name, f'--{name}')}")


def _explain_report(
    images: list[str],
    model: str,
    output: Path,
    summary: str,
    device: str,
    strict: bool,
    allow_blank: bool,
    options: dict[str, Any],
) -> None:
    from .evaluation.attention import explain_report
    from .evaluation.pages.attention_page import write_attention_page
    from .generate import load_pipeline, memory_folders

    memories = memory_folders(options.pop("memory", None))
    pipeline = load_pipeline(model, device, memories=memories, strict=strict, allow_blank=allow_blank)
    explanation = explain_report(pipeline.model, pipeline.processor, images, **options)
    write_attention_page(output, explanation, title="Where the model looked", summary=summary)


def _explain_diseases(
    images: list[str],
    model: str,
    output: Path,
    summary: str,
    device: str,
    strict: bool,
    allow_blank: bool,
    options: dict[str, Any],
) -> None:
    from transformers import AutoImageProcessor, AutoModel

    from .evaluation.disease_maps import explain_diseases
    from .evaluation.pages.disease_page import write_disease_page
    from .generate import resolve_device

    where = resolve_device(device)
    classifier = AutoModel.from_pretrained(model).to(where).eval()
    image_processor = AutoImageProcessor.from_pretrained(model, strict=strict, allow_blank=allow_blank)
    explanation = explain_diseases(classifier, image_processor, images, **options)
    write_disease_page(output, explanation, title="What the model sees, and where", summary=summary)
