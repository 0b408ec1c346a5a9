"""The commands that build memories of training studies: `mambaxray memory` and `mambaxray retrieval`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_group import command_group
from .cli_options import DatasetOptionOption, DeviceOption, SeedOption
from .console import error_console, failure, quiet_transformers, study_progress

if TYPE_CHECKING:
    from .modeling_mambaxray.layers.study_memory import StudyMemory

memory_app = command_group("Build the memories of training studies that AM-MRG recalls.")
retrieval_app = command_group(
    "Build the memory of training studies that the disease-aware system retrieves exemplars from."
)

_PRIVATE = "It holds data of patients: keep it as you keep the data set. It is not pushed with a model."


class Kind(StrEnum):
    """A memory of AM-MRG."""

    visual = "visual"
    report = "report"


ClassifierOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Stage-1 classifier with disease queries, as mambaxray classify trains it: a folder, or a name on the "
        "Hugging Face Hub.",
        show_default=False,
    ),
]
DatasetOption = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="Data set with all its splits: a folder prepared by mambaxray prepare, a table, or phantoms.",
        show_default=False,
    ),
]
SharedPatientsOption = Annotated[
    bool,
    typer.Option(
        "--leave-out-shared-patients",
        help="Leave out training studies of patients who have studies in another split. Without it such a data set "
        "is refused.",
    ),
]
BatchSizeOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Studies per forward pass. It must stay the same to resume.")
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Worker processes, each with the model in its own memory. Default: one per GPU, or one per CPU core.",
    ),
]


@memory_app.command("build")
def build_memories(
    model: ClassifierOption,
    dataset: DatasetOption,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for the memories, which become FOLDER/visual and FOLDER/report.",
            show_default=False,
        ),
    ],
    dataset_option: DatasetOptionOption = None,
    kind: Annotated[
        list[Kind] | None,
        typer.Option(help="Memory to build; can be repeated. Default: both.", show_default=False),
    ] = None,
    cam: Annotated[
        str,
        typer.Option(metavar="NAME", help="Activation map: gradcam, gradcam++, hirescam, xgradcam or eigencam."),
    ] = "gradcam",
    threshold: Annotated[
        float,
        typer.Option(metavar="TAU", help="A patch is kept where the map, from 0 to 1, is above this value."),
    ] = 0.5,
    regions: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of regions per image.")] = 6,
    per_disease: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of regions per observation.")
    ] = 500,
    reports: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of reports.")] = 6000,
    report_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Text encoder or language model for the reports, or a model that mambaxray contrast has trained: a "
            "folder, or a name on the Hub. Default: emilyalsentzer/Bio_ClinicalBERT.",
        ),
    ] = None,
    report_encoder_revision: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Branch, tag or commit of the report encoder on the Hub.")
    ] = None,
    report_dtype: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Dtype of the report encoder, such as bfloat16. Default: its own."),
    ] = None,
    unit: Annotated[
        str,
        typer.Option(
            metavar="UNIT",
            help="What is encoded: sentence (the mean over a report's sentences is its vector) or report.",
        ),
    ] = "sentence",
    pooling: Annotated[
        str,
        typer.Option(metavar="NAME", help="Vector of a text: cls, mean or last (the last token, for decoders)."),
    ] = "cls",
    max_report_length: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Maximum length of an encoded text in tokens. Default: the encoder's, at most 512."
        ),
    ] = None,
    without_text: Annotated[
        bool,
        typer.Option("--without-text", help="Keep the vectors of reports only, not their text, which evidence shows."),
    ] = False,
    leave_out_shared_patients: SharedPatientsOption = False,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = 32,
    processes: ProcessesOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Build the visual bank and the report memory of AM-MRG from the training split of a data set.

    The visual bank holds tokens of the image regions in which a stage-1 classifier sees each observation, the report
    memory vectors of reports. Studies outside the training split are refused, and so are those of patients who have
    studies in another split. The same command resumes an interrupted run, with the same result.

    \b
    Example:
      mambaxray memory build --model runs/stage1/model \\
        --dataset prepared/mimic --output memories/mimic
    """
    from .train.build_memories import REPORT_ENCODER, build_am_mrg_memories
    from .train.recipe_text import parse_options
    from .train.report_memory import ReportMemoryOptions
    from .train.visual_memory import VisualMemoryOptions

    with _building() as on_progress:
        devices, count = _workers(device, processes)
        memories = build_am_mrg_memories(
            output,
            model,
            dataset,
            data_options=parse_options(dataset_option or []),
            kinds=[each.value for each in kind or Kind],
            visual=VisualMemoryOptions(cam, threshold, regions, per_disease),
            report=ReportMemoryOptions(reports, unit, pooling, report_dtype, max_report_length),
            report_encoder=report_encoder or REPORT_ENCODER,
            report_encoder_revision=report_encoder_revision,
            with_reports=not without_text,
            leave_out_shared_patients=leave_out_shared_patients,
            seed=seed,
            batch_size=batch_size,
            processes=count,
            devices=devices,
            on_progress=on_progress,
        )
    _summarize({output / name: memory for name, memory in memories.items()}, per_disease)


@retrieval_app.command("build")
def build_retrieval(
    model: ClassifierOption,
    dataset: DatasetOption,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the memory.", show_default=False),
    ],
    dataset_option: DatasetOptionOption = None,
    leave_out_shared_patients: SharedPatientsOption = False,
    batch_size: BatchSizeOption = 32,
    processes: ProcessesOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Build the retrieval memory of the disease-aware system from the training split of a data set.

    It holds the mean visual token, the disease logits and the report of every training study that has a report.
    Studies outside the training split are refused, and so are those of patients who have studies in another split. The
    same command resumes an interrupted run, with the same result.

    \b
    Example:
      mambaxray retrieval build --model runs/stage1/model \\
        --dataset prepared/mimic --output memories/exemplars
    """
    from .train.build_memories import build_retrieval_memory
    from .train.recipe_text import parse_options

    with _building() as on_progress:
        devices, count = _workers(device, processes)
        memory = build_retrieval_memory(
            output,
            model,
            dataset,
            data_options=parse_options(dataset_option or []),
            leave_out_shared_patients=leave_out_shared_patients,
            batch_size=batch_size,
            processes=count,
            devices=devices,
            on_progress=on_progress,
        )
    _summarize({output: memory})


@contextmanager
def _building() -> Iterator[Callable[[str, int, int], None]]:
    """Shows progress, and ends the command by what a user can do about an error."""
    from datasets import disable_progress_bars

    quiet_transformers()
    disable_progress_bars()
    console = error_console()
    try:
        with study_progress(console) as progress:
            tasks: dict[str, Any] = {}

            def show(kind: str, done: int, total: int) -> None:
                if kind not in tasks:
                    tasks[kind] = progress.add_task(kind.capitalize(), total=total)
                progress.update(tasks[kind], completed=done, total=total)

            yield show
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes")
        raise typer.Exit(130) from None
    except (OSError, ValueError, TypeError) as error:
        raise failure(error) from error
    except RuntimeError as error:  # a process that was killed, usually for want of memory
        raise failure(RuntimeError(f"{error}; the same command resumes; try fewer --processes")) from error


def _workers(device: str, processes: int | None) -> tuple[list[str], int]:
    """The devices, and how many processes work on them."""
    import torch

    from .data.worker_processes import available_cores
    from .generate import resolve_device

    found = resolve_device(device)
    if found.type == "cpu":
        return ["cpu"], processes or available_cores()
    is_one = found.index is not None and device != "auto"
    devices = [str(found)] if is_one else [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return devices, processes or len(devices)


def _summarize(memories: "Mapping[Path, StudyMemory]", per_disease: int | None = None) -> None:
    console = error_console()
    for folder, memory in memories.items():
        counts = memory.counts()
        console.print(
            f"{folder}: {counts['rows']:,} rows of {counts['studies']:,} studies and {counts['patients']:,} patients"
        )
        by_observation = counts["rows_by_observation"]
        if by_observation:
            console.print("  " + ", ".join(f"{name} {count:,}" for name, count in by_observation.items()))
        if memory.source.options["memory"] == Kind.visual.value:
            few = [name for name in _observations() if by_observation.get(name, 0) < (per_disease or 0)]
            if few:
                console.print(f"  fewer than {per_disease} regions: {', '.join(few)}")
    console.print(_PRIVATE)


def _observations() -> tuple[str, ...]:
    from .data.schema import OBSERVATIONS

    return OBSERVATIONS


__all__ = ["memory_app", "retrieval_app"]
