"""The command that prepares data sets: `mambaxray prepare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import error_console, failure, study_progress

if TYPE_CHECKING:
    from rich.console import Console

_NONE = "none"
_KNOWN, _PREDICT = "known", "predict"


def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Data set: iu-xray, mimic-cxr, chexpert-plus, annotation-json (a folder in R2Gen's format) or table "
            "(a CSV or JSON Lines file with image paths and reports).",
            show_default=False,
        ),
    ],
    source: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Folder of the downloaded data set; for a table, its file.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the prepared data set.", show_default=False),
    ],
    section: Annotated[
        str,
        typer.Option(
            metavar="SECTION",
            help="Section of the report to generate: findings (as in the papers), impression, or findings+impression.",
            show_default=False,
        ),
    ],
    cleaning: Annotated[
        str | None,
        typer.Option(
            metavar="STYLE",
            help="Report cleaning: iu-xray, mimic-cxr, r2gengpt or none. Default: as in the papers on this data set.",
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT",
            help="What makes a sample: image (each image with its report) or study (all views together). Default: "
            "image for mimic-cxr, as in the papers; study for chexpert-plus.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the images, if not in --source.")
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="MIMIC-CXR: reports (a folder or mimic-cxr-reports.zip), if not in --source."
        ),
    ] = None,
    labeler: Annotated[
        str | None, typer.Option(metavar="NAME", help="MIMIC-CXR: source of the labels, chexpert (default) or negbio.")
    ] = None,
    split_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="IU X-ray: R2Gen's annotation.json, whose split is applied to Open-i's reports."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Random seed of the split, for data sets without a published one. Default: 0."),
    ] = None,
    prior: Annotated[
        bool,
        typer.Option(
            "--prior",
            help="Link each study to the patient's previous one, for models that compare. The data set must say when "
            "studies were made: mimic-cxr, chexpert-plus, or a study_date in annotation-json and table.",
        ),
    ] = False,
    allow_shared_patients: Annotated[
        bool,
        typer.Option(
            "--allow-shared-patients",
            help="Continue although patients occur in more than one split, which inflates test scores.",
        ),
    ] = False,
    shorter_side: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="PIXELS", help="Downscale larger images to this shorter side. Default: keep the size."
        ),
    ] = None,
    views: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="Views of the images: known (as the data set states them) or predict (those that it does not state "
            "are predicted by --view-classifier).",
        ),
    ] = _KNOWN,
    view_classifier: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="View classifier that mambaxray views train has written."),
    ] = None,
    max_lost: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Share of studies that may be lost to absent or unreadable images; more is exit code 1.",
        ),
    ] = 0.5,
    num_proc: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Worker processes. Default: one per CPU core."),
    ] = None,
) -> None:
    """Prepare a data set for training and evaluation.

    Reads reports, labels, views and splits, decodes every image once, and writes parquet files by split, prepared.json
    (counts and settings) and left_out.csv (what could not be used, and why). The same command resumes an interrupted
    run.

    Data sets must be obtained from their publishers under their terms; docs/data.md lists sources and expected files.

    \b
    Examples:
      mambaxray prepare iu-xray --source iu_xray --output prepared/iu \\
        --section findings
      mambaxray prepare mimic-cxr --source mimic-cxr-jpg/2.1.0 \\
        --reports mimic-cxr-reports.zip --output prepared/mimic --section findings \\
        --shorter-side 512
      mambaxray prepare mimic-cxr --source mimic-cxr-jpg/2.1.0 \\
        --reports mimic-cxr-reports.zip --output prepared/prior --section findings \\
        --unit study --prior
    """
    import logging

    from .data.prepare import prepare_studies, read_source
    from .data.worker_processes import available_cores

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
    if prior:
        options["prior"] = True
    try:
        if views not in (_KNOWN, _PREDICT) or (views == _PREDICT) != (view_classifier is not None):
            raise ValueError(
                f"--views is {_KNOWN} or {_PREDICT}, and {_PREDICT} needs --view-classifier FOLDER (and only that): "
                f"got --views {views}{'' if view_classifier is None else f' --view-classifier {view_classifier}'}"
            )
        with console.status("Reading reports and metadata"):
            found = read_source(name, source, section=section, allow_shared_patients=allow_shared_patients, **options)
        with study_progress(console) as progress:
            task = progress.add_task("Studies", total=len(found.studies))
            card = prepare_studies(
                found,
                output,
                shorter_side=shorter_side,
                num_proc=num_proc or available_cores(),
                view_classifier=view_classifier,
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes")
        raise typer.Exit(130) from None
    except (OSError, ValueError, TypeError) as error:
        raise failure(error) from error
    except RuntimeError as error:  # a process that was killed, usually for want of memory
        raise failure(RuntimeError(f"{error}; the same command resumes; try a smaller --num-proc")) from error
    _summarize(card, output, console)
    lost = len(found.studies) - sum(card["counts"].values())
    if lost > max_lost * len(found.studies):
        console.print(
            f"{lost:,} of {len(found.studies):,} studies are lost to absent or unreadable images, more than --max-lost "
            f"{max_lost:g} allows: exit code 1"
        )
        raise typer.Exit(1)


def _summarize(card: dict[str, Any], output: Path, console: "Console") -> None:
    from .data.prepared import LEFT_OUT_FILE
    from .data.source import compare_counts

    console.print(f"{card['data_set']}: {compare_counts(card['counts'], card['published_counts'])}")
    console.print(f"split: {card['split_source']}; patients in more than one split: {card['shared_patients']}")
    if "predicted_views" in card:
        predicted = ", ".join(f"{count:,} {view}" for view, count in card["predicted_views"].items()) or "none"
        console.print(f"views predicted: {predicted}")
    for split, count in card.get("priors", {}).items():
        console.print(f"{split}: {count:,} of {card['counts'][split]:,} studies have a prior study")
    for reason, count in card["left_out"].items():
        console.print(f"left out: {count:,} x {reason}")
    if card["left_out"]:
        console.print(f"each of them is named in {output / LEFT_OUT_FILE}")
    console.print(f"written to {output}; read it with mambaxray.load_prepared({str(output)!r})")
