"""A benchmark's tables as Markdown, LaTeX or HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..evaluation.pages.table_page import table_page

TableFormat = Literal["markdown", "latex", "html"]


@dataclass(frozen=True)
class TextTable:
    """A table whose numbers are texts already.

    Attributes:
        title: its heading.
        summary: what it shows, in a sentence.
        heads: of each column, what stands above it, and whether it holds names or numbers.
        lines: each with whose numbers they are, and its cells; lines whose first cells are equal belong together.
        notes: what is to be said about it.
    """

    title: str
    summary: str
    heads: Sequence[tuple[str, Literal["name", "number"]]]
    lines: Sequence[tuple[Literal["own", "published"], Sequence[str]]]
    notes: Sequence[str]

    def render(self, form: TableFormat) -> str:
        """The table as text of that format.

        Raises:
            ValueError: an unknown format.
        """
        if form not in get_args(TableFormat):
            raise ValueError(f"format {form!r}: must be one of {', '.join(get_args(TableFormat))}")
        return {"markdown": _markdown, "latex": _latex, "html": _html}[form](self)


def _markdown(table: TextTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = ["---:" if kind == "number" else "---" for _, kind in table.heads]
    lines = [f"# {table.title}", "", line([head for head, _ in table.heads]), line(rule)]
    lines += [line(cells) for _, cells in table.lines]
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)]) + "\n"


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "±": r"$\pm$",
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "’": "'"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "},
}


def _latex(table: TextTable) -> str:
    def text(value: str) -> str:
        return "".join(_LATEX.get(sign, sign) for sign in value)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(text, cells)) + r" \\"

    kinds = "".join("r" if kind == "number" else "l" for _, kind in table.heads)
    lines = ["% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{text(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", line([head for head, _ in table.heads])]
    for first in dict.fromkeys(cells[0] for _, cells in table.lines):
        lines.append(r"\midrule")
        lines += [line(cells) for _, cells in table.lines if cells[0] == first]
    lines += [r"\bottomrule", r"\end{tabular}", *(rf"\par\footnotesize {text(note)}" for note in table.notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _html(table: TextTable) -> str:
    return table_page(table.heads, table.lines, title=table.title, summary=table.summary, notes=table.notes)


__all__ = ["TableFormat", "TextTable"]
