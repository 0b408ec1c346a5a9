"""The command that compares the reports of several systems: `mambaxray compare`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .cli_evaluate import load_tokenizer
from .cli_memory import DatasetOptionOption
from .console import error_console, failure, print_unavailable, refuse_inputs, result_console

if TYPE_CHECKING:
    from .evaluation.protocols import Protocol
    from .evaluation.study_report import StudyReport
    from .evaluation.tokenization import Tokenize


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORTS ...",
            help="Reports of two or more systems on the same studies, one file each (.jsonl or .csv with study_id, "
            "report and optionally reference). The first system is compared with each of the others.",
            show_default=False,
        ),
    ],
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            "-r",
            metavar="FILE",
            help="Reference reports (see mambaxray evaluate); required unless the first file contains them.",
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            "-n",
            metavar="NAME",
            help="Name of a system, once per file and in their order. Default: from the files' paths.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of an annotation.json to score.")] = "test",
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="Metric to test; can be repeated, such as BLEU, clinical, or entities for the shares of findings hit, "
            "near, missed and invented. Default: the caption metrics and six averages of F1.",
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
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="HTML file that shows the systems' reports side by side, findings marked."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Data set from whose test split the page takes the images: what recipes have as data.source, or a "
            "recipe, such as the recipe.yaml of a run. Default: the files' column images.",
            show_default=False,
        ),
    ] = None,
    dataset_option: DatasetOptionOption = None,
    studies: Annotated[
        list[str] | None,
        typer.Option(
            "--study",
            metavar="ID",
            help="Study that the page shows; can be repeated. Default: those in which the systems differ most.",
            show_default=False,
        ),
    ] = None,
    shown: Annotated[int, typer.Option("--shown", min=1, metavar="N", help="Number of studies on the page.")] = 20,
) -> None:
    """Compare the reports of systems: scores with significance tests, findings hit and missed, reports side by side.

    All systems must have reported on the same studies. Patients, not studies, are resampled. `p` is the probability of
    a difference at least as large if the systems were equivalent; `adjusted p` corrects for the number of scores and
    systems. Findings are read by the package's rule-based labeler.

    \b
    Examples:
      mambaxray compare ours.jsonl theirs.jsonl --references annotation.json
      mambaxray compare baseline.jsonl dvaf.jsonl full.jsonl \\
        --page side_by_side.html --dataset prepared/iu_xray
    """
    console = error_console()
    try:
        from .data.whole_file import require_writable, write_whole
        from .evaluation.comparison import compare_systems
        from .evaluation.report_files import matched_reports

        if len(files) < 2:
            raise ValueError(f"give the reports of at least two systems, got {len(files)} file")
        for written in (output, page):
            refuse_inputs(written, *files, references)
            if written is not None:
                require_writable(written)
        systems = _names(files, names or [])
        rows = matched_reports(files[0], references, split=split)
        reports = {
            name: {
                row.study_id: row.report or ""
                for row in (matched_reports(file, references or files[0], split=split) if number else rows)
            }
            for number, (name, file) in enumerate(zip(systems, files, strict=True))
        }
        with console.status(f"Comparing {len(rows)} reports of {len(files)} systems"):
            result = compare_systems(
                {row.study_id: row.reference or "" for row in rows},
                reports,
                metrics=metrics,
                tokenize=cast("Tokenize", tokenize),
                protocol=cast("Protocol", protocol),
                patients={row.study_id: row.patient_id or row.study_id for row in rows},
                tokenizer=None if tokenizer is None else load_tokenizer(tokenizer),
                max_tokens=max_tokens,
            )
        if output is not None:
            write_whole(output, json.dumps(result, indent=1))
        if page is not None:
            of_images = None if dataset is None else _test_split(dataset, dataset_option or [])
            _write_page(page, result, reports, rows, of_images, studies or [], shown)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise failure(error) from error
    _print(result)
    if page is not None:
        console.print(f"page: {page}")


def _names(files: Sequence[Path], given: Sequence[str]) -> list[str]:
    """The systems' names: those given, or the least of the files' paths that tells them apart."""
    if given:
        if len(given) != len(files) or len(set(given)) < len(given):
            raise ValueError(f"give --name once per file, all different: {len(files)} files, names {', '.join(given)}")
        return list(given)
    paths = [file.resolve().with_suffix("").parts for file in files]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a file is given twice, or two that differ in their ending only: give each system's --name")


def _write_page(
    page: Path,
    result: Mapping[str, Any],
    reports: Mapping[str, Mapping[str, str]],
    rows: "Sequence[StudyReport]",
    dataset: Any,
    studies: Sequence[str],
    shown: int,
) -> None:
    from .cli_evaluate import with_images_at_hand
    from .evaluation.metric_names import metric_in_words
    from .evaluation.pages.comparison_page import write_comparison_page
    from .evaluation.pages.scores import ScoreRow, ScoreTable

    scores = result["scores"]
    table = ScoreTable(
        list(scores),
        [
            ScoreRow(
                words := metric_in_words(name), [of[name] for of in scores.values()], identifier=name * (words != name)
            )
            for name in next(iter(scores.values()))
        ],
    )
    write_comparison_page(
        page,
        reports,
        with_images_at_hand(rows),
        dataset=dataset,
        only=studies,
        shown=shown,
        scores=table,
        notes=[result["signature"]],
    )


def _test_split(source: str, given: Sequence[str]) -> Any:
    """The test studies of a data set, or of the data set of a recipe."""
    from .data.studies import load_studies
    from .train.recipe import load_recipe
    from .train.recipe_text import parse_options

    options = parse_options(given)
    if source.endswith((".yaml", ".yml")):
        data = load_recipe(source).data
        if data.source is None:
            raise ValueError(f"{source} does not say where its data is: give the data set itself")
        source, options = data.source, data.options | options
    splits = load_studies(source, **options)
    if not len(splits.get("test", ())):
        raise ValueError(f"{source} has no test studies")
    return splits["test"]


_COUNTS = ("hit", "near", "missed", "denied", "invented", "normal_left_out")


def _print(result: Mapping[str, Any]) -> None:
    from rich.table import Table

    console = result_console()
    systems = list(result["scores"])
    for other, comparison in result["comparisons"].items():
        table = Table(box=None, pad_edge=False)
        table.add_column("score")
        for name in (systems[0], other, "difference", "95% interval", "p", "adjusted p"):
            table.add_column(name, justify="right")
        for name, difference in comparison["differences"].items():
            low, high = comparison["intervals"][name]
            table.add_row(
                name,
                f"{result['scores'][systems[0]][name]:.4f}",
                f"{result['scores'][other][name]:.4f}",
                f"{difference:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                f"{comparison['p_values'][name]:.4f}",
                f"{comparison['adjusted_p_values'][name]:.4f}",
            )
        console.print(table)
        console.print()
    counts = Table(box=None, pad_edge=False)
    counts.add_column("findings")
    for name in systems:
        counts.add_column(name, justify="right")
    for name in _COUNTS:
        counts.add_row(name.replace("_", " "), *(str(result["entities"][system][name]) for system in systems))
    console.print(counts)
    console.print()
    print_unavailable(console, result)
    console.print(result["signature"], soft_wrap=True)
