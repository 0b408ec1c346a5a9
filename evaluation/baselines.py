"""What a score is worth: the scores of reports that were written without looking at the image."""

from collections.abc import Mapping, Sequence

from .clinical import Labels, label_scores


def best_constant_report(
    candidates: Mapping[str, Labels], references: Sequence[Labels], metric: str = "F1_micro_14_uncertain-negative"
) -> tuple[str, float]:
    """The one report that, given for every study, scores best on the references themselves.

    It is chosen with the answers in sight, so no constant report among the candidates does better.

    Args:
        candidates: reports, usually those of the training split, with their labels.
        references: labels of the studies to score on.
        metric: a name that `clinical.label_scores` returns.

    Returns:
        The report and its score.

    Raises:
        ValueError: there are no candidates.
    """
    if not candidates:
        raise ValueError("there are no candidate reports")
    # Reports with equal labels score equally, so one of each kind is enough.
    by_labels = {tuple(labels.items()): report for report, labels in reversed(candidates.items())}
    scored = [
        (report, label_scores(references, [dict(labels)] * len(references))[metric])
        for labels, report in by_labels.items()
    ]
    return max(scored, key=lambda item: item[1])


def unique_ratio(reports: Sequence[str]) -> float:
    """Share of different texts among the reports, 1 when no two are equal."""
    if not reports:
        raise ValueError("there are no reports")
    return len(set(reports)) / len(reports)
