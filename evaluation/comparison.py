"""`compare_reports`: whether one system's reports are better than another's, and how sure that is."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scipy.stats import false_discovery_control

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
