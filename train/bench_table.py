"""The table of a benchmark, with the columns of CXPMRG-Bench's tables and the papers' rows beside ours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev
from typing import Literal

from ..data.schema import OBSERVATIONS
from ..evaluation.published import PublishedRow, load_published
from .bench_grid import Bench, Cell
from .bench_run import CellResult
from .table_text import TableFormat, TextTable

_AVERAGES = ("micro", "macro")
_UNCERTAIN = "uncertain-negative"
_OBSERVATIONS = f"14_{_UNCERTAIN}"


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
    columns = bench_columns(bench)
    rows = bench_rows(bench, results)
    signatures = list(dict.fromkeys(result.signature for _, result in results if result.signature))
    more = [note for name, note in _MORE_NOTES.items() if name in bench.columns]
    unavailable = {metric: why for _, result in results for metric, why in result.unavailable.items()}
    notes = [
        *_NOTES,
        *more,
        *_seeds_note(bench),
        *(f"Not available: {metric}: {why}" for metric, why in unavailable.items()),
        *(f"Scored as: {signature}" for signature in signatures),
    ]
    return TextTable(
        title=bench.description or "Benchmark",
        summary="Our runs, and below them what the papers print.",
        heads=[
            *((head, "name") for head in ("data set", "method", "encoder", "decoder")),
            *((column.head, "number") for column in columns),
            ("source or remark", "name"),
        ],
        lines=[("published" if row.is_published else "own", _cells(row, columns)) for row in rows],
        notes=notes,
    ).render(form)


def render_observations(bench: Bench, results: Sequence[tuple[Cell, CellResult]], form: TableFormat) -> str:
    """Recall of each observation, by the number of test studies that have it, and a column for each line of the table.

    Whether a method helps with rare findings is read here.

    Raises:
        ValueError: an unknown format, or no finished cell has clinical scores.
    """
    lines: list[tuple[Literal["own", "published"], list[str]]] = []
    methods = list(dict.fromkeys(_method(cell.names) for cell, _ in results))
    for dataset in dict.fromkeys(cell.names["dataset"] for cell, _ in results):
        scores: dict[str, list[Mapping[str, float]]] = {}
        for cell, result in results:
            if cell.names["dataset"] == dataset and f"support_{OBSERVATIONS[0]}_{_UNCERTAIN}" in result.scores:
                scores.setdefault(_method(cell.names), []).append(result.scores)
        if not scores:
            continue
        support = {name: next(iter(scores.values()))[0][f"support_{name}_{_UNCERTAIN}"] for name in OBSERVATIONS}
        for name in sorted(OBSERVATIONS, key=lambda name: -support[name]):
            recalls = [[each[f"recall_{name}_{_UNCERTAIN}"] for each in scores.get(method, ())] for method in methods]
            lines.append(("own", [dataset, name, f"{support[name]:.0f}", *map(_recall, recalls)]))
    if not lines:
        raise ValueError("no finished cell has clinical scores: name clinical in test.metrics")
    return TextTable(
        title=f"{bench.description or 'Benchmark'}: recall by observation",
        summary="How many of the studies with an observation have it in their report, the most frequent first.",
        heads=[("data set", "name"), ("observation", "name"), *((head, "number") for head in ("studies", *methods))],
        lines=lines,
        notes=["Read by this package's CheXpertStyleLabeler; uncertain counts as negative.", *_seeds_note(bench)],
    ).render(form)


def _recall(values: Sequence[float]) -> str:
    return _number(mean(values), _margin(values), Column("", "", "")) if values else "–"


def _method(names: Mapping[str, str]) -> str:
    return " / ".join(name for axis, name in names.items() if name and axis != "dataset") or "this run"


def _seeds_note(bench: Bench) -> list[str]:
    return [_SEEDS_NOTE.format(", ".join(map(str, bench.seeds)))] if len(bench.seeds) > 1 else []


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


__all__ = ["bench_rows", "render_observations", "render_table"]
