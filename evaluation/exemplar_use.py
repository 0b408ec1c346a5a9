"""What retrieved reports do to what is written: how much is copied from them, and which observations they help to find.

The dual-stage paper claims that they help with rare observations and shows no numbers; these are they.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.schema import OBSERVATIONS
from .clinical import positives
from .copying import copied_share, exemplar_text
from .metric_table import MetricTable, mean_table
from .scoring import LabelCache
from .statistics import bootstrap_intervals, paired_differences
from .study_report import StudyReport


@dataclass(frozen=True)
class Copying:
    """How much of reports is copied from their exemplars (`copied_share`).

    Attributes:
        studies: the share of each study's report, `{study_id: share}`.
        shares: means over the studies: of the `report`; of the `reference`, what a radiologist shares with the exemplar
            without having seen it; and of the report with the exemplar of another study, `by chance`.
        intervals: of these, by bootstrap over patients.
    """

    studies: Mapping[str, float]
    shares: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class RecallGain:
    """The recall of an observation, or the mean of several, with and without exemplars.

    Attributes:
        observation: what it is, or which of them.
        support: studies whose reference states it; of several the least and the most.
        without: recall without exemplars.
        with_exemplars: recall with them.
        interval: of the difference, by paired bootstrap over patients.
    """

    observation: str
    support: tuple[int, int]
    without: float
    with_exemplars: float
    interval: tuple[float, float]


def copying_with_intervals(studies: Sequence[StudyReport], *, resamples: int = 1000, seed: int = 0) -> Copying:
    """How much of the reports is copied from the exemplars in their evidence.

    Args:
        studies: predictions with reference and evidence, such as `generate_predictions(…, evidence=True)` gives.
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: no study has an exemplar in its evidence, or one of them has no reference.
    """
    with_text = [study for study in studies if exemplar_text(study) is not None]
    if not with_text:
        raise ValueError(
            "no prediction has a retrieved report in its evidence: write them with evidence=True (--evidence) by a "
            "model with its memory"
        )
    exemplars = [exemplar_text(study) or "" for study in with_text]
    reports = [study.report or "" for study in with_text]
    pairs = {
        "report": (reports, exemplars),
        "reference": ([_reference(study) for study in with_text], exemplars),
        "by chance": (reports, [*exemplars[1:], *exemplars[:1]]),
    }
    shares = {
        name: np.array([copied_share(*pair) for pair in zip(*texts, strict=True)]) for name, texts in pairs.items()
    }
    table = mean_table(shares)
    return Copying(
        dict(zip((study.study_id for study in with_text), shares["report"].tolist(), strict=True)),
        table.scores(),
        bootstrap_intervals([table], _patients(with_text), resamples=resamples, seed=seed),
    )


def recall_by_prevalence(
    with_exemplars: Sequence[StudyReport],
    without: Sequence[StudyReport],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[RecallGain]:
    """The recall of each observation with and without exemplars, the rarest first, and behind them the means over the
    rarer and the commoner half of them.

    Args:
        with_exemplars: predictions with references, by a system whose prompts hold exemplars.
        without: the same of the same studies by one whose prompts hold none.
        resamples, seed: of the bootstrap.

    Returns:
        Observations that no reference states are left out.

    Raises:
        ValueError: the studies or their references differ, or no reference states any observation.
    """
    others = {study.study_id: study for study in without}
    if len(others) != len(with_exemplars) or any(
        study.study_id not in others or _reference(others[study.study_id]) != _reference(study)
        for study in with_exemplars
    ):
        raise ValueError("the two systems must have reported on the same studies, with the same references")
    labels = LabelCache()
    true = positives(labels([_reference(study) for study in with_exemplars]))
    support = true.sum(axis=0)
    order = [int(column) for column in np.argsort(support, kind="stable") if support[column]]
    if not order:
        raise ValueError("no reference states any observation, so there is no recall")
    halves = {"rarer half": order[: len(order) // 2] or order, "commoner half": order[len(order) // 2 :]}
    groups = {OBSERVATIONS[column]: [column] for column in order} | halves
    systems = [with_exemplars, [others[study.study_id] for study in with_exemplars]]
    tables = [_recalls(true, positives(labels([s.report or "" for s in system])), groups) for system in systems]
    differences = paired_differences(
        [tables[0]], [tables[1]], _patients(with_exemplars), resamples=resamples, seed=seed
    )
    first, second = (table.scores() for table in tables)
    return [
        RecallGain(
            name,
            (int(support[columns].min()), int(support[columns].max())),
            second[name],
            first[name],
            differences[name],
        )
        for name, columns in groups.items()
    ]


def _recalls(true: np.ndarray, stated: np.ndarray, groups: Mapping[str, list[int]]) -> MetricTable:
    """The mean recall of each group of observations."""
    width = true.shape[1]

    def corpus(sums: np.ndarray) -> np.ndarray:
        recalls = sums[..., :width] / np.maximum(sums[..., width:], 1)
        return np.stack([recalls[..., columns].mean(axis=-1) for columns in groups.values()], axis=-1)

    statistics = np.concatenate([true & stated, true], axis=1).astype(np.float64)
    return MetricTable(tuple(groups), statistics, corpus)


def _reference(study: StudyReport) -> str:
    if study.reference is None:
        raise ValueError(f"study {study.study_id!r} has no reference")
    return study.reference


def _patients(studies: Sequence[StudyReport]) -> np.ndarray:
    names = [study.patient_id or study.study_id for study in studies]
    return np.unique(names, return_inverse=True)[1]


__all__ = ["Copying", "RecallGain", "copying_with_intervals", "recall_by_prevalence"]
