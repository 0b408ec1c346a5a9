"""The command line `mambaxray`. What the commands do lies elsewhere and is imported when they run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__
from .cli_bench import bench_app
from .cli_compare import compare
from .cli_convert import convert
from .cli_evaluate import evaluate
from .cli_explain import explain
from .cli_hub import card, push, tiny
from .cli_options import AllowBlankOption, DeviceOption, PromptOption, StrictOption
from .cli_prepare import prepare
from .cli_train import contrast, finetune, pretrain, recipes
from .console import SAFETY, error_console, failure, quiet_transformers, study_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.progress import Progress

    from .evaluation.study_report import StudyReport

_MODEL_HELP = "The model: its folder, or its name on the Hugging Face Hub."

app = typer.Typer(
    name="mambaxray",
    help=f"Write radiology reports for chest X-rays.\n\n{SAFETY}",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the console script."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mambaxray {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="Python module that registers a system of your own, installed or in the working folder. Can be "
            "repeated.",
        ),
    ] = None,
) -> None:
    if plugin:
        from .configuration.families import import_plugins

        try:
            import_plugins(plugin)
        except ValueError as error:
            raise failure(error) from error


def demo(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the page, the model and the data.")] = Path(
        "demo"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of real X-rays with an annotation.json in R2Gen's format, in place of phantoms.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Start of all random numbers: the same seed gives the same demo.")
    ] = 0,
) -> None:
    """Train a small model from scratch in a few minutes and show its reports.

    It draws artificial chest X-rays with known findings (phantoms), trains on them on the CPU, and writes
    OUTPUT/index.html: pictures of held-out phantoms with their true and generated reports, and scores. The model is
    left in OUTPUT/model.
    """
    from .demo import run_demo

    try:
        run_demo(output, data=data, seed=seed)
    except (OSError, ValueError) as error:
        raise failure(error) from error


def generate(
    context: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files (DICOM, PNG, JPEG, TIFF ...), folders that are searched for images, or CSV files with a "
            "column 'image' and, to put several views into one study, a column 'study_id'.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help=_MODEL_HELP),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File for the reports, .jsonl or .csv. Without it they are printed."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with an output file that exists: skip studies that have a report in it."),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Studies at a time. Smaller needs less memory, larger is faster.")
    ] = 8,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Programs that read images ahead. Default: with a GPU one per processor core, up to 8; else none.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Longest report, in tokens (words or pieces of words). Default: the model's own, or 256.",
        ),
    ] = None,
    num_beams: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Wordings followed at the same time; more is slower. Default: the model's own, or 1.",
        ),
    ] = None,
    evidence: Annotated[
        bool,
        typer.Option(
            "--evidence",
            help="Also write what each report rests on, by observation, where the model's system gives that; needs an "
            "output of .jsonl.",
        ),
    ] = False,
    prompt: PromptOption = None,
    device: DeviceOption = "auto",
    strict: StrictOption = False,
    allow_blank: AllowBlankOption = False,
) -> None:
    """Write a report for every X-ray study.

    Each image is a study of its own, unless a CSV file says otherwise. An image that cannot be read is named and
    skipped; the exit code is then 1. DICOM files of a folder that hold no image (DICOMDIR, presentation states,
    structured reports) are not studies and are counted apart. Reports are printed, or written to the file of --output
    while the work goes on; messages and progress go to the standard error.

    With several GPUs: torchrun --nproc-per-node N -m mambaxray.cli generate ...; each of the N processes then writes
    a part of the reports, and the first one puts them together.

    Examples:

    - mambaxray generate chest.dcm --model demo/model

    - mambaxray generate scans/ --model demo/model --output reports.csv

    - mambaxray generate studies.csv --model demo/model --output reports.jsonl --resume
    """
    from .data.output_lock import locked_output
    from .evaluation.report_files import GENERATED, ReportFile
    from .generate import agree, check_output, collect_studies, default_workers, is_main, load_pipeline

    console = error_console()
    console.quiet = not is_main()
    try:
        with console.status("Looking for images and loading the model"):
            if output is not None:
                check_output(output, overwrite=overwrite, resume=resume)
                if is_main():
                    context.with_resource(locked_output(output, is_folder=False))
            elif resume or overwrite:
                raise ValueError("--resume and --overwrite need --output")
            if evidence and (output is None or output.suffix.lower() != ".jsonl"):
                raise ValueError("--evidence needs --output with a name that ends in .jsonl")
            skipped: list[str] = []
            studies = collect_studies(images, on_skip=skipped.append)
            for held in sorted(set(skipped)):
                console.print(f"not an image, left out: {skipped.count(held)} x {held}")
            total = len(studies)
            file = None if output is None else ReportFile(output, GENERATED, resume=resume)
            finished = agree(set() if file is None else {report.study_id for report in file.kept})
            if finished:
                studies = [study for study in studies if study.study_id not in finished]
                console.print(f"{total - len(studies)} of {total} studies have a report in {output} already")
                if not studies:
                    return
            quiet_transformers()
            pipeline = load_pipeline(model, device, strict=strict, allow_blank=allow_blank)
    except (OSError, ValueError) as error:
        raise failure(error) from error
    console.print(SAFETY)
    options = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "prompt": prompt}
    options = {name: value for name, value in options.items() if value is not None}
    options["evidence"] = evidence
    options["num_workers"] = default_workers(pipeline.device) if workers is None else workers
    failed = _run_batches(studies, pipeline, batch_size, options, file, console)
    where = "" if output is None else f" in {output}"
    failures = f", {failed} failed" if failed else ""
    console.print(f"{total - failed} of {total} studies have a report{where}{failures}")
    if failed:
        raise typer.Exit(1)


def info(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help=_MODEL_HELP, show_default=False),
    ] = None,
) -> None:
    """Show what a model is made of, without loading its weights.

    Without MODEL: the versions installed, the device that would be used and the implementations of the scan.
    """
    from .info import ModelLoadError, describe_environment, describe_model

    try:
        if model is not None:
            quiet_transformers()
        sections = describe_environment() if model is None else describe_model(model)
    except ModelLoadError as error:
        raise failure(error) from error
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for index, (title, rows) in enumerate(sections.items()):
        if index:
            table.add_row()
        table.add_row(title)
        for name, value in rows.items():
            table.add_row(f"  {name}", value, style="not bold")
    Console(highlight=False, markup=False).print(table)


def _run_batches(
    studies: "Sequence[Any]",
    pipeline: Any,
    batch_size: int,
    options: dict[str, Any],
    file: Any,
    console: "Console",
) -> int:
    """Generates, writes or prints, and tells the number of studies that failed."""
    from .evaluation.report_writing import LostProcessError
    from .generate import generate_reports, is_main

    failed = written = 0
    # Standard output is left alone: else reports would end up in the standard error while the bar is shown.
    progress = study_progress(console, transient=True, redirect_stdout=False)
    try:
        with progress:
            task = progress.add_task("Studies", total=len(studies))
            for records in generate_reports(studies, pipeline, batch_size=batch_size, **options):
                if is_main():
                    _hand_out(records, file, progress)
                for record in records:
                    if record.error is not None:
                        console.print(f"skipped: {record.error}")
                failed += sum(record.error is not None for record in records)
                written += len(records)
                progress.update(task, completed=written)
    except KeyboardInterrupt:
        kept = "" if file is None else "; they are in the output file, --resume goes on from there"
        console.print(f"interrupted after {written} of {len(studies)} studies{kept}")
        raise typer.Exit(130)
    except LostProcessError as error:
        console.quiet = False
        console.print(f"error: after {written} of {len(studies)} studies: {error}")
        raise typer.Exit(3) from error
    return failed


def _hand_out(records: "Sequence[StudyReport]", file: Any, progress: "Progress") -> None:
    if file is not None:
        file.write(records)
        return
    progress.stop()
    _print_reports(records)
    progress.start()


def _print_reports(records: "Sequence[StudyReport]") -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    # Whole lines for other programs, wrapped ones for people.
    soft_wrap = not console.is_terminal
    for record in records:
        if record.error is None:
            console.print(record.study_id, style="bold", soft_wrap=soft_wrap)
            console.print(f"{record.report}\n", soft_wrap=soft_wrap)


# In the order of use, as --help shows them.
for _command in (
    *(demo, generate, prepare),
    *(recipes, pretrain, contrast, finetune),
    *(evaluate, compare, explain),
    *(info, convert, card, push, tiny),
):
    app.command()(_command)
app.add_typer(bench_app, name="bench")


if __name__ == "__main__":
    main()
