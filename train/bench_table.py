"""The table of a benchmark, with the columns of CXPMRG-Bench's tables and the papers' rows beside ours."""

from collections.abc import Iterator, Mapping, Sequence
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
_OBSERVATIONS = "14_uncertain-negative"


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        head: what stands above it.
        own: the number's name in our results.
        published: its name in the papers' rows; empty where they have none.
        is_score: whether it is a score, shown with three digits and its interval, or an amount.
    """

    head: str
    own: str
    published: str
    is_score: bool = True


_COLUMNS = (
    Column("B4", "Bleu_4", "Bleu_4"),
    Column("R-L", "ROUGE_L", "ROUGE_L"),
    Column("M", "METEOR", "METEOR"),
    Column("C", "CIDEr", "CIDEr"),
    *(
        Column(f"{head} {average}", f"{name}_{average}_{_OBSERVATIONS}", f"{name}_{average}")
        for average in _AVERAGES
        for head, name in (("P", "precision"), ("R", "recall"), ("F1", "F1"))
    ),
    Column("min", "minutes", "minutes", is_score=False),
    Column("M par.", "trained_parameters_millions", "trained_parameters_millions", is_score=False),
)
_MORE_COLUMNS = {
    **{f"Bleu_{n}": Column(f"B{n}", f"Bleu_{n}", f"Bleu_{n}") for n in (1, 2, 3)},
    "RadGraph_F1": Column("RadGraph F1", "RadGraph_F1_partial", "RadGraph_F1"),
    "BERTScore": Column("BERTScore", "BERTScore_F1", "BERTScore"),
    "RadCliQ": Column("RadCliQ", "RadCliQ_v1", "RadCliQ"),
    "epochs": Column("epochs", "epochs", "epochs", is_score=False),
    "loss_gap": Column("loss gap", "loss_gap", ""),
    "copied": Column("copied", "copied", ""),
    "copied_by_chance": Column("by chance", "copied_by_chance", ""),
}
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
_MORE_NOTES = {
    "epochs": "epochs: of training up to the best evaluation.",
    "loss_gap": "loss gap: validation loss less training loss at the best evaluation.",
    "copied": "copied: mean share of a report's words in runs of four or more that its retrieved exemplar has, too.",
    "copied_by_chance": "by chance: the same with another study's exemplar, so what stock phrases alone make.",
}
_SEEDS_NOTE = "Numbers with ± are means over the seeds {}, with the 95 % interval of the mean (Student's t)."


@dataclass(frozen=True)
class TableRow:
    """One line of the table: names, numbers in the order of the columns (None: not known), and a remark.

    Where a cell has several seeds, the numbers are means, and `margins` their 95 % intervals to either side.
    """

    dataset: str
    method: str
    encoder: str
    decoder: str
    numbers: tuple[float | None, ...]
    remark: str
    is_published: bool
    margins: tuple[float | None, ...]


def bench_columns(bench: Bench) -> tuple[Column, ...]:
    """The columns of numbers of a bench: those that it names, and those of CXPMRG-Bench's tables."""
    more = (_MORE_COLUMNS.get(name) or Column(name.removeprefix("eval_"), name, "") for name in bench.columns)
    return (*more, *_COLUMNS)


def bench_rows(bench: Bench, results: Sequence[tuple[Cell, CellResult]]) -> list[TableRow]:
    """Our rows and the papers', data set by data set, ours first."""
    rows = []
    columns = bench_columns(bench)
    datasets = dict.fromkeys(cell.names["dataset"] for cell, _ in results)
    if not isinstance(bench.published, str):
        datasets |= dict.fromkeys(row.dataset for row in load_published() if _is_wanted(row, bench.published))
    for dataset in datasets:
        of_dataset = [pair for pair in results if pair[0].names["dataset"] == dataset]
        rows += [_own(list(seeds), columns) for _, seeds in groupby(of_dataset, key=lambda pair: pair[0].names)]
        rows += [_published(dataset, group, columns) for group in _published_groups(dataset, bench.published)]
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
    more = [note for name, note in _MORE_NOTES.items() if name in bench.columns]
    unavailable = {metric: why for _, result in results for metric, why in result.unavailable.items()}
    notes = [
        *_NOTES,
        *more,
        *seeds,
        *(f"Not available: {metric}: {why}" for metric, why in unavailable.items()),
        *(f"Scored as: {signature}" for signature in signatures),
    ]
    render = {"markdown": _markdown, "latex": _latex, "html": _html}[form]
    return render(bench.description or "Benchmark", bench_columns(bench), rows, notes)


def _own(seeds: Sequence[tuple[Cell, CellResult]], columns: Sequence[Column]) -> TableRow:
    """One cell's line, from its result with each seed."""
    names = seeds[0][0].names
    states = {result.state: result for _, result in seeds}
    done = [_numbers(result, columns) for _, result in seeds if result.state == "done"]
    values = list(zip(*done or [(None,) * len(columns)], strict=True))
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
        numbers=tuple(None if None in column else mean(column) for column in values),
        remark=remark,
        is_published=False,
        margins=tuple(map(_margin, values)),
    )


def _numbers(result: CellResult, columns: Sequence[Column]) -> tuple[float | None, ...]:
    parameters = None if result.trained_parameters is None else result.trained_parameters / 1e6
    known = {**result.scores, **result.numbers, "minutes": result.minutes, "trained_parameters_millions": parameters}
    return tuple(known.get(column.own) for column in columns)


def _margin(values: Sequence[float | None]) -> float | None:
    """How far the 95 % interval of the mean reaches, by Student's t; None without spread."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(set(known)) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(known) - 1)) * stdev(known) / len(known) ** 0.5


def _published_groups(dataset: str, which: str | Mapping[str, Sequence[str]]) -> Iterator[list[PublishedRow]]:
    """The rows of a data set that the bench asks for, those of one method in one paper together."""
    groups: dict[tuple[str, str], list[PublishedRow]] = {}
    for row in load_published():
        if row.dataset == dataset and _is_wanted(row, which):
            groups.setdefault((row.paper, row.method), []).append(row)
    yield from groups.values()


def _is_wanted(row: PublishedRow, which: str | Mapping[str, Sequence[str]]) -> bool:
    """Whether the bench asks for a row: by its paper and table, or among those that compare whole systems."""
    if not isinstance(which, str):
        return row.table in which.get(row.paper, ())
    return bool(row.venue) and (which == "all" or (which == "own" and row.is_own))


def _published(dataset: str, group: Sequence[PublishedRow], columns: Sequence[Column]) -> TableRow:
    scores: dict[str, float] = {}
    for row in group:
        scores |= row.scores
    tables = ", ".join(dict.fromkeys(row.table for row in group))
    # Rows without a venue are the paper's own system, in its ablations.
    is_own = group[0].is_own or not group[0].venue
    average = "micro" if is_own and dataset == "MIMIC-CXR" else "macro"
    scores |= {f"{name}_{average}": scores[name] for name in ("precision", "recall", "F1") if name in scores}
    return TableRow(
        dataset=dataset,
        method=group[0].method,
        encoder=next((row.encoder for row in group if row.encoder), ""),
        decoder=next((row.decoder for row in group if row.decoder), ""),
        numbers=tuple(scores.get(column.published) for column in columns),
        remark=f"{group[0].paper}, table {tables}",
        is_published=True,
        margins=(None,) * len(columns),
    )


def _cells(row: TableRow, columns: Sequence[Column]) -> list[str]:
    numbers = map(_number, row.numbers, row.margins, columns)
    return [row.dataset, row.method, row.encoder, row.decoder, *numbers, row.remark]


def _number(value: float | None, margin: float | None, column: Column) -> str:
    if value is None:
        return "–"
    if not column.is_score:
        return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
    return f"{value:.3f}" if margin is None else f"{value:.3f} ± {margin:.3f}"


def _heads(columns: Sequence[Column]) -> list[str]:
    return ["data set", "method", "encoder", "decoder", *(column.head for column in columns), "source or remark"]


def _markdown(title: str, columns: Sequence[Column], rows: Sequence[TableRow], notes: Sequence[str]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = ["---"] * 4 + ["---:"] * len(columns) + ["---"]
    lines = [f"# {title}", "", line(_heads(columns)), line(rule), *(line(_cells(row, columns)) for row in rows), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "±": r"$\pm$",
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "’": "'"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "},
}


def _latex(title: str, columns: Sequence[Column], rows: Sequence[TableRow], notes: Sequence[str]) -> str:
    def text(value: str) -> str:
        return "".join(_LATEX.get(sign, sign) for sign in value)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(text, cells)) + r" \\"

    lines = ["% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{text(title)}}}"]
    lines += [rf"\begin{{tabular}}{{llll{'r' * len(columns)}l}}", r"\toprule", line(_heads(columns))]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        lines.append(r"\midrule")
        lines += [line(_cells(row, columns)) for row in rows if row.dataset == dataset]
    lines += [r"\bottomrule", r"\end{tabular}", *(rf"\par\footnotesize {text(note)}" for note in notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _html(title: str, columns: Sequence[Column], rows: Sequence[TableRow], notes: Sequence[str]) -> str:
    numbers = {column.head for column in columns}
    heads: list[tuple[str, Any]] = [(head, "number" if head in numbers else "name") for head in _heads(columns)]
    lines: list[tuple[Any, list[str]]] = [
        ("published" if row.is_published else "own", _cells(row, columns)) for row in rows
    ]
    return table_page(heads, lines, title=title, summary="Our runs, and below them what the papers print.", notes=notes)


__all__ = ["TableFormat", "TableRow", "bench_rows", "render_table"]
