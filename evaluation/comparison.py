"""Whether one system's reports are better than another's, and how sure that is: `compare_reports`, and for several
systems `compare_systems`."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scipy.stats import false_discovery_control

from .findings import EntityCounts, count_entities
from .labeler import CheXpertStyleLabeler
from .protocols import Protocol, check_protocol, signature
from .score_tables import collected, in_order, is_count, wanted_scores
from .scoring import LabelCache, Reports, prepare_studies, score_systems
from .statistics import paired_differences, randomization_test
from .tokenization import Tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_SCORES = (
    "BLEU",
    "ROUGE_L",
    "METEOR",
    "CIDEr",
    *(f"F1_{kind}_{size}_uncertain-negative" for size in (14, 5) for kind in ("micro", "macro", "example")),
)
"""Compared by default: each further score makes the correction for multiple tests stricter."""


def compare_reports(
    references: Reports,
    first: Reports,
    second: Reports,
    *,
    metrics: Iterable[str] | None = None,
    tokenize: Tokenize = "none",
    protocol: Protocol = "full-reference",
    patients: Sequence[Hashable] | Mapping[Any, Hashable] | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_tokens: int | None = None,
    section: str = "report",
    resamples: int = 1000,
    exchanges: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares the reports of two systems on the same studies, patient by patient.

    Args:
        references, first, second: reports, all as sequences in one order or all as mappings from study id.
        metrics: as for `scoring.evaluate_reports`; None means `DEFAULT_SCORES`.
        tokenize, protocol, patients, tokenizer, max_tokens, section: as for `scoring.evaluate_reports`.
        resamples, confidence: of the bootstrap intervals of the differences.
        exchanges: of the randomization test.
        seed: of both.

    Returns:
        - `first`, `second`: `{name: score}`.
        - `differences`: `{name: first - second}`, and `intervals` of them by paired bootstrap.
        - `p_values`: of the two-sided paired randomization test.
        - `adjusted_p_values`: the same after Benjamini and Yekutieli (Annals of Statistics, 2001), which holds for
          tests that depend on each other in any way: of the differences with a value of at most q, on average no
          more than the share q is chance.
        - `signature` and `unavailable`, as `scoring.evaluate_reports`.

    Raises:
        ValueError, TypeError, MetricUnavailableError: as `scoring.evaluate_reports`; ValueError also when none of the
            metrics can be computed.
    """
    wanted = wanted_scores(DEFAULT_SCORES if metrics is None else metrics)
    wanted = [name for name in wanted if not is_count(name)]
    check_protocol(protocol, tokenizer, max_tokens)
    options = (patients, protocol, tokenizer, max_tokens)
    studies = prepare_studies(references, first, *options)
    other = prepare_studies(references, second, *options).hypotheses
    unavailable: dict[str, str] = {}
    systems = score_systems(
        studies.references,
        [[studies.hypotheses] * 2, [other] * 2],
        wanted,
        tokenize=tokenize,
        labels=LabelCache(),
        unavailable=unavailable,
    )
    ours, theirs = systems
    scores = [collected(tables, wanted) for tables in systems]
    if not scores[0]:
        raise ValueError(f"nothing to compare: {'; '.join(unavailable.values()) or 'supports are not scores'}")
    p_values = in_order(randomization_test(ours, theirs, studies.patients, exchanges=exchanges, seed=seed), wanted)
    intervals = paired_differences(
        ours, theirs, studies.patients, resamples=resamples, confidence=confidence, seed=seed
    )
    adjusted = false_discovery_control(list(p_values.values()), method="by").tolist()
    test = f"bs{resamples},{confidence:g},ar{exchanges},seed{seed},{studies.patients.max() + 1}patients"
    return {
        "first": scores[0],
        "second": scores[1],
        "differences": {name: scores[0][name] - scores[1][name] for name in scores[0]},
        "intervals": in_order(intervals, wanted),
        "p_values": p_values,
        "adjusted_p_values": dict(zip(p_values, adjusted, strict=True)),
        "signature": signature(
            studies=len(studies.ids),
            section=section,
            tokenize=tokenize,
            protocol=protocol,
            tokenizer=tokenizer,
            max_tokens=max_tokens,
            intervals=test,
        ),
        "unavailable": unavailable,
    }


def compare_systems(references: Reports, systems: Mapping[str, Reports], **options: Any) -> dict[str, Any]:
    """Compares the first of several systems with each of the others, and counts the findings of all.

    Args:
        references: reports, as a sequence or as a mapping from study id.
        systems: the reports of each system by its name, in the form of the references; at least two.
        options: arguments of `compare_reports`.

    Returns:
        - `scores`: `{system: {name: score}}`.
        - `comparisons`: `{other system: …}` with the `differences`, `intervals`, `p_values` and `adjusted_p_values` of
          `compare_reports(references, first, other)`; the p-values are adjusted over all scores of all comparisons.
        - `entities`: `{system: …}`, the counts of `findings.EntityCounts` over all studies, whatever the protocol.
        - `signature` and `unavailable`, as `compare_reports`.

    Raises:
        ValueError: fewer than two systems.
        ValueError, TypeError, MetricUnavailableError: as `compare_reports`.
    """
    if len(systems) < 2:
        raise ValueError(f"give at least two systems, got {len(systems)}")
    (first, ours), *others = systems.items()
    results = {name: compare_reports(references, ours, theirs, **options) for name, theirs in others}
    p_values = [p for result in results.values() for p in result["p_values"].values()]
    adjusted = iter(false_discovery_control(p_values, method="by").tolist())
    for result in results.values():
        result["adjusted_p_values"] = {name: next(adjusted) for name in result["p_values"]}
    one = next(iter(results.values()))
    parts = ("differences", "intervals", "p_values", "adjusted_p_values")
    return {
        "scores": {first: one["first"], **{name: result["second"] for name, result in results.items()}},
        "comparisons": {name: {part: result[part] for part in parts} for name, result in results.items()},
        "entities": {name: _entities(references, reports).to_dict() for name, reports in systems.items()},
        "signature": one["signature"],
        "unavailable": one["unavailable"],
    }


def _entities(references: Reports, hypotheses: Reports) -> EntityCounts:
    labeler = CheXpertStyleLabeler()
    if isinstance(references, Mapping):
        pairs = [(references[study], hypotheses[study]) for study in references]
    else:
        pairs = list(zip(references, hypotheses, strict=True))
    return sum((count_entities(labeler.read(one), labeler.read(other)) for one, other in pairs), EntityCounts())
