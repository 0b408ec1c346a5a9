"""A page with one wide table, such as that of a benchmark."""

from collections.abc import Sequence
from typing import Literal

from .rendering import render_page


def table_page(
    columns: Sequence[tuple[str, Literal["name", "number"]]],
    rows: Sequence[tuple[Literal["own", "published"], Sequence[str]]],
    *,
    title: str,
    summary: str,
    notes: Sequence[str] = (),
) -> str:
    """The page as HTML.

    Args:
        columns: heading of each column, and what stands in it.
        rows: whose numbers a row shows, and its cells.
        title, summary: the heading of the page and the paragraph below it.
        notes: lines for the foot of the page.
    """
    return render_page("table_page.html.jinja", title=title, summary=summary, notes=notes, columns=columns, rows=rows)
