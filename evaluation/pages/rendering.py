"""Renders the templates of pages, and writes pages."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from io import BytesIO
from math import isnan
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from ...data.whole_file import write_whole


def render(template: str, **values: Any) -> Markup:
    """A template of `templates/` as safe HTML: every value that is not `Markup` is escaped."""
    return Markup(_environment().get_template(template).render(**values))


def render_page(
    template: str,
    *,
    title: str,
    summary: str,
    sections: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    **values: Any,
) -> str:
    """An HTML document that neither runs nor fetches anything.

    Args:
        template: one that extends `page.html.jinja`.
        title, summary: the heading and the paragraph below it.
        sections: id and name of each section, for the links at the top.
        notes: lines for the foot of the page, before this package's version.
        values: what else the template shows.
    """
    frame = {"title": title, "summary": summary, "sections": sections or {}, "notes": notes}
    return str(render(template, **frame, version=version("mambaxray"), **values))


def write_page(path: str | PathLike, template: str, **values: Any) -> Path:
    """Writes what `render_page` returns for these arguments; missing folders are made."""
    path = Path(path)
    content = render_page(template, **values)
    # A generated text can hold half a surrogate pair, which UTF-8 can't encode: show "?" rather than lose the page.
    write_whole(path, content.encode("utf-8", errors="replace").decode("utf-8"))
    return path


def data_uri(image: Image.Image, file_format: str, **options: Any) -> str:
    """The image as the address of an `img`; `options` are those of Pillow's encoder."""
    file = BytesIO()
    image.save(file, file_format, **options)
    return f"data:image/{file_format.lower()};base64,{b64encode(file.getvalue()).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent}
    return environment


def _number(value: float | None) -> str:
    if value is None or isnan(value):
        return "\N{EN DASH}"
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _percent(share: float) -> int:
    return 0 if isnan(share) else round(100 * min(max(share, 0.0), 1.0))
