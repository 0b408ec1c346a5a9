"""The pieces that result pages are made of: score tables, studies with marked reports, the frame around them.

The functions give safe HTML: every text is data, whatever it holds.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from io import BytesIO
from math import isnan
from os import PathLike
from pathlib import Path

from PIL import Image

from ..data.schema import OBSERVATIONS
from ..processing.image_reading import load_xray
from .clinical import Uncertain
from .findings_markup import Mark, ReportComparison, Verdict, compare_reports, marked_html, sign_html
from .labeler import CheXpertStyleLabeler
from .report_style import STYLE

_IMAGE_SIDE = 640
"""Longest side in pixels of an image on the page: sharp at the size shown, some 40 kB each."""
_SHOWN = (Verdict.FOUND, Verdict.CERTAINTY, Verdict.MISSED, Verdict.DENIED, Verdict.INVENTED)
"""The order of the chips under a study's name."""


@dataclass(frozen=True)
class StudyResult:
    """One study: its images (anything `load_xray` reads; perhaps none) with one view name each, and both reports.

    `remark` stands beside its name, such as its score.
    """

    study_id: str
    images: Sequence[Image.Image | str | PathLike]
    views: Sequence[str]
    reference: str
    hypothesis: str
    remark: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """One metric with a value per system (None: not available) and a few words on what it measures.

    `interval` is the confidence interval of the first system's value.
    """

    metric: str
    values: Sequence[float | None]
    explanation: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Metrics of several systems; the first system is the one the page is about, the others are baselines."""

    systems: Sequence[str]
    rows: Sequence[ScoreRow]


@dataclass(frozen=True)
class ObservationScore:
    """How well one observation is reported; `support` counts the references that report it."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float


def observation_scores(scores: Mapping[str, float], *, uncertain: Uncertain = "negative") -> list[ObservationScore]:
    """The 14 rows of the page's table out of what `clinical.label_scores` returns for the same `uncertain`."""
    return [
        ObservationScore(
            name,
            support=int(scores[f"support_{name}_uncertain-{uncertain}"]),
            precision=scores[f"precision_{name}_uncertain-{uncertain}"],
            recall=scores[f"recall_{name}_uncertain-{uncertain}"],
            f1=scores[f"F1_{name}_uncertain-{uncertain}"],
        )
        for name in OBSERVATIONS
    ]


def html_document(title: str, body: str) -> str:
    """An HTML document that neither runs nor fetches anything."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def write_page(path: str | PathLike, title: str, body: str) -> Path:
    """Write an HTML document; missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A generated text can hold half a surrogate pair, which UTF-8 can't: show "?" rather than lose the page.
    path.write_text(html_document(title, body), encoding="utf-8", errors="replace")
    return path


def header(title: str, summary: str, sections: Mapping[str, str]) -> str:
    """The safety line, heading and summary, and links to the sections (id to name)."""
    links = "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in sections.items())
    return (
        '<p class="safety">Research software, not a medical device. Do not use these reports for patient care.</p>'
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(summary)}</p>'
        f"<nav>{links}</nav></header>"
    )


def score_table(scores: ScoreTable) -> str:
    """A row per metric, a column per system.

    Raises:
        ValueError: a row whose values and systems differ in number.
    """
    rows = []
    for row in scores.rows:
        if len(row.values) != len(scores.systems):
            raise ValueError(
                f"score row {row.metric!r} has {len(row.values)} values for {len(scores.systems)} systems; "
                "give one value (or None) per system"
            )
        explanation = f'<span class="quiet">{escape(row.explanation)}</span>' if row.explanation else ""
        cells = [_number(value) for value in row.values]
        if row.interval is not None:
            low, high = map(_number, row.interval)
            cells[0] += f'<span class="interval">{low} to {high}</span>'
        cells = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{escape(row.metric)}{explanation}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(system)}</th>' for system in scores.systems)
    return (
        f'<table class="scores"><thead><tr><th scope="col">Metric</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def signature_line(signature: str) -> str:
    """What exactly was scored, in a box under the scores."""
    return f'<code class="signature">{escape(signature)}</code>'


def _number(value: float | None) -> str:
    if value is None or isnan(value):
        return "\N{EN DASH}"
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def observation_table(observations: Sequence[ObservationScore]) -> str:
    """A row with a bar per observation, or nothing without observations."""
    if not observations:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(o.name)}</th><td>{o.support}</td>'
        f'<td class="optional">{_number(o.precision)}</td><td class="optional">{_number(o.recall)}</td>'
        f'<td class="measure"><span class="track"><i style="width:{_percent(o.f1)}%"></i></span>{_number(o.f1)}</td>'
        "</tr>"
        for o in observations
    )
    return (
        '<table class="observations"><caption>By observation</caption><thead><tr><th scope="col">Observation</th>'
        '<th scope="col">Reports</th><th scope="col" class="optional">Precision</th>'
        f'<th scope="col" class="optional">Recall</th><th scope="col">F1</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _percent(share: float) -> int:
    return 0 if isnan(share) else round(100 * min(max(share, 0.0), 1.0))


def legend() -> str:
    """What the marks in the reports mean."""
    items = "".join(
        f'<li><mark class="{verdict.css_class}">{sign_html(verdict)}{verdict.title}</mark>: {verdict.meaning}</li>'
        for verdict in (*_SHOWN, Verdict.RULED_OUT)
    )
    return (
        f'<ul class="legend">{items}</ul><p class="quiet">Findings are read from both texts by a rule-based labeler of '
        "the 14 CheXpert observations, which can err. Side and severity are not compared.</p>"
    )


def study_article(study: StudyResult, labeler: CheXpertStyleLabeler) -> str:
    """A study's images, its findings and both reports with marks.

    Raises:
        ValueError: images and views differ in number.
        ImageReadError, FileNotFoundError: an image that can't be read.
    """
    if len(study.images) != len(study.views):
        raise ValueError(
            f"study {study.study_id!r} has {len(study.images)} images and {len(study.views)} views; "
            "give one view name per image ('' when unknown)"
        )
    comparison = compare_reports(study.reference, study.hypothesis, labeler)
    figures = "".join(
        _figure(image, view, study.study_id) for image, view in zip(study.images, study.views, strict=True)
    )
    kind = {0: " textual", 1: ""}.get(len(study.images), " views")
    images = f'<div class="images">{figures}</div>' if figures else ""
    remark = f' <span class="quiet">{escape(study.remark)}</span>' if study.remark else ""
    return (
        f'<article class="study{kind}">{images}'
        f"<div><h3>Study {escape(study.study_id)}{remark}</h3>{_chips(comparison)}"
        f'<div class="texts">{_report("Reference report", study.reference, comparison.reference_marks)}'
        f"{_report('Generated report', study.hypothesis, comparison.hypothesis_marks)}</div></div></article>"
    )


def _figure(image: Image.Image | str | PathLike, view: str, study_id: str) -> str:
    picture = load_xray(image, allow_blank=True).copy()
    picture.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, "JPEG", quality=88)
    caption = f"<figcaption>{escape(view)}</figcaption>" if view else ""
    alt = f"Chest X-ray{f', {view} view' if view else ''}, study {study_id}"
    return (
        f'<figure><img src="data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}" width="{picture.width}" '
        f'height="{picture.height}" alt="{escape(alt)}">{caption}</figure>'
    )


def _chips(comparison: ReportComparison) -> str:
    groups = []
    for verdict in _SHOWN:
        names = "".join(
            f'<span class="chip {verdict.css_class}">{sign_html(verdict)}{escape(name)}</span>'
            for name in comparison.observations(verdict)
        )
        if names:
            groups.append(f"<li>{verdict.title} {names}</li>")
    return f'<ul class="findings">{"".join(groups) or "<li>No labelled finding in either report</li>"}</ul>'


def _report(heading: str, text: str, marks: Sequence[Mark]) -> str:
    content = marked_html(text, marks) if text.strip() else '<span class="quiet">(empty)</span>'
    return f'<div><h4>{heading}</h4><p class="report">{content}</p></div>'


def footer(notes: Sequence[str]) -> str:
    """Notes, and this package's version."""
    lines = "".join(f"<li>{escape(note)}</li>" for note in (*notes, f"mambaxray {version('mambaxray')}"))
    return f"<footer><ul>{lines}</ul></footer>"
