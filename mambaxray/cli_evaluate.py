"""The command that scores generated reports: `mambaxray evaluate`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .console import error_console, failure, print_unavailable, quiet_transformers, refuse_inputs, result_console

if TYPE_CHECKING:
    from .evaluation.protocols import Protocol
    from .evaluation.study_report import StudyReport
    from .evaluation.tokenization import Tokenize

_TRAINING_SPLIT = "train"
_AVERAGES = ("_micro_", "_macro_", "_example_")
_CHECKS = ("unique_ratio", "empty_share", "truncated_share", "repetition", "length_ratio")


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS",
            help="Generated reports (.jsonl or .csv with study_id and report, as written by mambaxray generate), "
            "optionally with a column reference.",
            show_default=False,
        ),
    ],
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            "-r",
            metavar="FILE",
            help="Reference reports: .jsonl or .csv with study_id and reference (or report), or an annotation.json in "
            "R2Gen's format.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of an annotation.json to score.")] = "test",
    only_present: Annotated[
        bool,
        typer.Option(
            "--only-present",
            help="Score only the studies in PREDICTIONS and ignore other references. Such scores are not comparable "
            "with those of all studies.",
        ),
    ] = False,
    training_reports: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Training reports for the baselines. Default: the split 'train' of an annotation.json, otherwise the "
            "references.",
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="Metric to compute; can be repeated: BLEU, ROUGE_L, METEOR, CIDEr, clinical, located, or a single "
            "score such as Bleu_4; with radeval also RadGraph, RadCliQ, CheXbert, BERTScore, RaTEScore, GREEN, "
            "CRIMSON. Default: all but radeval's.",
            show_default=False,
        ),
    ] = None,
    tokenize: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Tokenization for the caption metrics: none (split at whitespace, as in the papers) or ptb (Penn "
            "Treebank, without punctuation; needs Java).",
        ),
    ] = "none",
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Protocol: full-reference (complete reports) or r2gen-compat (references and reports truncated to "
            "--max-tokens tokens of --tokenizer, as in much published code; scores are higher).",
        ),
    ] = "full-reference",
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Tokenizer for r2gen-compat: a folder or Hub name."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum report length in tokens for r2gen-compat; the papers use 60 for IU X-ray, 100 for MIMIC-CXR.",
        ),
    ] = None,
    section: Annotated[
        str,
        typer.Option(metavar="NAME", help="Section that the reports cover (findings, ...), recorded in the signature."),
    ] = "report",
    external_python: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Python interpreter of an environment with the package radeval, for RadGraph, RadCliQ, CheXbert, "
            "BERTScore, RaTEScore, GREEN and CRIMSON.",
        ),
    ] = None,
    ci: Annotated[bool, typer.Option("--ci/--no-ci", help="Compute bootstrap confidence intervals by patient.")] = True,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="JSON file for all results, including scores per study."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file for scores, charts and example studies.")
    ] = None,
) -> None:
    """Score generated reports against reference reports.

    Prints each score with its 95% confidence interval, the scores of baselines that ignore or barely use the images,
    and a signature of how everything was computed. Clinical scores use the package's own rule-based labeler, which is
    neither the CheXpert labeler nor CheXbert.

    A study without a generated report is scored as an empty report.

    \b
    Examples:
      mambaxray evaluate reports.jsonl --references annotation.json \\
        --html evaluation.html
      mambaxray evaluate both.csv --metric BLEU --metric clinical \\
        --output scores.json
    """
    console = error_console()
    try:
        from .data.whole_file import require_writable, write_whole
        from .evaluation.report_files import matched_reports
        from .evaluation.scoring import evaluate_reports

        for written in (output, html):
            refuse_inputs(written, predictions, references, training_reports)
            if written is not None:
                require_writable(written)
        rows = matched_reports(predictions, references, split=split, only_present=only_present)
        empty = sum(row.report is None for row in rows)
        if empty:
            console.print(f"{empty} of {len(rows)} studies have no generated report and count as empty ones")
        ids = [row.study_id for row in rows]
        with console.status(f"Scoring {len(rows)} reports"):
            result = evaluate_reports(
                dict(zip(ids, (row.reference or "" for row in rows), strict=True)),
                dict(zip(ids, (row.report or "" for row in rows), strict=True)),
                metrics=metrics,
                tokenize=cast("Tokenize", tokenize),
                protocol=cast("Protocol", protocol),
                ci=ci,
                patients=dict(zip(ids, (row.patient_id or row.study_id for row in rows), strict=True)),
                tokenizer=None if tokenizer is None else load_tokenizer(tokenizer),
                max_tokens=max_tokens,
                section=section,
                external_python=external_python,
                training_reports=_training_reports(training_reports, references),
            )
        _print_result(result)
        if output is not None:
            write_whole(output, json.dumps(result, indent=1, ensure_ascii=False))
        if html is not None:
            console.print(f"page: {_write_page(html, result, rows)}")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise failure(error) from error


def load_tokenizer(name: str) -> Any:
    """The tokenizer that `r2gen-compat` cuts reports with."""
    quiet_transformers()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)


def _training_reports(file: Path | None, references: Path | None) -> list[str] | None:
    from .evaluation.report_files import read_reports

    split = _TRAINING_SPLIT
    if file is None:
        if references is None or references.suffix.lower() != ".json":
            return None
        file = references
        if split not in json.loads(file.read_text(encoding="utf-8-sig")):
            return None
    rows = read_reports(file, split=split)
    return [text for row in rows if (text := row.reference or row.report)]


def _print_result(result: Mapping[str, Any]) -> None:
    from rich.table import Table

    from .evaluation.metric_names import metric_in_words

    scores, intervals, honesty = result["scores"], result["intervals"], result["honesty"]
    table = Table(box=None, pad_edge=False)
    table.add_column("score")
    columns = ["", *(["95% interval"] if intervals else []), *honesty["baselines"]]
    for name in columns:
        table.add_column(name, justify="right")
    captions = [name for name in scores if "_uncertain-" not in name]
    averages = [name for name in scores if any(part in name for part in _AVERAGES) and name.endswith("negative")]
    shown = [*captions, *averages] or [*scores]
    for name in shown:
        interval = [f"{intervals[name][0]:.4f} to {intervals[name][1]:.4f}" if name in intervals else ""]
        rivals = [f"{values[name]:.4f}" if name in values else "" for values in honesty["baselines"].values()]
        table.add_row(metric_in_words(name), f"{scores[name]:.4f}", *(interval if intervals else []), *rivals)
    checks = Table(box=None, pad_edge=False)
    for name in ("check", "reports", "references"):
        checks.add_column(name, justify="left" if name == "check" else "right")
    for name in _CHECKS:
        reference = honesty.get(f"reference_{name}")
        checks.add_row(name, f"{honesty[name]:.4f}", "" if reference is None else f"{reference:.4f}")
    console = result_console()
    console.print(table)
    console.print()
    console.print(checks)
    console.print()
    print_unavailable(console, result)
    if len(shown) < len(scores):
        console.print(f"{len(scores) - len(shown)} more scores: --output", soft_wrap=True)
    console.print(result["signature"], soft_wrap=True)


def with_images_at_hand(rows: Sequence["StudyReport"]) -> list["StudyReport"]:
    """The studies with those of their images that are files on this machine."""
    studies = []
    for row in rows:
        images = [image for image in row.images if isinstance(image, str | PathLike) and Path(image).is_file()]
        context = dict(row.context or {})
        if "prior_images" in context:
            context["prior_images"] = [image for image in context["prior_images"] if Path(image).is_file()]
        studies.append(replace(row, images=images, views=[""] * len(images), context=context or None))
    return studies


def _write_page(path: Path, result: Mapping[str, Any], rows: Sequence["StudyReport"]) -> Path:
    from .evaluation.pages.evaluation_page import write_evaluation_page

    studies = with_images_at_hand(rows)
    rank_by = "ROUGE_L" if "ROUGE_L" in result["per_sample"] else next(iter(result["per_sample"]), None)
    if rank_by is None:
        raise ValueError("--html ranks the studies and needs a metric that single studies have, e.g. --metric ROUGE_L")
    return write_evaluation_page(path, result, studies, rank_by=rank_by)
