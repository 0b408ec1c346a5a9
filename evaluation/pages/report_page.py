"""The result page of a run: one self-contained HTML file, without scripts, for a reader of X-rays.

`write_report_page` shows the scores beside baselines, training curves, and studies with their images, the reference
and the generated report, findings marked by `marks`.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from ..labeler import CheXpertStyleLabeler
from ..study_report import StudyReport
from .charts import Curve, line_chart
from .rendering import write_page
from .scores import ObservationScore, ScoreTable
from .studies import LEGEND, study_view


def write_report_page(
    path: str | PathLike,
    *,
    title: str,
    summary: str,
    studies: Sequence[StudyReport],
    scores: ScoreTable,
    observations: Sequence[ObservationScore] = (),
    curves: Sequence[Curve] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Writes the result page and returns its path; missing folders are made.

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
        ValueError: no studies, a study whose views and images differ in number, or a curve's line with unequal x and y.
        ImageReadError, FileNotFoundError: an image that can't be read.
    """
    if not studies:
        raise ValueError("studies is empty: give at least one StudyReport to show")
    labeler = CheXpertStyleLabeler()
    return write_page(
        path,
        "report_page.html.jinja",
        title=title,
        summary=summary,
        sections={"scores": "Scores", "studies": "Studies"},
        notes=notes,
        scores=scores,
        charts=[line_chart(curve) for curve in curves],
        observations=observations,
        verdicts=LEGEND,
        studies=[study_view(study, labeler) for study in studies],
    )
