"""The clinical context of studies as `mambaxray generate` is given it: by options for one study, in a CSV for many."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .evaluation.study_report import StudyReport

if TYPE_CHECKING:
    from .processing.processing_mambaxray import MambaXrayProcessor

TEXT_COLUMNS = ("indication", "technique", "comparison", "prior_report")
IMAGE_COLUMNS = ("prior_image", "prior_images")
_OPTIONS = {"indication": "--indication", "prior_images": "--prior", "prior_report": "--prior-report"}


def given_context(
    indication: str | None, prior: Sequence[Path], prior_report: Path | None, section: str | None
) -> dict[str, Any]:
    """What the options say; empty for none of them.

    Raises:
        FileNotFoundError: there is no such image or report.
        ValueError: the report is not a text in UTF-8.
    """
    for file in (*prior, *([prior_report] if prior_report is not None else [])):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file")
    context: dict[str, Any] = {}
    if indication is not None:
        context["indication"] = indication
    if prior:
        context["prior_images"] = [str(file) for file in prior]
    if prior_report is not None:
        try:
            context["prior_report"] = prior_report.read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{prior_report} is not a text in UTF-8: {error}") from error
    if section is not None:
        context["section"] = section
    return context


def with_context(studies: Sequence[StudyReport], context: Mapping[str, Any]) -> list[StudyReport]:
    """The studies with what the options say; a section is asked of each, all else belongs to one.

    Raises:
        ValueError: several studies are given one patient's context.
    """
    of_one = [_OPTIONS[name] for name in context if name in _OPTIONS]
    if of_one and len(studies) > 1:
        raise ValueError(
            f"{', '.join(of_one)} belongs to one study, but there are {len(studies)}: give a CSV file with the columns "
            f"{', '.join((*TEXT_COLUMNS, IMAGE_COLUMNS[0]))}"
        )
    if not context:
        return list(studies)
    for study in studies:
        own = {Path(image).resolve() for image in study.images if isinstance(image, str | Path)}
        if same := [prior for prior in context.get("prior_images", ()) if Path(prior).resolve() in own]:
            raise ValueError(f"--prior {same[0]} is an image of the study itself: give one of an earlier study")
    return [replace(study, context={**(study.context or {}), **context}) for study in studies]


def check_context(
    processor: "MambaXrayProcessor", studies: Sequence[StudyReport], given: Mapping[str, Any]
) -> Iterator[str]:
    """Remarks on columns of a CSV that the model does not look at.

    Raises:
        ValueError: the model does not take what an option gives, or does not write the section.
    """
    taken = [_OPTIONS.get(name, name) for name in processor.context]
    for name in given:
        if name in _OPTIONS and name not in processor.context:
            raise ValueError(
                f"this model does not take {_OPTIONS[name]}; of the clinical context it takes "
                f"{', '.join(taken) or 'nothing'}"
            )
    processor.instruction_for(given)
    unused = {name for study in studies for name in study.context or () if name not in (*processor.context, "section")}
    return (f"the model does not look at the column {name}" for name in sorted(unused))


__all__ = ["IMAGE_COLUMNS", "TEXT_COLUMNS", "check_context", "given_context", "with_context"]
