"""Reports of several systems side by side: each study's reference beside what every system makes of it.

The page shows how often each system hits, nearly hits, misses or invents a finding, and leaves a normal one out, and
then studies: images, the reference, one report per system with its findings marked, and a table of the findings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from ...data.schema import ABSENT, PRESENT, UNCERTAIN
from ..findings import ENTITIES, EntityCounts, Verdict, count_entities, judge
from ..labeler import CheXpertStyleLabeler
from ..study_report import StudyReport
from .marks import compare_findings, marked_pieces
from .rendering import write_page
from .scores import ScoreTable
from .studies import LEGEND, context_view, figure, with_images

SHOWN = 20
"""How many studies a page shows unless they are named."""

_COUNTS: tuple[tuple[str, str, str, str], ...] = (
    ("hit", "Found", "reported in the reference, reported with the same certainty", "reported"),
    ("near", "Nearly found", "reported with other certainty, on another side, or as a related finding", "reported"),
    ("missed", "Missed", "not reported at all", "reported"),
    ("denied", "… of these wrongly ruled out", "the generated report says the opposite", "reported"),
    ("invented", "Invented", "reported by the system alone, of all that it reports", "stated"),
    ("normal_left_out", "Normal findings left out", "ruled out in the reference, not mentioned", "normal"),
)
"""Names of counts, what they are called, what they mean, and what they are a share of."""


class _Saying(NamedTuple):
    """What a reference says of a finding, with the parts that the templates know of a verdict."""

    identifier: str
    sign: str
    title: str


_SAYINGS = {
    PRESENT: _Saying("said", "", "reported"),
    UNCERTAIN: _Saying("said", "?", "suspected"),
    ABSENT: _Saying("ruled-out", "", "ruled out"),
}


@dataclass(frozen=True)
class _ReferenceMark:
    """Words of the reference that name a finding."""

    verdict: _Saying
    title: str


def write_comparison_page(
    path: str | PathLike,
    systems: Mapping[str, Mapping[str, str]],
    studies: Sequence[StudyReport],
    *,
    title: str = "Reports side by side",
    summary: str | None = None,
    dataset: Sequence[Mapping[str, Any]] | None = None,
    only: Sequence[str] = (),
    shown: int = SHOWN,
    scores: ScoreTable | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Writes the page and returns its path; missing folders are made.

    Args:
        path: the HTML file to write.
        systems: for each system, by the name that the page gives it, its report of every study, by study id.
        studies: all studies, with their references; the counts are of these.
        title: the heading.
        summary: the paragraph under it; by default the numbers of studies and systems.
        dataset: studies of the package's schema, from which the images of the shown studies are read where `studies`
            have none.
        only: ids of the studies to show, in this order. By default those come first in which the systems differ in most
            findings.
        shown: how many studies to show at most when `only` names none.
        scores: scores of the systems, in the same order.
        notes: lines for the foot of the page.

    All texts are data: they are escaped, and the page allows neither scripts nor fetches.

    Raises:
        ValueError: no systems or studies, a system without a report of some study, or an unknown id in `only`.
        ImageReadError, FileNotFoundError: an image that can't be read.
    """
    if not systems or not studies:
        raise ValueError("give at least one system and one study")
    for name, reports in systems.items():
        if missing := [study.study_id for study in studies if study.study_id not in reports]:
            raise ValueError(
                f"{name} has no report of {len(missing)} of {len(studies)} studies, such as {missing[0]!r}"
            )
    labeler = CheXpertStyleLabeler()
    chosen = _chosen(systems, studies, labeler, only, shown)
    sections = {"findings": "Findings", **({"scores": "Scores"} if scores else {}), "studies": "Studies"}
    return write_page(
        path,
        "comparison_page.html.jinja",
        title=title,
        summary=summary or f"{len(studies)} studies, {len(systems)} systems: {', '.join(systems)}.",
        sections=sections,
        notes=notes,
        systems=list(systems),
        counts=_count_rows(systems, studies, labeler),
        scores=scores,
        verdicts=LEGEND,
        shown=f"{len(chosen)} of {len(studies)} studies"
        + ("" if only else ", those first in which the systems differ in most findings"),
        studies=[_study_view(study, systems, labeler) for study in with_images(chosen, dataset)],
    )


def _total(reports: Mapping[str, str], studies: Sequence[StudyReport], labeler: CheXpertStyleLabeler) -> EntityCounts:
    counts = (
        count_entities(labeler.read(study.reference or ""), labeler.read(reports[study.study_id] or ""))
        for study in studies
    )
    return sum(counts, EntityCounts())


def _count_rows(
    systems: Mapping[str, Mapping[str, str]], studies: Sequence[StudyReport], labeler: CheXpertStyleLabeler
) -> list[dict[str, Any]]:
    """The lines of the table of counts: a name, what it means, and for each system a number and its share."""
    totals = [_total(reports, studies, labeler) for reports in systems.values()]

    def whole(total: EntityCounts, name: str) -> int:
        return total.hit + total.near + total.missed if name == "reported" else getattr(total, name)

    return [
        {
            "name": words,
            "meaning": meaning,
            "cells": [(getattr(total, name), whole(total, of)) for total in totals],
        }
        for name, words, meaning, of in _COUNTS
    ]


def _chosen(
    systems: Mapping[str, Mapping[str, str]],
    studies: Sequence[StudyReport],
    labeler: CheXpertStyleLabeler,
    only: Sequence[str],
    shown: int,
) -> list[StudyReport]:
    if only:
        known = {study.study_id: study for study in studies}
        if unknown := [name for name in only if name not in known]:
            raise ValueError(f"there is no study {unknown[0]!r}; the first are {', '.join(list(known)[:3])}")
        return [known[name] for name in only]

    def differences(study: StudyReport) -> int:
        expected = labeler.read(study.reference or "")
        verdicts = [judge(expected, labeler.read(reports[study.study_id] or "")) for reports in systems.values()]
        return sum(len({each.get(name) for each in verdicts}) > 1 for name in ENTITIES)

    return sorted(studies, key=differences, reverse=True)[:shown]


def _study_view(
    study: StudyReport, systems: Mapping[str, Mapping[str, str]], labeler: CheXpertStyleLabeler
) -> dict[str, Any]:
    reference = study.reference or ""
    labels = labeler(reference)
    reports = {name: reports[study.study_id] or "" for name, reports in systems.items()}
    comparisons = {name: compare_findings(reference, report, labeler) for name, report in reports.items()}
    verdicts = [comparison.verdicts for comparison in comparisons.values()]
    findings = [
        {
            "name": name,
            "reference": None if (label := labels[name]) is None else _SAYINGS[label],
            "verdicts": [each.get(name) for each in verdicts],
            "is_normal": all(each.get(name) in (None, Verdict.LEFT_OUT, Verdict.RULED_OUT) for each in verdicts),
        }
        for name in ENTITIES
        if labels[name] is not None or any(name in each for each in verdicts)
    ]
    views = study.views or [""] * len(study.images)
    return {
        "name": study.study_id,
        "figures": [figure(image, view) for image, view in zip(study.images, views, strict=True)],
        **context_view(study),
        "is_alike": all(each == verdicts[0] for each in verdicts),
        "findings": findings,
        "reference": _reference_pieces(reference, labeler),
        "reports": [
            (name, marked_pieces(report, comparisons[name].hypothesis_marks) if report.strip() else [])
            for name, report in reports.items()
        ],
    }


def _reference_pieces(text: str, labeler: CheXpertStyleLabeler) -> list[tuple[str, Any]]:
    """The reference in pieces, each with its mark or None; of words that overlap the first are marked."""
    pieces: list[tuple[str, _ReferenceMark | None]] = []
    position = 0
    for mention in labeler.mentions(text):
        if mention.start < position:
            continue
        saying = _SAYINGS[mention.value]
        mark = _ReferenceMark(saying, f"{mention.observation}: {saying.title}")
        pieces += [(text[position : mention.start], None), (text[mention.start : mention.end], mark)]
        position = mention.end
    return [*pieces, (text[position:], None)] if text.strip() else []


__all__ = ["SHOWN", "write_comparison_page"]
