"""How much of a report is copied from the report that was retrieved for it."""

from collections.abc import Sequence
from statistics import mean

from .study_report import StudyReport
from .tokenization import one_line

RUN = 4
"""Words in a row that count as copied; shorter runs are shared by any two reports."""


def copied_share(report: str, exemplar: str, run: int = RUN) -> float:
    """The share of a report's words that lie within a run of at least `run` words that the exemplar has, too.

    Words are what lies between blanks, in lower case; a report without words copies nothing.

    >>> copied_share("The heart is normal. No effusion.", "Lungs are clear. The heart is normal.")
    0.6666666666666666
    """
    words, others = (one_line(text).lower().split() for text in (report, exemplar))
    runs = {tuple(others[start : start + run]) for start in range(len(others) - run + 1)}
    copied: set[int] = set()
    for start in range(len(words) - run + 1):
        if tuple(words[start : start + run]) in runs:
            copied.update(range(start, start + run))
    return len(copied) / len(words) if words else 0.0


def copying(predictions: Sequence[StudyReport]) -> dict[str, float]:
    """How much reports copy, by the exemplars that their evidence names with their text.

    Returns:
        - `copied`: the mean `copied_share` of the reports that had an exemplar.
        - `copied_by_chance`: the same of each report with the exemplar of the next study in its place, which nothing
          was copied from: what stock phrases alone make.

        Empty with fewer than two exemplars.
    """
    pairs = [(each.report or "", text) for each in predictions if (text := exemplar_text(each)) is not None]
    if len(pairs) < 2:
        return {}
    others = [text for _, text in pairs[1:] + pairs[:1]]
    return {
        "copied": mean(copied_share(*pair) for pair in pairs),
        "copied_by_chance": mean(copied_share(report, other) for (report, _), other in zip(pairs, others, strict=True)),
    }


def exemplar_text(prediction: StudyReport) -> str | None:
    """The text of the study that was retrieved for a prediction's prompt, which its evidence names for all observations
    alike; None where it names none, or no text of it.

    What single queries recall from memories of a name (`RelatedStudy.memory`) does not stand in the prompt.
    """
    for each in (prediction.evidence or {}).values():
        for study in each.get("studies", ()):
            if "memory" not in study and isinstance(text := study.get("text"), str):
                return text
    return None


__all__ = ["RUN", "copied_share", "copying", "exemplar_text"]
