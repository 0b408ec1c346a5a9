"""The command that compares the reports of two systems: `mambaxray compare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .cli_evaluate import load_tokenizer
from .console import error_console, failure, print_unavailable, refuse_inputs, result_console

if TYPE_CHECKING:
    from .evaluation.protocols import Protocol
    from .evaluation.tokenization import Tokenize


def compare(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="FIRST",
            help="Reports of one system (.jsonl or .csv with study_id, report and optionally reference).",
            show_default=False,
        ),
    ],
    second: Annotated[
        Path,
        typer.Argument(metavar="SECOND", help="Reports of the other system, on the same studies.", show_default=False),
    ],
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            "-r",
            metavar="FILE",
            help="Reference reports (see mambaxray evaluate); required unless FIRST contains them.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of an annotation.json to score.")] = "test",
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="Metric to compute; can be repeated. Default: the caption metrics and six averages of F1.",
            show_default=False,
        ),
    ] = None,
    tokenize: Annotated[
        str, typer.Option(metavar="NAME", help="Tokenization: none or ptb (see mambaxray evaluate).")
    ] = "none",
    protocol: Annotated[
        str, typer.Option(metavar="NAME", help="Protocol: full-reference or r2gen-compat (see mambaxray evaluate).")
    ] = "full-reference",
    tokenizer: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Tokenizer for r2gen-compat: a folder or Hub name.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Maximum report length in tokens for r2gen-compat.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="JSON file for all results.")
    ] = None,
) -> None:
    """Test whether the reports of two systems differ significantly in their scores.

    Both systems must have reported on the same studies. Patients, not studies, are resampled. `p` is the probability of
    a difference at least as large if the systems were equivalent; `adjusted p` corrects for the number of scores.

    Example:

    - mambaxray compare ours.jsonl theirs.jsonl --references annotation.json
    """
    console = error_console()
    try:
        from .data.whole_file import write_whole
        from .evaluation.comparison import compare_reports
        from .evaluation.report_files import matched_reports

        refuse_inputs(output, first, second, references)
        rows = matched_reports(first, references, split=split)
        others = {row.study_id: row.report or "" for row in matched_reports(second, references or first, split=split)}
        with console.status(f"Comparing {len(rows)} reports"):
            result = compare_reports(
                {row.study_id: row.reference or "" for row in rows},
                {row.study_id: row.report or "" for row in rows},
                others,
                metrics=metrics,
                tokenize=cast("Tokenize", tokenize),
                protocol=cast("Protocol", protocol),
                patients={row.study_id: row.patient_id or row.study_id for row in rows},
                tokenizer=None if tokenizer is None else load_tokenizer(tokenizer),
                max_tokens=max_tokens,
            )
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_whole(output, json.dumps(result, indent=1))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise failure(error) from error
    _print(result)


def _print(result: dict) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("score")
    for name in ("first", "second", "difference", "95% interval", "p", "adjusted p"):
        table.add_column(name, justify="right")
    for name, difference in result["differences"].items():
        low, high = result["intervals"][name]
        table.add_row(
            name,
            f"{result['first'][name]:.4f}",
            f"{result['second'][name]:.4f}",
            f"{difference:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
            f"{result['p_values'][name]:.4f}",
            f"{result['adjusted_p_values'][name]:.4f}",
        )
    console = result_console()
    console.print(table)
    console.print()
    print_unavailable(console, result)
    console.print(result["signature"], soft_wrap=True)
