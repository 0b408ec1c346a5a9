"""The page of `mambaxray explain`: a report, the gates of its words, and where each word looked on the image."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from .attention import AttentionMaps, Explanation
from .page_parts import footer, header, write_page
from .svg_chart import Curve, Line, line_chart

_HEAT = (255, 122, 0)
_VIEW_SIDE = 448
_MAP_SIDE = 96
_NOTES = (
    "A map is drawn for each word: the attention of the position that predicts it, the mean over heads. Each map has "
    "colours of its own, from none to its strongest patch.",
    "Attention tells where a model reads from. It does not tell why it writes what it writes.",
)


def write_attention_page(
    path: str | PathLike, explanation: Explanation, *, title: str, summary: str, notes: Sequence[str] = ()
) -> Path:
    """Writes the page and returns its path; missing folders are made.

    Args:
        path: the HTML file to write.
        explanation: what `explain_report` returns.
        title: the heading.
        summary: the paragraph under it.
        notes: more lines for the foot of the page.
    """
    gated = [source for source in explanation.sources if source.gates is not None]
    sections = {"report": "Report", **({"gates": "Gates"} if gated else {})}
    sections |= {f"maps-{index}": source.name for index, source in enumerate(explanation.sources)}
    views = "".join(
        f'<figure><img src="{_png(view)}" width="{view.width}" height="{view.height}" alt="Chest X-ray"></figure>'
        for view in map(_enlarged, explanation.views)
    )
    body = (
        header(title, summary, sections)
        + f"<main style=\"--xray: url('{_png(_enlarged(explanation.views[0]))}')\">"
        + f'<section id="report"><h2>Report</h2><article class="study"><div class="images">{views}</div>'
        + f'<div><p class="report">{escape(" ".join(explanation.words))}</p></div></article></section>'
        + _gates(explanation.words, gated)
        + "".join(_maps(index, explanation, source) for index, source in enumerate(explanation.sources))
        + "</main>"
        + footer([*_NOTES, *notes])
    )
    return write_page(path, title, body)


def _gates(words: Sequence[str], sources: Sequence[AttentionMaps]) -> str:
    if not sources:
        return ""
    numbers = range(1, len(words) + 1)
    lines = [Line(source.name.removeprefix("Cross-attention of "), numbers, source.gates) for source in sources]
    strongest = max(float(np.abs(source.gates).max()) for source in sources) or 1.0
    texts = "".join(
        f'<h3>{escape(source.name)}</h3><p class="report">'
        + " ".join(_gated_word(word, gate, strongest) for word, gate in zip(words, source.gates, strict=True))
        + "</p>"
        for source in sources
    )
    chart = line_chart(Curve("Gate of each word", "word of the report", "gate", lines))
    return (
        '<section id="gates"><h2>Gates</h2><p class="quiet">By how much the cross-attention is multiplied before it is '
        "added, in each hybrid layer. The stronger the colour, the further from 0, over all layers; dashed below words "
        f'whose gate is negative.</p><div class="results">{chart}<div>{texts}</div></div></section>'
    )


def _gated_word(word: str, gate: float, strongest: float) -> str:
    share = round(60 * abs(float(gate)) / strongest)
    kind = "gate negative" if gate < 0 else "gate"
    return f'<span class="{kind}" style="--share: {share}%" title="{gate:.4g}">{escape(word)}</span>'


def _maps(index: int, explanation: Explanation, source: AttentionMaps) -> str:
    figures = []
    for word, heat in zip(explanation.words, source.maps, strict=True):
        share = f'<span class="quiet">{100 * heat.sum():.0f} %</span>' if source.gates is None else ""
        heat_map = _png(_coloured(heat, explanation.views[0].size))
        figures.append(
            f'<figure class="looked"><div><img src="{heat_map}" alt="where the model looked for '
            f'{escape(word)}"></div><figcaption>{escape(word)}{share}</figcaption></figure>'
        )
    explained = "" if source.gates is not None else " The number is the share of the attention that the image got."
    if len(explanation.views) > 1:
        explained += (
            f" The model reads the mean of the {len(explanation.views)} views: a map belongs to all of them and is "
            "drawn on the first."
        )
    return (
        f'<section id="maps-{index}"><h2>{escape(source.name)}</h2><p class="quiet">Where each word looked.{explained}'
        f'</p><div class="looks">{"".join(figures)}</div></section>'
    )


def _coloured(heat: np.ndarray, view_size: tuple[int, int]) -> Image.Image:
    """A map in colours, stretched from the square that the model saw to the aspect ratio of the view."""
    strength = heat / max(float(heat.max()), np.finfo(np.float32).tiny)
    pixels = np.empty((*heat.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _HEAT
    pixels[..., 3] = np.round(200 * strength)
    scale = _MAP_SIDE / max(view_size)
    width, height = (max(1, round(side * scale)) for side in view_size)
    return Image.fromarray(pixels, "RGBA").resize((width, height), Image.Resampling.BILINEAR)


def _enlarged(view: Image.Image) -> Image.Image:
    """Small images look better when this enlarges them than when the browser does."""
    scale = max(1, _VIEW_SIDE // max(view.size))
    return view.resize((view.width * scale, view.height * scale), Image.Resampling.BICUBIC)


def _png(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


__all__ = ["write_attention_page"]
