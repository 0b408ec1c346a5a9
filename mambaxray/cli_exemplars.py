"""The command that measures what retrieved reports do: `mambaxray retrieval analyze`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import error_console, failure, refuse_inputs, result_console


def analyze(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS",
            help="Reports written with --evidence by a model that retrieves (.jsonl).",
            show_default=False,
        ),
    ],
    without: Annotated[
        Path | None,
        typer.Option(
            "--without",
            metavar="FILE",
            help="Reports on the same studies by a model that does not retrieve, to compare the recall with.",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            "-r",
            metavar="FILE",
            help="Reference reports (see mambaxray evaluate); required unless PREDICTIONS contains them.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of an annotation.json to compare with.")] = "test",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="JSON file for all results, with a share per study."),
    ] = None,
) -> None:
    """Measure how much of each report is copied from its retrieved report, and for which observations that helps.

    A word is copied if it stands in four or more words in a row of the retrieved report. Beside it is the same share of
    the reference reports, and what is shared with the report retrieved for another study. The recall of each
    observation is shown from rare to common, with and without retrieval.

    \b
    Example:
      mambaxray retrieval analyze with.jsonl --without without.jsonl \\
        --references annotation.json
    """
    try:
        from .data.whole_file import require_writable, write_whole
        from .evaluation.exemplar_use import copying_with_intervals, recall_by_prevalence
        from .evaluation.report_files import matched_reports

        refuse_inputs(output, predictions, without, references)
        if output is not None:
            require_writable(output)
        rows = matched_reports(predictions, references, split=split)
        with error_console().status(f"Reading {len(rows)} reports"):
            copied = copying_with_intervals(rows)
            others = None if without is None else matched_reports(without, references, split=split)
            gains = [] if others is None else recall_by_prevalence(rows, others)
        if output is not None:
            result: dict[str, Any] = {"copying": asdict(copied), "recall": [asdict(gain) for gain in gains]}
            write_whole(output, json.dumps(result, indent=1, ensure_ascii=False))
    except (OSError, ValueError) as error:
        raise failure(error) from error
    _print(copied, gains)


def _print(copied: Any, gains: Any) -> None:
    from rich.table import Table

    console = result_console()
    table = Table(box=None, pad_edge=False)
    for name in ("copied from the retrieved report", "share", "95% interval"):
        table.add_column(name, justify="left" if name.startswith("copied") else "right")
    for name, value in copied.shares.items():
        low, high = copied.intervals[name]
        table.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    console.print(table)
    if not gains:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("recall", "studies", "without", "with", "difference", "95% interval"):
        table.add_column(name, justify="left" if name == "recall" else "right")
    for gain in gains:
        low, high = gain.interval
        table.add_row(
            gain.observation,
            " to ".join(map(str, dict.fromkeys(gain.support))),
            f"{gain.without:.4f}",
            f"{gain.with_exemplars:.4f}",
            f"{gain.with_exemplars - gain.without:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
        )
    console.print()
    console.print(table)
