"""The command that generates reports: `mambaxray generate`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_options import MODEL_HELP, AllowBlankOption, DeviceOption, MemoryOption, PromptOption, StrictOption
from .console import SAFETY, error_console, failure, quiet_transformers, study_progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.progress import Progress

    from .evaluation.made_with import MadeWith
    from .evaluation.report_files import ReportFile
    from .evaluation.study_report import StudyReport
    from .modeling_mambaxray.generation.pipeline_image_to_text import ImageToTextPipeline


def generate(
    context: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files (DICOM, PNG, JPEG, TIFF ...), folders (searched recursively), or CSV files with a column "
            "'image' and, for studies of several views, a column 'study_id'; columns 'indication', 'technique', "
            "'comparison', 'prior_image' and 'prior_report' give the clinical context.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the reports to this .jsonl or .csv file instead of printing them.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an existing output file: skip the studies that have a report in it."),
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Number of studies in work at a time. Larger is faster and needs more memory."
        ),
    ] = 8,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Worker processes that read images ahead. Default: one per CPU core (at most 8) with a GPU, else 0.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum length of a report in tokens. Default: the model's own, or 256.",
        ),
    ] = None,
    num_beams: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Number of beams; 1 is greedy search. Default: the model's own, or 1.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T", help="Sample instead of taking the likeliest words: 1 as the model says, lower is less varied."
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="P", help="Sample from the likeliest tokens whose probability adds up to P."
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, metavar="N", help="Sample from the N likeliest tokens.")] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(metavar="X", help="Divide the scores of tokens that were written before by X; 1 changes nothing."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of sampling.")] = 0,
    evidence: Annotated[
        bool,
        typer.Option(
            "--evidence",
            help="Also write the evidence for each report by observation, if the model provides it. Needs a .jsonl "
            "output.",
        ),
    ] = False,
    indication: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Indication of the study, for models that take one. Several studies: a CSV."),
    ] = None,
    prior: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Image of the patient's previous study, for models that take one; once for each view.",
            show_default=False,
        ),
    ] = None,
    prior_report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file with the report of the previous study."),
    ] = None,
    section: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Section to write, for models trained to write several: findings, impression or findings+impression.",
        ),
    ] = None,
    memory: MemoryOption = None,
    prompt: PromptOption = None,
    device: DeviceOption = "auto",
    strict: StrictOption = False,
    allow_blank: AllowBlankOption = False,
) -> None:
    """Generate a report for every X-ray study.

    Each image is a study of its own unless a CSV file groups images into studies. Images that cannot be read are
    reported and skipped; the exit code is then 1. DICOM files without an image (DICOMDIR, presentation states,
    structured reports) in a folder are not studies; they are counted separately. Reports are printed, or written to
    --output as they are generated; messages and progress go to standard error.

    Several GPUs: torchrun --nproc-per-node N -m mambaxray.cli generate ...; the studies are divided among the N
    processes, and the first process writes the output.

    \b
    Examples:
      mambaxray generate chest.dcm --model demo/model
      mambaxray generate scans/ --model demo/model --output reports.csv
      mambaxray generate studies.csv --model demo/model --output reports.jsonl \\
        --resume
      mambaxray generate scans/ --model demo/model --temperature 0.7 \\
        --top-p 0.9 --seed 1
      mambaxray generate today.dcm --model runs/prior/model \\
        --indication "Dyspnea." --prior yesterday.dcm --prior-report yesterday.txt
    """
    from .context import check_context, given_context
    from .evaluation.made_with import digest_of_folder
    from .generate import default_workers, generation_options, is_main, load_pipeline, memory_folders

    console = error_console()
    console.quiet = not is_main()
    try:
        with console.status("Looking for images and loading the model"):
            options = generation_options(
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                repetition_penalty=repetition_penalty,
                prompt=prompt,
            )
            settings = options | {"strict": strict, "allow_blank": allow_blank}
            if memories := memory_folders(memory):
                settings["memories"] = {name: digest_of_folder(Path(folder)) for name, folder in memories.items()}
            if options.get("do_sample"):
                settings["seed"] = seed
            file = _open_output(context, output, overwrite=overwrite, resume=resume, evidence=evidence)
            given = given_context(indication, prior or [], prior_report, section)
            studies, total = _remaining_studies(images, file, model, settings, console, given)
            if not studies:
                return
            quiet_transformers()
            pipeline = load_pipeline(
                model, device, memories=memories, strict=strict, allow_blank=allow_blank, seed=seed
            )
            for remark in check_context(pipeline.processor, studies, given):
                console.print(remark)
            # Of a model on the Hub, loading may have fetched a newer revision.
            made_with = None if file is None else _made_with(model, settings, file)
    except (OSError, ValueError) as error:
        raise failure(error) from error
    console.print(SAFETY)
    options["evidence"] = evidence
    options["num_workers"] = default_workers(pipeline.device) if workers is None else workers
    failed = _run_batches(studies, pipeline, batch_size, options, file, made_with, console)
    where = "" if output is None else f" in {output}"
    failures = f", {failed} failed" if failed else ""
    console.print(f"{total - failed} of {total} studies have a report{where}{failures}")
    if failed:
        raise typer.Exit(1)


def _open_output(
    context: typer.Context, output: Path | None, *, overwrite: bool, resume: bool, evidence: bool
) -> "ReportFile | None":
    """The file that the reports go to, checked and locked until the command ends; None to print them."""
    from .data.output_lock import locked_output
    from .data.whole_file import require_writable
    from .evaluation.report_files import GENERATED, ReportFile
    from .generate import check_output, is_main

    if output is not None:
        check_output(output, overwrite=overwrite, resume=resume)
        if is_main():
            require_writable(output)
            context.with_resource(locked_output(output, is_folder=False))
    elif resume or overwrite:
        raise ValueError("--resume and --overwrite need --output")
    if evidence and (output is None or output.suffix.lower() != ".jsonl"):
        raise ValueError("--evidence needs --output with a name that ends in .jsonl")
    return None if output is None else ReportFile(output, GENERATED, resume=resume)


def _remaining_studies(
    images: "Sequence[str]",
    file: "ReportFile | None",
    model: str,
    settings: "Mapping[str, Any]",
    console: "Console",
    context: "Mapping[str, Any]",
) -> "tuple[list[StudyReport], int]":
    """The studies that have no report in the file yet, and how many there are in all."""
    from .context import with_context
    from .evaluation.made_with import MadeWith
    from .generate import agree, collect_studies

    skipped: list[str] = []
    studies = with_context(collect_studies(images, on_skip=skipped.append), context)
    for held in sorted(set(skipped)):
        console.print(f"not an image, left out: {skipped.count(held)} x {held}")
    total = len(studies)
    if file is not None and file.kept:
        if any(report.made_with is None for report in file.kept):
            console.print(f"reports in {file.path} do not say what they were made with: this is not checked")
        if changed := file.keep(MadeWith.of_saved(model, settings), studies):
            console.print(f"{changed} reports are written again: the images or context of their studies have changed")
    finished = agree(set() if file is None else {report.study_id for report in file.kept})
    if file is not None and finished:
        studies = [study for study in studies if study.study_id not in finished]
        console.print(f"{total - len(studies)} of {total} studies have a report in {file.path} already")
    return studies, total


def _made_with(model: str, settings: "Mapping[str, Any]", file: "ReportFile") -> "MadeWith":
    from .evaluation.made_with import MadeWith

    made_with = MadeWith.of_saved(model, settings)
    file.keep(made_with)
    return made_with


def _run_batches(
    studies: "Sequence[StudyReport]",
    pipeline: "ImageToTextPipeline",
    batch_size: int,
    options: dict[str, Any],
    file: "ReportFile | None",
    made_with: "MadeWith | None",
    console: "Console",
) -> int:
    """Generates the reports and writes or prints them; returns the number of studies that failed."""
    from .evaluation.report_writing import LostProcessError
    from .generate import generate_reports, is_main
    from .modeling_mambaxray.layers.study_memories import MissingMemoryError

    failed = written = 0
    without_evidence = bool(options["evidence"])
    # Standard output is left alone: else reports would end up in the standard error while the bar is shown.
    progress = study_progress(console, transient=True, redirect_stdout=False)
    try:
        with progress:
            task = progress.add_task("Studies", total=len(studies))
            for records in generate_reports(studies, pipeline, batch_size=batch_size, **options):
                if made_with is not None:
                    records = [replace(each, made_with=str(made_with.with_images(each.inputs))) for each in records]
                if is_main():
                    _hand_out(records, file, progress)
                for record in records:
                    if record.error is not None:
                        console.print(f"skipped: {record.error}")
                failed += sum(record.error is not None for record in records)
                without_evidence = without_evidence and all(record.evidence is None for record in records)
                written += len(records)
                progress.update(task, completed=written)
    except KeyboardInterrupt:
        kept = "" if file is None else "; they are in the output file, --resume continues from there"
        console.print(f"interrupted after {written} of {len(studies)} studies{kept}")
        raise typer.Exit(130)
    except OSError as error:
        console.quiet = False
        raise failure(OSError(f"after {written} of {len(studies)} studies: {error}")) from error
    except MissingMemoryError as error:
        console.quiet = False
        raise failure(error) from error
    except LostProcessError as error:
        console.quiet = False
        console.print(f"error: after {written} of {len(studies)} studies: {error}")
        raise typer.Exit(3) from error
    if without_evidence and failed < len(studies):
        console.print("no evidence was written: a model of this kind gives none")
    return failed


def _hand_out(records: "Sequence[StudyReport]", file: "ReportFile | None", progress: "Progress") -> None:
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
