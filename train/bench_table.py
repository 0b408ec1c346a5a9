"""The table of a benchmark, with the columns of CXPMRG-Bench's tables and the papers' rows beside ours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev
from typing import Any, Literal, get_args

from ..evaluation.pages.table_page import table_page
from ..evaluation.published import PublishedRow, load_published
from .bench_grid import Bench, Cell
from .bench_run import CellResult

TableFormat = Literal["markdown", "latex", "html"]

_AVERAGES = ("micro", "macro")
_CLINICAL = tuple(f"{name}_{average}" for average in _AVERAGES for name in ("precision", "recall", "F1"))
_OBSERVATIONS = "14_uncertain-negative"
_NUMBERS = (
    *("B4", "R-L", "M", "C"),
    *(f"{name} {average}" for average in _AVERAGES for name in ("P", "R", "F1")),
    *("min", "M par."),
)
_SCORES = ("Bleu_4", "ROUGE_L", "METEOR", "CIDEr")
_NOTES = (
    "B4, R-L, M, C: BLEU-4, ROUGE-L, METEOR, CIDEr. P, R, F1: clinical precision, recall, F1, averaged over all pairs "
    "of study and observation (micro) or over the observations (macro). min: minutes to write the reports of the test "
    "split. M par.: millions of trained parameters.",
    f"P, R, F1 of our rows are {_OBSERVATIONS} of this package's CheXpertStyleLabeler; the papers' come from other "
    "labelers and can't be compared with them. Minutes depend on the machine.",
    "The papers do not name their averages. F1 is the harmonic mean of P and R, as micro averages have it, in their "
    "own rows on MIMIC-CXR alone; all others are shown as macro.",
    "Rows with a source are printed in the paper; they were not measured here.",
)
_SEEDS_NOTE = "Numbers with ± are means over the seeds {}, with the 95 % interval of the mean (Student's t)."


@dataclass(frozen=True)
class TableRow:
    """One line of the table: names, numbers (None: not known), and what is to be said about it.

    Where a cell has several seeds, the numbers are means, and `margins` their 95 % intervals to either side.
    """

    dataset: str
    method: str
    encoder: str
    decoder: str
    numbers: tuple[float | None, ...]
    remark: str
    is_published: bool
    margins: tuple[float | None, ...] = (None,) * len(_NUMBERS)


def bench_rows(bench: Bench, results: Sequence[tuple[Cell, CellResult]]) -> list[TableRow]:
    """Our rows and the papers', data set by data set, ours first."""
    rows = []
    for dataset in dict.fromkeys(cell.names["dataset"] for cell, _ in results):
        of_dataset = [pair for pair in results if pair[0].names["dataset"] == dataset]
        rows += [_own(list(seeds)) for _, seeds in groupby(of_dataset, key=lambda pair: pair[0].names)]
        rows += [_published(dataset, group) for group in _published_groups(dataset, bench.published)]
    return rows


def render_table(bench: Bench, results: Sequence[tuple[Cell, CellResult]], form: TableFormat) -> str:
    """The table as text of that format, with notes on what the columns mean.

    Raises:
        ValueError: an unknown format.
    """
    if form not in get_args(TableFormat):
        raise ValueError(f"format {form!r}: must be one of {', '.join(get_args(TableFormat))}")
    rows = bench_rows(bench, results)
    signatures = list(dict.fromkeys(result.signature for _, result in results if result.signature))
    seeds = [_SEEDS_NOTE.format(", ".join(map(str, bench.seeds)))] if len(bench.seeds) > 1 else []
    notes = [*_NOTES, *seeds, *(f"Scored as: {signature}" for signature in signatures)]
    render = {"markdown": _markdown, "latex": _latex, "html": _html}[form]
    return render(bench.description or "Benchmark", rows, notes)


def _own(seeds: Sequence[tuple[Cell, CellResult]]) -> TableRow:
    """One cell's line, from its result with each seed."""
    names = seeds[0][0].names
    states = {result.state: result for _, result in seeds}
    done = [_numbers(result) for _, result in seeds if result.state == "done"]
    columns = list(zip(*done or [_numbers(seeds[0][1])], strict=True))
    worst = next((states[state] for state in ("failed", "lacking", "open") if state in states), None)
    remark = ""
    if worst is not None:
        remark = "not run yet" if worst.state == "open" else f"{worst.state}: {worst.reason}"
        if done:
            remark = f"{len(done)} of {len(seeds)} seeds; {remark}"
    return TableRow(
        dataset=names["dataset"],
        method=", ".join(names[axis] for axis in ("variant", "checkpoint") if names[axis]) or "this run",
        encoder=names["vision_encoder"],
        decoder=names["decoder"],
        numbers=tuple(None if None in column else mean(column) for column in columns),
        remark=remark,
        is_published=False,
        margins=tuple(map(_margin, columns)),
    )


def _numbers(result: CellResult) -> tuple[float | None, ...]:
    parameters = None if result.trained_parameters is None else result.trained_parameters / 1e6
    clinical = (result.scores.get(f"{name}_{_OBSERVATIONS}") for name in _CLINICAL)
    return (*(result.scores.get(name) for name in _SCORES), *clinical, result.minutes, parameters)


def _margin(values: Sequence[float | None]) -> float | None:
    """How far the 95 % interval of the mean reaches, by Student's t; None without spread."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(set(known)) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(known) - 1)) * stdev(known) / len(known) ** 0.5


def _published_groups(dataset: str, which: str) -> Iterator[list[PublishedRow]]:
    """The rows of a data set that the bench asks for, those of one method in one paper together."""
    groups: dict[tuple[str, str], list[PublishedRow]] = {}
    for row in load_published():
        if row.dataset == dataset and row.venue and (which == "all" or (which == "own" and row.is_own)):
            groups.setdefault((row.paper, row.method), []).append(row)
    yield from groups.values()


def _published(dataset: str, group: Sequence[PublishedRow]) -> TableRow:
    scores: dict[str, float] = {}
    for row in group:
        scores |= row.scores
    tables = ", ".join(dict.fromkeys(row.table for row in group))
    average = "micro" if group[0].is_own and dataset == "MIMIC-CXR" else "macro"
    scores |= {f"{name}_{average}": scores[name] for name in ("precision", "recall", "F1") if name in scores}
    wanted = (*_SCORES, *_CLINICAL, "minutes", "trained_parameters_millions")
    return TableRow(
        dataset=dataset,
        method=group[0].method,
        encoder=next((row.encoder for row in group if row.encoder), ""),
        decoder=next((row.decoder for row in group if row.decoder), ""),
        numbers=tuple(scores.get(name) for name in wanted),
        remark=f"{group[0].paper}, table {tables}",
        is_published=True,
    )


def _cells(row: TableRow) -> list[str]:
    numbers = map(_number, row.numbers, row.margins, _NUMBERS)
    return [row.dataset, row.method, row.encoder, row.decoder, *numbers, row.remark]


def _number(value: float | None, margin: float | None, column: str) -> str:
    if value is None:
        return "–"
    if column in ("min", "M par."):
        return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
    return f"{value:.3f}" if margin is None else f"{value:.3f} ± {margin:.3f}"


_HEADS = ("data set", "method", "encoder", "decoder", *_NUMBERS, "source or remark")


def _markdown(title: str, rows: Sequence[TableRow], notes: Sequence[str]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = ["---"] * 4 + ["---:"] * len(_NUMBERS) + ["---"]
    lines = [f"# {title}", "", line(_HEADS), line(rule), *(line(_cells(row)) for row in rows), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "±": r"$\pm$",
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "’": "'"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "},
}


def _latex(title: str, rows: Sequence[TableRow], notes: Sequence[str]) -> str:
    def text(value: str) -> str:
        return "".join(_LATEX.get(sign, sign) for sign in value)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(text, cells)) + r" \\"

    lines = ["% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{text(title)}}}"]
    lines += [rf"\begin{{tabular}}{{llll{'r' * len(_NUMBERS)}l}}", r"\toprule", line(_HEADS)]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        lines.append(r"\midrule")
        lines += [line(_cells(row)) for row in rows if row.dataset == dataset]
    lines += [r"\bottomrule", r"\end{tabular}", *(rf"\par\footnotesize {text(note)}" for note in notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _html(title: str, rows: Sequence[TableRow], notes: Sequence[str]) -> str:
    columns: list[tuple[str, Any]] = [(name, "number" if name in _NUMBERS else "name") for name in _HEADS]
    lines: list[tuple[Any, list[str]]] = [("published" if row.is_published else "own", _cells(row)) for row in rows]
    return table_page(
        columns, lines, title=title, summary="Our runs, and below them what the papers print.", notes=notes
    )


__all__ = ["TableFormat", "TableRow", "bench_rows", "render_table"]
