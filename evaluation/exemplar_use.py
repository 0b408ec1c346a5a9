"""What retrieved reports do to what is written: how much is copied from them, and which observations they help to find.

The dual-stage paper claims that they help with rare observations and shows no numbers; these are they.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.schema import OBSERVATIONS
from .clinical import positives
from .metric_table import MetricTable, mean_table
from .scoring import LabelCache
from .statistics import bootstrap_intervals, paired_differences
from .study_report import StudyReport

RUN = 4
"""Words in a row that count as copied, as in BLEU-4: fewer are shared by reports that know nothing of each other."""


@dataclass(frozen=True)
class Copying:
    """How much of reports is copied from their exemplars.

    Attributes:
        studies: the share of each study's report, `{study_id: share}`.
        report: the mean of these.
        reference: the mean of the same share of the reference reports: what a radiologist shares with the exemplar
            without having seen it.
        intervals: of `report`, `reference` and their difference, by bootstrap over patients.
    """

    studies: Mapping[str, float]
    report: float
    reference: float
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


def exemplar_of(study: StudyReport) -> str | None:
    """The text of the retrieved report that a prediction's evidence holds; None where there is none."""
    for of_observation in (study.evidence or {}).values():
        for related in of_observation.get("studies", ()):
            if related.get("text") is not None:
                return str(related["text"])
    return None


def copied_share(report: str, exemplar: str, run: int = RUN) -> float:
    """The share of a report's words that stand in `run` or more words in a row of the exemplar, without regard to
    upper and lower case. A report of fewer words is copied when all of it stands there; an empty one is not."""
    words, source = report.lower().split(), exemplar.lower().split()
    if not words:
        return 0.0
    run = min(run, len(words))
    known = {tuple(source[start : start + run]) for start in range(len(source) - run + 1)}
    copied = np.zeros(len(words), dtype=bool)
    for start in range(len(words) - run + 1):
        if tuple(words[start : start + run]) in known:
            copied[start : start + run] = True
    return float(copied.mean())


def copying(studies: Sequence[StudyReport], *, resamples: int = 1000, seed: int = 0) -> Copying:
    """How much of the reports is copied from the exemplars in their evidence.

    Args:
        studies: predictions with reference and evidence, such as `generate_predictions(…, evidence=True)` gives.
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: no study has an exemplar in its evidence, or one of them has no reference.
    """
    pairs = [(study, exemplar) for study in studies if (exemplar := exemplar_of(study)) is not None]
    if not pairs:
        raise ValueError(
            "no prediction has a retrieved report in its evidence: write them with evidence=True (--evidence) by a "
            "model with its memory"
        )
    of_reports = np.array([copied_share(study.report or "", exemplar) for study, exemplar in pairs])
    of_references = np.array([copied_share(_reference(study), exemplar) for study, exemplar in pairs])
    table = mean_table({"report": of_reports, "reference": of_references, "difference": of_reports - of_references})
    patients = _patients([study for study, _ in pairs])
    return Copying(
        {study.study_id: share for (study, _), share in zip(pairs, of_reports.tolist(), strict=True)},
        float(of_reports.mean()),
        float(of_references.mean()),
        bootstrap_intervals([table], patients, resamples=resamples, seed=seed),
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


__all__ = ["RUN", "Copying", "RecallGain", "copied_share", "copying", "exemplar_of", "recall_by_prevalence"]
