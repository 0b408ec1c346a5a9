"""The command `mambaxray prepare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import error_console, failure, study_progress

if TYPE_CHECKING:
    from rich.console import Console

_NONE = "none"


def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="The data set: iu-xray, mimic-cxr, chexpert-plus, annotation-json for a folder in R2Gen's format, or "
            "table for a CSV or JSON lines file with images' paths and reports.",
            show_default=False,
        ),
    ],
    source: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="The data set as it was downloaded; a table's file.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write.", show_default=False)
    ],
    section: Annotated[
        str,
        typer.Option(
            metavar="SECTION",
            help="What a model shall write: findings (as in the papers), impression, or findings+impression.",
            show_default=False,
        ),
    ],
    cleaning: Annotated[
        str | None,
        typer.Option(
            metavar="STYLE",
            help="How to clean the reports: iu-xray, mimic-cxr, r2gengpt, or none. Default: as the papers do for this "
            "data set.",
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT",
            help="image: each image with its report is a study of its own; study: all views together. Default: image "
            "for mimic-cxr, as in the papers, and study for chexpert-plus.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the images are, if not in --source.")
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="MIMIC-CXR: folder or mimic-cxr-reports.zip of the reports, if not in --source."
        ),
    ] = None,
    labeler: Annotated[
        str | None, typer.Option(metavar="NAME", help="MIMIC-CXR: whose labels to take, chexpert (default) or negbio.")
    ] = None,
    split_list: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="IU X-ray: R2Gen's annotation.json, to split Open-i's reports like it."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Start of the random split, where a data set has no published one. Default: 0."),
    ] = None,
    allow_shared_patients: Annotated[
        bool,
        typer.Option(
            "--allow-shared-patients",
            help="Go on although patients are in more than one split: scores on the test split are then too good.",
        ),
    ] = False,
    shorter_side: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="PIXELS", help="Shrink larger images to this shorter side. Default: images stay as they are."
        ),
    ] = None,
    num_proc: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Processes to work with. Default: one for each processor core."),
    ] = None,
) -> None:
    """Turn a data set into files that training and evaluation read quickly.

    Reads reports, labels, views and splits, decodes every image once, and writes parquet files by split, with
    prepared.json (counts and settings) and left_out.csv (what could not be used, and why). An interrupted run goes on
    when the same command is given again.

    The data sets must be obtained from their publishers under their terms; docs/data.md says where, and which files
    are expected.

    Examples:

    - mambaxray prepare iu-xray --source iu_xray --output prepared/iu --section findings

    - mambaxray prepare mimic-cxr --source mimic-cxr-jpg/2.1.0 --reports mimic-cxr-reports.zip --output prepared/mimic
      --section findings --shorter-side 512
    """
    import logging

    from .data.prepare import prepare_studies, read_source

    console = error_console()
    logging.basicConfig(format="%(message)s")
    given: dict[str, Any] = {
        "cleaning": cleaning,
        "unit": unit,
        "images": images,
        "reports": reports,
        "labeler": labeler,
        "split_list": split_list,
        "seed": seed,
    }
    options = {option: value for option, value in given.items() if value is not None}
    if cleaning == _NONE:
        options["cleaning"] = None
    try:
        with console.status("Reading reports and lists"):
            found = read_source(name, source, section=section, allow_shared_patients=allow_shared_patients, **options)
        with study_progress(console) as progress:
            task = progress.add_task("Studies", total=len(found.studies))
            card = prepare_studies(
                found,
                output,
                shorter_side=shorter_side,
                num_proc=num_proc or _cores(),
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None
    except (OSError, ValueError, TypeError) as error:
        raise failure(error) from error
    except RuntimeError as error:  # a process that was killed, usually for want of memory
        raise failure(RuntimeError(f"{error}; the same command goes on, perhaps with a smaller --num-proc")) from error
    _tell(card, output, console)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tell(card: dict[str, Any], output: Path, console: "Console") -> None:
    from .data.prepared import LEFT_OUT_FILE
    from .data.source import compare_counts

    console.print(f"{card['data_set']}: {compare_counts(card['counts'], card['published_counts'])}")
    console.print(f"split: {card['split_source']}; patients in more than one split: {card['shared_patients']}")
    for reason, count in card["left_out"].items():
        console.print(f"left out: {count:,} x {reason}")
    if card["left_out"]:
        console.print(f"each of them is named in {output / LEFT_OUT_FILE}")
    console.print(f"written to {output}; read it with mambaxray.load_prepared({str(output)!r})")
