"""Which metrics there are, and their tables for several systems on the same references."""

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from .caption_metrics import BLEU_NAMES, bleu_tables, cider_tables, rouge_l_table
from .clinical import Labels, Uncertain, label_table, score_names
from .findings import ENTITY_SCORES
from .located_labels import COUNT_NAMES, LOCATED_NAMES, LocatedReading, located_table
from .meteor import meteor_tables
from .metric_table import MetricTable, MetricUnavailableError
from .ngram_counts import NgramCounts

CAPTION_METRICS: dict[str, tuple[str, ...]] = {
    "BLEU": BLEU_NAMES,
    "ROUGE_L": ("ROUGE_L",),
    "METEOR": ("METEOR",),
    "CIDEr": ("CIDEr",),
}
"""Families of caption metrics and the names of their scores."""

CAPTION_NAMES = frozenset(name for names in CAPTION_METRICS.values() for name in names)

CLINICAL = "clinical"
"""The family of all scores of `clinical.label_scores`, with each treatment of uncertain labels."""

CLINICAL_NAMES: tuple[str, ...] = tuple(name for uncertain in get_args(Uncertain) for name in score_names(uncertain))

LOCATED = "located"
"""The family of all scores of `located_labels.located_table`."""


LOWER_IS_BETTER = frozenset({"wrong_side_rate", "contradiction_rate", "RadCliQ_v1"})
"""Scores of which less is better; of all others more."""


def is_count(name: str) -> bool:
    """Whether a name is that of a number of cases, which has no interval and is no score to compare."""
    return name.startswith("support_") or name in COUNT_NAMES


ENTITY_FAMILY = "entities"
"""The family of `findings.entity_table`, which is computed on request only."""


def wanted_scores(metrics: Iterable[str] | None, adapters: Iterable[str] = ()) -> list[str]:
    """Names of scores, in a fixed order, for names of families or scores; None: all but the entities' and adapters'.

    Args:
        metrics: families (`BLEU`, `clinical` …) or scores (`Bleu_4`, `F1_micro_14_uncertain-negative` …).
        adapters: further names that may be asked for.

    Raises:
        ValueError: an unknown name, or no name.
        TypeError: one string in place of several.
    """
    families = CAPTION_METRICS | {CLINICAL: CLINICAL_NAMES, LOCATED: LOCATED_NAMES}
    everything = [name for names in families.values() for name in names]
    if metrics is None:
        return everything
    if isinstance(metrics, str):
        raise TypeError(f"metrics={metrics!r}: must be several names, e.g. [{metrics!r}]")
    families[ENTITY_FAMILY] = ENTITY_SCORES
    ordered = (*everything, *ENTITY_SCORES, *adapters)
    known = families | {name: (name,) for name in ordered}
    asked: set[str] = set()
    for name in metrics:
        if name not in known:
            raise ValueError(
                f"unknown metric {name!r}; there are {', '.join([*families, *adapters])}, and single scores such as "
                "Bleu_4 or F1_micro_14_uncertain-negative"
            )
        asked |= set(known[name])
    if not asked:
        raise ValueError("metrics is empty: name at least one, or None for all")
    return [name for name in ordered if name in asked]


def caption_tables(
    references: Sequence[str], systems: Sequence[Sequence[str]], wanted: Sequence[str], unavailable: dict[str, str]
) -> list[list[MetricTable]]:
    """For each system the tables of those caption metrics that `wanted` names a score of.

    METEOR that can't be computed is left out, and why is noted in `unavailable`.
    """
    tables: list[list[MetricTable]] = [[] for _ in systems]
    names = set(wanted)
    bleu, cider = (not names.isdisjoint(CAPTION_METRICS[family]) for family in ("BLEU", "CIDEr"))
    counts = NgramCounts(references, systems) if bleu or cider else None
    if bleu and counts is not None:
        _add(tables, bleu_tables(counts))
    if "ROUGE_L" in names:
        _add(tables, [rouge_l_table(references, hypotheses) for hypotheses in systems])
    if "METEOR" in names:
        try:
            _add(tables, meteor_tables(references, systems))
        except MetricUnavailableError as error:
            unavailable["METEOR"] = str(error)
    if cider and counts is not None:
        _add(tables, cider_tables(counts))
    return tables


def clinical_tables(
    references: Sequence[Labels], hypotheses: Sequence[Labels], wanted: Sequence[str]
) -> list[MetricTable]:
    """One table for each treatment of uncertain labels that `wanted` names a score of."""
    names = set(wanted)
    return [
        label_table(references, hypotheses, uncertain=uncertain)
        for uncertain in get_args(Uncertain)
        if not names.isdisjoint(score_names(uncertain))
    ]


def located_tables(
    references: Sequence[LocatedReading], hypotheses: Sequence[LocatedReading], wanted: Sequence[str]
) -> list[MetricTable]:
    """The table of located scores, where `wanted` names one of them."""
    return [] if set(wanted).isdisjoint(LOCATED_NAMES) else [located_table(references, hypotheses)]


def collected(tables: Iterable[MetricTable], wanted: Sequence[str]) -> dict[str, float]:
    """The scores of all tables that `wanted` names, in its order."""
    return in_order({name: value for table in tables for name, value in table.scores().items()}, wanted)


def in_order(values: Mapping, wanted: Sequence[str]) -> dict:
    """Those entries that `wanted` names, in its order."""
    return {name: values[name] for name in wanted if name in values}


def _add(tables: list[list[MetricTable]], more: Sequence[MetricTable]) -> None:
    for of_system, table in zip(tables, more, strict=True):
        of_system.append(table)
