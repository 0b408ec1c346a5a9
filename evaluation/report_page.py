"""The result page of a run: one self-contained HTML file, without scripts, for a reader of X-rays.

`write_report_page` shows the scores beside baselines, training curves, and studies with their images, the reference
and the generated report, findings marked by `findings_markup`.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from .labeler import CheXpertStyleLabeler
from .page_parts import (
    ObservationScore,
    ScoreTable,
    StudyResult,
    footer,
    header,
    legend,
    observation_table,
    score_table,
    study_article,
    write_page,
)
from .svg_chart import Curve, line_chart


def write_report_page(
    path: str | PathLike,
    *,
    title: str,
    summary: str,
    studies: Sequence[StudyResult],
    scores: ScoreTable,
    observations: Sequence[ObservationScore] = (),
    curves: Sequence[Curve] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write the result page and return its path; missing folders are made.

    Args:
        path: the HTML file to write.
        title, summary: the heading and the paragraph under it: what was evaluated, and the main result.
        studies: the studies to show, in this order; at least one.
        scores: the score table.
        observations: scores per observation, drawn as a table with bars.
        curves: charts such as the training loss; those without a finite point are left out.
        notes: lines for the foot of the page: date, model, data and generation settings.

    All texts are data: they are escaped, and the page allows neither scripts nor fetches.

    Raises:
        ValueError: no studies, a study whose views and images differ in number, a score row whose values and systems
            differ in number, or a curve's line with unequal x and y.
        ImageReadError, FileNotFoundError: an image that can't be read.
    """
    if not studies:
        raise ValueError("studies is empty: give at least one StudyResult to show")
    labeler = CheXpertStyleLabeler()
    charts = "".join(line_chart(curve) for curve in curves)
    body = (
        header(title, summary, {"scores": "Scores", "studies": "Studies"})
        + '<main><section id="scores"><h2>Scores</h2>'
        + f'<div class="results">{score_table(scores)}{charts}{observation_table(observations)}</div></section>'
        + f'<section id="studies"><h2>Studies</h2>{legend()}'
        + "".join(study_article(study, labeler) for study in studies)
        + "</section></main>"
        + footer(notes)
    )
    return write_page(path, title, body)
