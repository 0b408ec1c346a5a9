"""The page of `mambaxray explain`: a report, the gates of its words, and where each word looked on the image."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ...modeling_mambaxray.layers.image_features import RelatedStudy
from ..attention import AttentionMaps, Explanation
from ..labeler import CheXpertStyleLabeler
from .charts import Curve, Line, line_chart
from .overlays import enlarged, heat_overlay, png_uri
from .rendering import write_page

_NOTES = (
    "A map is drawn for each word: the attention of the position that predicts it, the mean over heads. Each map has "
    "colours of its own, from none to its strongest patch.",
    "Attention shows where a model reads from, not why it writes what it writes.",
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
    sections = {"report": "Report", **({"evidence": "Evidence"} if explanation.evidence else {})}
    size = explanation.views[0].size
    findings = _findings_of_words(explanation.words)
    sections |= {"gates": "Gates"} if gated else {}
    sections |= {f"maps-{index}": source.name for index, source in enumerate(explanation.sources)}
    return write_page(
        path,
        "attention_page.html.jinja",
        title=title,
        summary=summary,
        sections=sections,
        notes=[*_NOTES, *notes],
        views=[
            {"source": png_uri(view), "width": view.width, "height": view.height}
            for view in map(enlarged, explanation.views)
        ],
        report=" ".join(explanation.words),
        exemplars=_shared_studies(explanation),
        evidence=[
            {
                "observation": each.observation,
                "percent": None if each.probability is None else round(100 * each.probability),
                "map": None if each.map is None else png_uri(heat_overlay(each.map.float().cpu().numpy(), size)),
                "studies": each.studies,
            }
            for each in explanation.evidence
        ],
        gates=_gates(explanation.words, gated),
        gate_chart=_gate_chart(explanation.words, gated),
        maps=[
            {
                "id": f"maps-{index}",
                "name": source.name,
                "is_gated": source.gates is not None,
                "groups": _groups(explanation.words, source, size, findings),
            }
            for index, source in enumerate(explanation.sources)
        ],
    )


def _shared_studies(explanation: Explanation) -> tuple[RelatedStudy, ...]:
    """The studies that stand behind all observations alike, to be shown once; none where each has its own."""
    of_observations = [each.studies for each in explanation.evidence]
    alike = len(of_observations) > 1 and all(studies == of_observations[0] for studies in of_observations)
    return of_observations[0] if alike else ()


def _findings_of_words(words: Sequence[str]) -> dict[str, list[int]]:
    """By observation (or several that share a word), the numbers of the words by which the report mentions it."""
    spans, position = [], 0
    for word in words:
        spans.append((position, position + len(word)))
        position += len(word) + 1
    names: dict[int, list[str]] = {}
    for mention in CheXpertStyleLabeler().mentions(" ".join(words)):
        for number, (start, end) in enumerate(spans):
            if start < mention.end and end > mention.start and mention.observation not in names.get(number, ()):
                names.setdefault(number, []).append(mention.observation)
    found: dict[str, list[int]] = {}
    for number, observations in sorted(names.items()):
        found.setdefault(", ".join(observations), []).append(number)
    return found


def _groups(
    words: Sequence[str], source: AttentionMaps, size: tuple[int, int], findings: dict[str, list[int]]
) -> list[dict[str, Any]]:
    """The maps of a source by the finding that their words name, and all other words last, without a name."""

    def looked(number: int) -> dict[str, str]:
        heat = source.maps[number]
        return {
            "text": words[number],
            "source": png_uri(heat_overlay(heat, size)),
            "percent": f"{100 * heat.sum():.0f}",
        }

    named = {number for numbers in findings.values() for number in numbers}
    others = [number for number in range(len(words)) if number not in named]
    groups = [*findings.items(), *([("", others)] if others else [])]
    return [{"name": name, "words": [looked(number) for number in numbers]} for name, numbers in groups]


def _gates(words: Sequence[str], sources: Sequence[AttentionMaps]) -> list[dict[str, Any]]:
    """The words of each gated layer with their gates, and with their shares of the colour in percent."""
    gates = [(source.name, source.gates) for source in sources if source.gates is not None]
    strongest = max((float(np.abs(values).max()) for _, values in gates), default=0.0) or 1.0
    return [
        {
            "name": name,
            "words": [
                {"text": word, "gate": float(gate), "share": round(60 * abs(float(gate)) / strongest)}
                for word, gate in zip(words, values, strict=True)
            ],
        }
        for name, values in gates
    ]


def _gate_chart(words: Sequence[str], sources: Sequence[AttentionMaps]) -> Markup:
    numbers = range(1, len(words) + 1)
    lines = [
        Line(source.name.removeprefix("Cross-attention of "), numbers, source.gates.tolist())
        for source in sources
        if source.gates is not None
    ]
    return line_chart(Curve("Gate of each word", "word of the report", "gate", lines))


__all__ = ["write_attention_page"]
