"""`evaluate_reports`: every metric of generated reports, with intervals, honesty checks and a signature."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .baselines import (
    best_constant_caption,
    best_constant_report,
    nearest_reports,
    patient_numbers,
    random_reports,
    random_reports_of_others,
)
from .clinical import Labels
from .findings import ENTITY_SCORES, entity_table
from .honesty import honesty_checks
from .labeler import CheXpertStyleLabeler, Reading
from .located_labels import LOCATED_NAMES, LocatedReading, locate
from .metric_table import MetricTable, MetricUnavailableError, check_pairs
from .protocols import Protocol, apply_protocol, check_protocol, signature
from .radeval_metrics import RADEVAL_METRICS, radeval_scores
from .score_tables import (
    CAPTION_NAMES,
    CLINICAL_NAMES,
    caption_tables,
    clinical_tables,
    collected,
    in_order,
    is_count,
    located_tables,
    wanted_scores,
)
from .statistics import bootstrap_intervals
from .tokenization import Tokenize, one_line, tokenize_reports

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Reports = Sequence[str] | Mapping[Any, str]

_CANDIDATES = 2000
"""Most reports among which the best constant one is sought."""


@dataclass(frozen=True)
class Studies:
    """Studies ready to score.

    Attributes:
        ids: of the studies.
        references, hypotheses: as the protocol has them.
        patients: `(studies,)` numbers from 0.
    """

    ids: list[Hashable]
    references: list[str]
    hypotheses: list[str]
    patients: np.ndarray


def evaluate_reports(
    references: Reports,
    hypotheses: Reports,
    *,
    metrics: Iterable[str] | None = None,
    tokenize: Tokenize = "none",
    protocol: Protocol = "full-reference",
    ci: bool = True,
    patients: Sequence[Hashable] | Mapping[Any, Hashable] | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_tokens: int | None = None,
    section: str = "report",
    training_reports: Sequence[str] | None = None,
    features: np.ndarray | None = None,
    training_features: np.ndarray | None = None,
    external_python: str | PathLike | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores generated reports against reference reports.

    Args:
        references, hypotheses: the reports, both as sequences in one order or both as mappings from study id.
        metrics: families (`BLEU`, `ROUGE_L`, `METEOR`, `CIDEr`, `clinical`, `located`) or single scores (`Bleu_4`,
            `F1_micro_14_uncertain-negative` …); None means all of these. `entities` are the shares of
            `findings.entity_table`, on request only. `RadGraph`, `RadCliQ`, `CheXbert`, `BERTScore`, `RaTEScore`,
            `GREEN` and `CRIMSON` are computed by the package radeval when asked for, without baselines.
        tokenize: for the caption metrics, "none" or "ptb", see `tokenization.tokenize_reports`.
        protocol: "full-reference" or "r2gen-compat", see `protocols.apply_protocol`.
        ci: whether to compute bootstrap intervals.
        patients: patient of each study, as `references` are given; studies of one patient are resampled together.
            Default: every study is another patient.
        tokenizer, max_tokens: for "r2gen-compat".
        section: what part of a report is scored ("findings" …); it only goes into the signature.
        training_reports: reports from which the baselines take theirs. Default: the references of other patients.
        features: image features `(studies, features)` in the order of the studies, for the nearest neighbour.
        training_features: the same of `training_reports`, `(reports, features)`; needed with both others.
        external_python: Python of an environment with radeval, see `radeval_metrics.radeval_scores`.
        resamples, confidence, seed: of the bootstrap; the seed also draws the random reports.

    Returns:
        A dictionary that JSON can hold:

        - `scores`: `{name: value}`: `Bleu_1` … `Bleu_4`, `ROUGE_L`, `METEOR`, `CIDEr` and the names of
          `clinical.label_scores` with each treatment of uncertain labels, and those of `located_labels.located_table`.
        - `per_sample`: `{name: [value per study]}` for the metrics that a single study has; the clinical ones are
          the example-based.
        - `intervals`: `{name: (low, high)}`, empty without `ci`; supports and other counts have none.
        - `honesty`: what `honesty.honesty_checks` returns; `baselines`, a dictionary of scores for each baseline, by
          its name; `constant_reports`, the report with the best BLEU-4 and the one with the best F1, which give the
          baseline "best constant report" its caption and its clinical scores.
        - `signature`: one line that says what was scored and how.
        - `unavailable`: `{metric or baseline: why, and what to do}`.
        - `ids`: of the studies, in the order of `per_sample`; numbers from 0 for sequences.

    Raises:
        ValueError: no studies, studies that don't match, unknown names, options that don't fit each other.
        TypeError: a report that is not a string.
        MetricUnavailableError: "ptb" without Java or pycocoevalcap.
    """
    wanted = wanted_scores(metrics, RADEVAL_METRICS)
    check_protocol(protocol, tokenizer, max_tokens)
    studies = prepare_studies(references, hypotheses, patients, protocol, tokenizer, max_tokens)
    pool = None if training_reports is None else apply_protocol(training_reports, protocol, tokenizer, max_tokens)
    if pool is not None and not pool:
        raise ValueError("training_reports is empty: leave it out to take the baselines from the references")
    labels = LabelCache()
    unavailable: dict[str, str] = {}
    constant = _constant_reports(studies, pool or studies.references, labels, seed)
    baselines = {"best constant report": [[report] * len(studies.ids) for report in constant.values()]}
    for name, reports in _other_baselines(studies, pool, features, training_features, seed, unavailable):
        baselines[name] = [reports, reports]
    tables, *baseline_tables = score_systems(
        studies.references,
        [[studies.hypotheses, studies.hypotheses], *baselines.values()],
        wanted,
        tokenize=tokenize,
        labels=labels,
        unavailable=unavailable,
    )
    radeval_version, fixed = _add_radeval(tables, wanted, studies, external_python, unavailable)
    intervals = {}
    if ci and tables:
        intervals = bootstrap_intervals(tables, studies.patients, resamples=resamples, confidence=confidence, seed=seed)
    per_sample = {name: values.tolist() for table in tables for name, values in table.per_sample.items()}
    return {
        "scores": collected(tables, wanted) | fixed,
        "per_sample": in_order(per_sample, wanted),
        "intervals": in_order({name: value for name, value in intervals.items() if not is_count(name)}, wanted),
        "honesty": honesty_checks(studies.references, studies.hypotheses)
        | {
            "baselines": {
                name: collected(tables, wanted) for name, tables in zip(baselines, baseline_tables, strict=True)
            },
            "constant_reports": constant,
        },
        "signature": signature(
            studies=len(studies.ids),
            section=section,
            tokenize=tokenize,
            protocol=protocol,
            tokenizer=tokenizer,
            max_tokens=max_tokens,
            radeval=radeval_version,
            intervals=f"bs{resamples},{confidence:g},seed{seed},{studies.patients.max() + 1}patients" if ci else None,
        ),
        "unavailable": unavailable,
        "ids": studies.ids,
    }


def _add_radeval(
    tables: list[MetricTable],
    wanted: list[str],
    studies: Studies,
    external_python: str | PathLike | None,
    unavailable: dict[str, str],
) -> tuple[str | None, dict[str, float]]:
    """Adds the wanted metrics of radeval to `tables`, and their names to `wanted`.

    Returns:
        radeval's version, None where it scored nothing, and the scores that only the whole corpus has.
    """
    version = None
    corpus: dict[str, float] = {}
    for name in [name for name in wanted if name in RADEVAL_METRICS]:
        try:
            family = radeval_scores(name, studies.references, studies.hypotheses, external_python=external_python)
        except MetricUnavailableError as error:
            unavailable[name] = str(error)
            continue
        version = family.version
        corpus |= family.corpus
        tables += [family.table] if family.table else []
        wanted += [*(family.table.names if family.table else ()), *family.corpus]
    return version, corpus


def score_reports(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    metrics: Iterable[str] | None = None,
    tokenize: Tokenize = "none",
) -> tuple[dict[str, float], dict[str, str]]:
    """The `scores` and the `unavailable` of `evaluate_reports`, without all that stands beside them."""
    wanted = wanted_scores(metrics)
    studies = prepare_studies(references, hypotheses, None, "full-reference", None, None)
    unavailable: dict[str, str] = {}
    (tables,) = score_systems(
        studies.references,
        [[studies.hypotheses, studies.hypotheses]],
        wanted,
        tokenize=tokenize,
        labels=LabelCache(),
        unavailable=unavailable,
    )
    return collected(tables, wanted), unavailable


class LabelCache:
    """The labeler with a memory: constant and stock reports are read once."""

    def __init__(self) -> None:
        self._labeler = CheXpertStyleLabeler()
        self._known: dict[str, Reading] = {}
        self._located: dict[str, LocatedReading] = {}

    def __call__(self, texts: Iterable[str]) -> list[Labels]:
        return [reading.labels for reading in self.readings(texts)]

    def readings(self, texts: Iterable[str]) -> list[Reading]:
        """What each text states."""
        return [self._reading(text) for text in texts]

    def located(self, texts: Iterable[str]) -> list[LocatedReading]:
        """What each text states, with sides and sizes."""
        return [
            self._located.get(text) or self._located.setdefault(text, locate(self._reading(text))) for text in texts
        ]

    def _reading(self, text: str) -> Reading:
        return self._known.get(text) or self._known.setdefault(text, self._labeler.read(text))


def score_systems(
    references: Sequence[str],
    systems: Sequence[Sequence[Sequence[str]]],
    wanted: Sequence[str],
    *,
    tokenize: Tokenize,
    labels: LabelCache,
    unavailable: dict[str, str],
) -> list[list[MetricTable]]:
    """For each system the tables that hold the `wanted` scores.

    Args:
        references: one per study.
        systems: for each the reports for the caption metrics and those for the clinical scores, mostly the same.
        wanted: see `score_tables.wanted_scores`.
        tokenize: see `evaluate_reports`.
        labels: the labeler.
        unavailable: takes the metrics that can't be computed here and why.
    """
    tables: list[list[MetricTable]] = [[] for _ in systems]
    if not CAPTION_NAMES.isdisjoint(wanted):
        texts = [references, *(captions for captions, _ in systems)]
        tokenized = tokenize_reports([text for part in texts for text in part], tokenize)
        size = len(references)
        parts = [tokenized[start : start + size] for start in range(0, len(tokenized), size)]
        tables = caption_tables(parts[0], parts[1:], wanted, unavailable)
    if not set(wanted).isdisjoint(CLINICAL_NAMES):
        true = labels(references)
        for of_system, (_, reports) in zip(tables, systems, strict=True):
            of_system += clinical_tables(true, labels(reports), wanted)
    if not set(wanted).isdisjoint(LOCATED_NAMES):
        located = labels.located(references)
        for of_system, (_, reports) in zip(tables, systems, strict=True):
            of_system += located_tables(located, labels.located(reports), wanted)
    if not set(wanted).isdisjoint(ENTITY_SCORES):
        read = labels.readings(references)
        for of_system, (_, reports) in zip(tables, systems, strict=True):
            of_system.append(entity_table(read, labels.readings(reports)))
    return tables


def prepare_studies(
    references: Reports,
    hypotheses: Reports,
    patients: Sequence[Hashable] | Mapping[Any, Hashable] | None,
    protocol: Protocol,
    tokenizer: "PreTrainedTokenizerBase | None",
    max_tokens: int | None,
) -> Studies:
    """Puts the reports into one order, checks them, and cuts them as the protocol says; see `evaluate_reports`."""
    ids = [*references] if isinstance(references, Mapping) else [*range(len(references))]
    columns = [_ordered(references, ids, "references"), _ordered(hypotheses, ids, "hypotheses", like=references)]
    check_pairs(*columns)
    for name, texts in zip(("references", "hypotheses"), columns, strict=True):
        for study, text in zip(ids, texts, strict=True):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{study!r}] is {text!r:.80}: every report must be a string")
    owners = ids if patients is None else _ordered(patients, ids, "patients", like=references)
    if len(owners) != len(ids):
        raise ValueError(f"{len(owners)} patients but {len(ids)} studies: give one per study")
    references, hypotheses = (apply_protocol(texts, protocol, tokenizer, max_tokens) for texts in columns)
    return Studies(ids, references, hypotheses, patient_numbers(owners))


def _ordered(values: Any, ids: Sequence[Hashable], name: str, like: Any = None) -> list:
    if isinstance(values, str):
        raise TypeError(f"{name} is one string: give one report per study, in a list or a mapping from study id")
    if like is not None and isinstance(values, Mapping) != isinstance(like, Mapping):
        raise TypeError(f"{name} and references must both be sequences, or both mappings from study id")
    if not isinstance(values, Mapping):
        return list(values)
    if values.keys() != set(ids):
        missing = [key for key in ids if key not in values]
        known = set(ids)
        extra = [key for key in values if key not in known]
        raise ValueError(
            f"{name}: {len(missing)} studies of the references are missing ({_few(missing)}) and {len(extra)} are "
            f"unknown ({_few(extra)})"
        )
    return [values[key] for key in ids]


def _few(names: Sequence[Hashable]) -> str:
    return ", ".join(map(str, names[:3])) + (" …" if len(names) > 3 else "") if names else "none"


def _constant_reports(studies: Studies, pool: Sequence[str], labels: LabelCache, seed: int) -> dict[str, str]:
    """The best constant report for the caption metrics and for the clinical scores."""
    candidates = list(dict.fromkeys(pool))
    if len(candidates) > _CANDIDATES:
        drawn = np.random.default_rng(seed).choice(len(candidates), _CANDIDATES, replace=False)
        candidates = [candidates[index] for index in drawn]
    labelled = dict(zip(candidates, labels(candidates), strict=True))
    return {
        "Bleu_4": best_constant_caption([one_line(text) for text in candidates], studies.references)[0],
        "F1_micro_14_uncertain-negative": best_constant_report(labelled, labels(studies.references))[0],
    }


def _other_baselines(
    studies: Studies,
    pool: Sequence[str] | None,
    features: np.ndarray | None,
    pool_features: np.ndarray | None,
    seed: int,
    unavailable: dict[str, str],
) -> Iterator[tuple[str, list[str]]]:
    """Names and reports of the random and the nearest baseline; without a pool, from the other patients' references."""
    if pool is not None:
        yield "random training report", random_reports(pool, studies=len(studies.ids), seed=seed)
    elif studies.patients.max() == 0:
        unavailable["random report"] = "all studies are of one patient; give training_reports"
    else:
        yield "random report", random_reports_of_others(studies.references, studies.patients, seed=seed)
    if features is None or (pool is not None and pool_features is None):
        unavailable["nearest neighbour"] = "needs features of the images, and those of training_reports where given"
        return
    if len(features) != len(studies.ids):
        raise ValueError(f"features has {len(features)} rows for {len(studies.ids)} studies: give one per study")
    if pool is not None:
        yield "nearest neighbour", nearest_reports(features, np.asarray(pool_features), pool)
    elif studies.patients.max() > 0:
        patients = (studies.patients, studies.patients)
        yield "nearest neighbour", nearest_reports(features, features, studies.references, patients=patients)
