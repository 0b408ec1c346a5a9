"""Studies of which one section of the report is asked for, by the prompt."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..processing.report_cleaning import clean_report
from ..processing.report_text import choose_report
from .source import check_text_options


def section_report(study: Mapping[str, Any], section: str, cleaning: str | None = None) -> str:
    """What the report of a study says in that section, cleaned; empty where it says nothing."""
    report = choose_report(study["findings"], study["impression"], section)
    return report if cleaning is None or not report else clean_report(report, cleaning)


def ask_for_section(studies: Any, section: str, cleaning: str | None = None) -> "StudiesOfSection":
    """The studies whose report has the section, with that section as their `report`, and its name as `section`, which
    the prompt of a processor with `section_instructions` asks for.

    For evaluation: `evaluate_model(model, processor, ask_for_section(test, "impression"))`.

    Args:
        studies: a data set of the schema, or a list of its rows.
        section: `"findings"`, `"impression"` or `"findings+impression"`, of which one part is enough.
        cleaning: how to clean the text, as the reports that the model has learned from were, see
            `processing.report_cleaning`; None leaves it as it is.

    Raises:
        ValueError: an unknown section or cleaning, or no study has the section.
    """
    check_text_options(section, cleaning)
    return StudiesOfSection(studies, section, cleaning)


class StudiesOfSection(Sequence):
    """What `ask_for_section` returns; rows are read when they are asked for, and columns by their name."""

    def __init__(self, studies: Any, section: str, cleaning: str | None):
        self._studies = studies
        self._section = section
        pairs = zip(self._column("findings"), self._column("impression"), strict=True)
        reports = [section_report({"findings": f, "impression": i}, section, cleaning) for f, i in pairs]
        self._rows = [row for row, report in enumerate(reports) if report]
        self._reports = [reports[row] for row in self._rows]
        if not self._rows:
            raise ValueError(f"none of {len(reports)} studies has the section {section!r}")

    @property
    def column_names(self) -> list[str]:
        own = self._studies.column_names if hasattr(self._studies, "column_names") else [*self._studies[0]]
        return [*own, *(["section"] if "section" not in own else [])]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key == "report":
                return list(self._reports)
            if key == "section":
                return [self._section] * len(self)
            column = self._column(key)
            return [column[row] for row in self._rows]
        study = self._studies[self._rows[key]]
        return {**study, "report": self._reports[key], "section": self._section}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def _column(self, name: str) -> Sequence[Any]:
        if hasattr(self._studies, "column_names"):
            return self._studies[name]
        return [study[name] for study in self._studies]


__all__ = ["StudiesOfSection", "ask_for_section", "section_report"]
