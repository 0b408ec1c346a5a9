"""The report on an evaluation: one self-contained HTML file with the scores and what they hide.

It shows what `evaluate_reports` measured beside its baselines, its honesty checks and its signature, the lengths of
the reports, and the studies that the model reports best and worst.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ...data.schema import OBSERVATIONS
from ..labeler import CheXpertStyleLabeler
from ..metric_names import metric_in_words, observation_of
from ..study_report import StudyReport
from .charts import histogram
from .rendering import write_page
from .scores import ScoreRow, ScoreTable, observation_scores
from .studies import LEGEND, study_view, with_images

_F1 = "F1_micro_14_uncertain-negative"
_MAIN = {
    "Bleu_1": "words shared with the reference",
    "Bleu_2": "and word pairs",
    "Bleu_3": "and triples",
    "Bleu_4": "and runs of four words",
    "ROUGE_L": "longest common sequence of words",
    "METEOR": "shared words, stems and synonyms, in order",
    "CIDEr": "shared word runs, the rare ones counting most",
    _F1: "F1 over all pairs of study and observation",
    "precision_micro_14_uncertain-negative": "stated findings that are there",
    "recall_micro_14_uncertain-negative": "findings that are stated",
    "F1_macro_14_uncertain-negative": "mean of the observations' F1",
    "F1_example_14_uncertain-negative": "mean of the studies' F1",
    "F1_micro_5_uncertain-negative": "F1 over CheXpert's five main observations",
    "located_F1_micro_14_uncertain-negative": "F1 over findings on the right side",
    "severity_agreement": "sizes that overlap, where both reports say one",
    "wrong_side_rate": "both name a side, and share none",
    "contradiction_rate": "stated, though the reference rules it out",
}
"""The scores to show at once, in this order, with what they measure; the others are folded."""
_CHECKS = {
    "unique_ratio": ("Unique reports", "share of different texts; a low one means stock phrases"),
    "empty_share": ("Empty reports", "share without a letter or digit"),
    "truncated_share": ("Broken off", "share that does not end with a sentence"),
    "repetition": ("Repetition", "share of four-word runs that the report had before"),
    "length_ratio": ("Length ratio", "words of all reports by words of all references"),
}


def write_evaluation_page(
    path: str | PathLike,
    result: Mapping[str, Any],
    studies: Sequence[StudyReport],
    *,
    title: str = "Evaluation",
    summary: str | None = None,
    dataset: Sequence[Mapping[str, Any]] | None = None,
    rank_by: str | None = None,
    shown: int = 20,
    notes: Sequence[str] = (),
) -> Path:
    """Writes the report and returns its path; missing folders are made.

    Args:
        path: the HTML file to write.
        result: what `evaluate_reports` returned for these studies.
        studies: all evaluated studies, in the order of the evaluation.
        title: the heading.
        summary: the paragraph under it; by default the main numbers in words.
        dataset: studies of the package's schema, from which the images of the shown studies are read where `studies`
            have none.
        rank_by: the score per study that ranks the studies, a key of `result["per_sample"]`; by default
            ROUGE_L, or the first where that was not computed.
        shown: how many of the best and of the worst to show; fewer where there aren't as many.
        notes: lines for the foot of the page: date, model, data and generation settings.

    All texts are data: they are escaped, and the page allows neither scripts nor fetches.

    Raises:
        ValueError: no studies, another number of them than were evaluated, an unknown `rank_by`, or views and images
            that differ in number.
        ImageReadError, FileNotFoundError: an image that can't be read.
    """
    if not studies:
        raise ValueError("studies is empty: give the studies that were evaluated")
    if rank_by is None:
        rank_by = "ROUGE_L" if "ROUGE_L" in result["per_sample"] else next(iter(result["per_sample"]))
    best, worst = _extremes(result["per_sample"], rank_by, len(studies), shown)
    labeler = CheXpertStyleLabeler()

    def shown_studies(indices: Sequence[int]) -> list[dict[str, Any]]:
        remarks = [f"{rank_by} {result['per_sample'][rank_by][index]:.3f}" for index in indices]
        chosen = with_images([studies[index] for index in indices], dataset)
        return [study_view(study, labeler, remark) for study, remark in zip(chosen, remarks, strict=True)]

    scores, honesty = result["scores"], result["honesty"]
    main = [name for name in _MAIN if name in scores]
    others = [name for name in scores if name not in _MAIN]
    lengths = {
        "reference": [len((study.reference or "").split()) for study in studies],
        "generated": [len((study.report or "").split()) for study in studies],
    }
    is_labelled = f"F1_{OBSERVATIONS[0]}_uncertain-negative" in scores
    sections = {
        "scores": "Scores",
        "details": "Findings, lengths and signs of hollow scores",
        "best": f"The best {len(best)} by {rank_by}",
    }
    examples = {"best": shown_studies(best)}
    if worst:
        sections["worst"] = f"The worst {len(worst)} by {rank_by}"
        examples["worst"] = shown_studies(worst)
    return write_page(
        path,
        "evaluation_page.html.jinja",
        title=title,
        summary=summary or _summary(result, len(studies)),
        sections=sections,
        notes=notes,
        main_scores=_table(result, main),
        all_scores=_table(result, [*main, *others]) if others else None,
        signature=result["signature"],
        unavailable=result.get("unavailable", {}),
        # What a system writes that does not look at the image.
        constant_reports={metric_in_words(n): text for n, text in honesty.get("constant_reports", {}).items()},
        observations=observation_scores(scores) if is_labelled else (),
        lengths=histogram("Length of the reports", "words", lengths),
        checks=_checks(honesty),
        verdicts=LEGEND,
        examples=examples,
    )


def _extremes(
    per_sample: Mapping[str, Sequence[float]], rank_by: str, count: int, shown: int
) -> tuple[list[int], list[int]]:
    """Indices of the best studies, best first, and of the worst, worst first; none is in both."""
    if rank_by not in per_sample:
        raise ValueError(f"rank_by={rank_by!r}: no score per study of this name; there are {', '.join(per_sample)}")
    values = per_sample[rank_by]
    if len(values) != count:
        raise ValueError(f"{count} studies, but the result is of {len(values)}: give those that were evaluated")
    order = sorted(range(count), key=lambda index: -values[index])
    half = count // 2
    return order[: min(shown, count - half)], order[::-1][: min(shown, half)]


def _summary(result: Mapping[str, Any], count: int) -> str:
    scores, baselines = result["scores"], result["honesty"].get("baselines", {})
    parts = [f"{count} studies."]
    for metric in ("Bleu_4", "CIDEr", _F1):
        if metric in scores:
            rivals = {name: values[metric] for name, values in baselines.items() if metric in values}
            best = max(rivals, key=rivals.__getitem__, default=None)
            beside = "" if best is None else f" ({best}: {rivals[best]:.3f})"
            parts.append(f"{'Findings F1' if metric == _F1 else metric} {scores[metric]:.3f}{beside}.")
    return " ".join(parts)


def _table(result: Mapping[str, Any], names: Sequence[str]) -> ScoreTable:
    scores, baselines = result["scores"], result["honesty"].get("baselines", {})
    intervals = result.get("intervals") or {}
    rows = []
    for name in names:
        values: tuple[float | None, ...] = (scores[name], *(others.get(name) for others in baselines.values()))
        interval = intervals.get(name)
        if _has_no_cases(scores, name):
            values, interval = (None,) * len(values), None
        words = metric_in_words(name)
        rows.append(ScoreRow(words, values, _MAIN.get(name, ""), interval, "" if words == name else name))
    return ScoreTable(("model", *baselines), rows)


def _has_no_cases(scores: Mapping[str, float], name: str) -> bool:
    """Whether no reference reports the observation that a score is of, so that it measures nothing."""
    observation, uncertain = observation_of(name), name.rpartition("_")[2]
    if observation is None or name.startswith("support_"):
        return False
    return scores.get(f"support_{observation}_{uncertain}") == 0


def _checks(honesty: Mapping[str, Any]) -> ScoreTable:
    rows = [
        ScoreRow(text, (honesty[name], honesty.get(f"reference_{name}")), explanation)
        for name, (text, explanation) in _CHECKS.items()
        if name in honesty
    ]
    return ScoreTable(("model", "references"), rows)


__all__ = ["write_evaluation_page"]
