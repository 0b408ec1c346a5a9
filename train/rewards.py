"""Rewards for reports: what `mambaxray align` optimises, each a function that TRL's trainers accept.

A reward is called as `reward(completions=..., report=..., **columns)` and returns one number per completion, more for
a better report. `completions` are texts or conversations; the column `report` has the reference of each. None stands
for a completion that a reward can't judge. Rewards are of different scales, so they are normalised one by one, within
the reports of one study, before they are summed (`multi_objective_aggregation="normalize_then_sum"` of TRL, and
`normalized_sum`): a weight is a share of the whole.

`REWARDS` lists them by name; `register_reward` adds one of your own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from math import log
from os import PathLike
from typing import Any, Protocol

import numpy as np

from ..data.schema import PRESENT, UNCERTAIN
from ..evaluation.caption_metrics import bleu_tables, rouge_l_table
from ..evaluation.cider import CiderScorer
from ..evaluation.clinical import Uncertain
from ..evaluation.honesty import repetition_of
from ..evaluation.labeler import CheXpertStyleLabeler, Reading
from ..evaluation.located_labels import LocatedCounts, LocatedReading, compare_located, locate
from ..evaluation.ngram_counts import NgramCounts
from ..evaluation.radeval_metrics import radeval_scores

Texts = Sequence[str]
_READ_TEXTS = 20_000
"""Texts whose reading is kept: references come back with every sample and every epoch."""
_WITHIN = 1.25
"""Ratio of lengths, either way, up to which a length costs nothing."""
_WORST = 2.5
"""Ratio of lengths, either way, from which it costs all."""


class Reward(Protocol):
    """A function as TRL's `reward_funcs` takes it."""

    __name__: str

    def __call__(self, *, completions: Sequence[Any], report: Texts, **columns: Any) -> list[float | None]: ...


class RewardContext:
    """What rewards share: the reader of texts, and what the recipe says of all of them.

    Args:
        uncertain: what an uncertain observation counts as in `label_f1`: "positive", "negative", or "ignore", which
            leaves out what is uncertain in the reference.
        references: training reports, from which `cider` takes how rare words are.
        external_python: Python of an environment with radeval, see `radeval_metrics.radeval_scores`. It loads the
            models anew for every batch; where radeval can be imported they stay loaded.
    """

    def __init__(
        self,
        *,
        uncertain: Uncertain = "negative",
        references: Sequence[str] = (),
        external_python: str | PathLike | None = None,
    ):
        self.uncertain = uncertain
        self.references = references
        self.external_python = external_python
        labeler = CheXpertStyleLabeler()

        @lru_cache(maxsize=_READ_TEXTS)
        def read(text: str) -> tuple[Reading, LocatedReading]:
            reading = labeler.read(text)
            return reading, locate(reading)

        @lru_cache(maxsize=_READ_TEXTS)
        def compare(report: str, reference: str) -> LocatedCounts:
            return compare_located(read(reference)[1], read(report)[1])

        self.read = read
        self.compare = compare


Maker = Callable[[RewardContext], Callable[[Texts, Texts], Iterable[float | None]]]
"""Makes the function that scores reports against references, in the order (reports, references)."""

REWARDS: dict[str, Maker] = {}
"""The rewards by name."""


def register_reward(name: str) -> Callable[[Maker], Maker]:
    """Registers a reward under a name that recipes can use; a decorator.

    The function gets a `RewardContext` and returns one that takes reports and references and gives a number for each.

    Raises:
        ValueError: the name is taken.
    """

    def register(maker: Maker) -> Maker:
        if name in REWARDS:
            raise ValueError(f"the reward {name!r} is registered already: choose another name")
        REWARDS[name] = maker
        return maker

    return register


def make_rewards(names: Iterable[str], context: RewardContext | None = None) -> list[Reward]:
    """The rewards of these names, as functions for TRL that share what they read.

    Raises:
        ValueError: an unknown name.
        MetricUnavailableError: when one is called whose model is not there.
    """
    context = context or RewardContext()
    return [_reward(name, context) for name in names]


def _reward(name: str, context: RewardContext) -> Reward:
    if name not in REWARDS:
        raise ValueError(f"unknown reward {name!r}; there are {', '.join(REWARDS)}")
    score = REWARDS[name](context)

    def reward(*, completions: Sequence[Any], report: Texts, **columns: Any) -> list[float | None]:
        values = score([text_of(completion) for completion in completions], list(report))
        return [None if value is None or value != value else float(value) for value in values]

    reward.__name__ = name
    return reward


def text_of(completion: Any) -> str:
    """The text of a completion: itself, or what the messages of a conversation say."""
    if isinstance(completion, str):
        return completion
    parts = []
    for message in completion:
        content = message["content"]
        blocks = [content] if isinstance(content, str) else [block.get("text", "") for block in content]
        parts += [block for block in blocks if block]
    return " ".join(parts)


# ------------------------------------------------------------------------------------ read from the text


@register_reward("label_f1")
def label_f1(context: RewardContext) -> Callable[[Texts, Texts], list[float]]:
    """F1 of the 14 observations that report and reference state, per study; 1 where neither states any."""

    def score(reports: Texts, references: Texts) -> list[float]:
        pairs = zip(reports, references, strict=True)
        return [_label_f1(context.read(a)[0], context.read(b)[0], context.uncertain) for a, b in pairs]

    return score


def _label_f1(report: Reading, reference: Reading, uncertain: Uncertain) -> float:
    positive = (PRESENT, UNCERTAIN) if uncertain == "positive" else (PRESENT,)
    skipped = {name for name, value in reference.labels.items() if uncertain == "ignore" and value == UNCERTAIN}
    stated, true = (
        {name for name, value in reading.labels.items() if value in positive} - skipped
        for reading in (report, reference)
    )
    return _f1(stated, true)


def _f1(stated: set[str], true: set[str]) -> float:
    return 2 * len(stated & true) / (len(stated) + len(true)) if stated or true else 1.0


@register_reward("denial_f1")
def denial_f1(context: RewardContext) -> Callable[[Texts, Texts], list[float]]:
    """F1 of the observations that report and reference rule out, per study; 1 where neither rules out any. A denial
    that the reference does not make costs precision, or a report that denies everything would be the best."""

    def score(reports: Texts, references: Texts) -> list[float]:
        return [_f1(*map(denied, pair)) for pair in zip(reports, references, strict=True)]

    def denied(text: str) -> set[str]:
        return {name for name, sides in context.read(text)[1].ruled_out.items() if not sides}

    return score


@register_reward("located_f1")
def located_f1(context: RewardContext) -> Callable[[Texts, Texts], list[float]]:
    """F1 of findings on a side, per study (`located_labels.LocatedCounts`); a hit whose size both texts say, and
    differently, counts half. 1 where neither states anything."""

    def score(reports: Texts, references: Texts) -> list[float]:
        values = []
        for counts in map(context.compare, reports, references):
            hits = counts.hits.sum() - (counts.compared.sum() - counts.agreed.sum()) / 2
            both = int(counts.stated.sum()) + int(counts.true.sum())
            values.append(float(2 * hits / both) if both else 1.0)
        return values

    return score


@register_reward("contradiction_penalty")
def contradiction_penalty(context: RewardContext) -> Callable[[Texts, Texts], list[float]]:
    """Minus the number of findings that the report states and the reference rules out."""

    def score(reports: Texts, references: Texts) -> list[float]:
        return [-float(counts.contradicted.sum()) for counts in map(context.compare, reports, references)]

    return score


@register_reward("repetition")
def repetition(context: RewardContext) -> Callable[[Texts, Texts], list[float]]:
    """Minus the share of a report's sequences of four words that it had before."""
    return lambda reports, references: [-repetition_of(report) for report in reports]


@register_reward("length")
def length(context: RewardContext) -> Callable[[Texts, Texts], list[float]]:
    """0 within a factor of 1.25 of the reference's number of words, falling with the logarithm to -1 at 2.5."""

    def score(reports: Texts, references: Texts) -> list[float]:
        return [
            -_length_cost(len(report.split()), len(reference.split()))
            for report, reference in zip(reports, references, strict=True)
        ]

    return score


def _length_cost(words: int, wanted: int) -> float:
    if not words or not wanted:
        return float(words != wanted)
    excess = abs(log(words / wanted)) - log(_WITHIN)
    return min(1.0, max(0.0, excess / log(_WORST / _WITHIN)))


@register_reward("bleu")
def bleu(context: RewardContext) -> Callable[[Texts, Texts], np.ndarray]:
    """BLEU-4 of each report."""
    return lambda reports, references: bleu_tables(NgramCounts(list(references), [list(reports)]))[0].per_sample[
        "Bleu_4"
    ]


@register_reward("rouge")
def rouge(context: RewardContext) -> Callable[[Texts, Texts], np.ndarray]:
    """ROUGE-L of each report."""
    return lambda reports, references: rouge_l_table(references, reports).per_sample["ROUGE_L"]


@register_reward("cider")
def cider(context: RewardContext) -> Callable[[Texts, Texts], list[float]]:
    """CIDEr-D of each report, with the document frequencies of the training reports."""
    return CiderScorer(context.references)


# ----------------------------------------------------------------------------------- models of their own


def _model_reward(family: str, score_name: str) -> Maker:
    def make(context: RewardContext) -> Callable[[Texts, Texts], np.ndarray]:
        def score(reports: Texts, references: Texts) -> np.ndarray:
            scores = radeval_scores(family, references, reports, external_python=context.external_python)
            return np.full(len(reports), np.nan) if scores.table is None else scores.table.per_sample[score_name]

        return score

    make.__doc__ = f"{score_name} by radeval, see `evaluation.radeval_metrics`."
    return make


MODEL_REWARDS = {
    "bertscore": ("BERTScore", "BERTScore_F1"),
    "radgraph": ("RadGraph", "RadGraph_F1_partial"),
    "ratescore": ("RaTEScore", "RaTEScore"),
    "green": ("GREEN", "GREEN"),
    "crimson": ("CRIMSON", "CRIMSON"),
}
"""Rewards that need radeval and weights: the family and the score of `RADEVAL_METRICS` that each is."""
for _name, (_family, _score) in MODEL_REWARDS.items():
    register_reward(_name)(_model_reward(_family, _score))


def check_rewards(weights: Mapping[str, float]) -> None:
    """Raises ValueError unless there is a reward, and each has a known name and a positive weight."""
    if not weights:
        raise ValueError(f"rewards is empty: give at least one with its weight, of {', '.join(REWARDS)}")
    for name, weight in weights.items():
        if name not in REWARDS:
            raise ValueError(f"unknown reward {name!r}; there are {', '.join(REWARDS)}")
        if not weight > 0:
            raise ValueError(f"rewards.{name} is {weight}: a weight must be positive; leave the reward out instead")


def normalized_sum(values: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]) -> list[float]:
    """Each reward of one study's reports with mean 0 and standard deviation 1, times its weight, summed: what TRL calls
    "normalize_then_sum", for one group. None counts as the mean."""
    total = np.zeros(len(next(iter(values.values()))))
    for name, column in values.items():
        numbers = np.asarray([np.nan if value is None else value for value in column], dtype=np.float64)
        if np.isnan(numbers).all():
            continue
        centred = numbers - np.nanmean(numbers)
        spread = np.nanstd(numbers, ddof=1) if len(numbers) > 1 else 0.0
        total += weights[name] * np.nan_to_num(centred / (spread + 1e-4))
    return total.tolist()


__all__ = [
    "MODEL_REWARDS",
    "REWARDS",
    "Reward",
    "RewardContext",
    "check_rewards",
    "make_rewards",
    "normalized_sum",
    "register_reward",
    "text_of",
]
