"""The page of `mambaxray analyse embeddings`: histograms of several models in one figure, and a table of numbers."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from ..embedding_distances import EmbeddingDistances
from .charts import histogram
from .rendering import write_page

_NOTES = (
    "For each visual embedding, the Euclidean distance to the nearest word embedding of the language model; special "
    "tokens and rows of the vocabulary that no token has are left out.",
    "Models with different language models have different spaces: compare distances with the norm of the words.",
)


def write_embedding_page(
    path: str | PathLike, models: Sequence[EmbeddingDistances], *, title: str, summary: str
) -> Path:
    """Writes the page and returns its path; missing folders are made.

    Args:
        path: the HTML file to write.
        models: what `embedding_distances` returns, for one or more models.
        title: the heading.
        summary: the paragraph under it.
    """
    chart = histogram(
        "Distance of visual embeddings from the nearest word",
        "Euclidean distance",
        {model.name: model.distances.tolist() for model in models},
        y_label="% of embeddings",
    )
    rows = [
        (model.name, (len(model.distances), *model.summary().values(), model.nearest, *_norms(model)))
        for model in models
    ]
    columns: tuple[str, ...] = ("model", "embeddings", "mean", "median", "25 %", "75 %", "different nearest words")
    columns += ("norm of E_v", "norm of E_g", "norm of words")
    return write_page(
        path,
        "embedding_page.html.jinja",
        title=title,
        summary=summary,
        notes=_NOTES,
        chart=chart,
        columns=columns,
        rows=rows,
    )


def _norms(model: EmbeddingDistances) -> tuple[float | None, ...]:
    return tuple(model.norms.get(name) for name in ("E_v", "E_g", "words"))


__all__ = ["write_embedding_page"]
