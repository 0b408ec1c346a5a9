"""`StudyReport`: one study with what was written about it, from generation to the page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class StudyReport:
    """One study: its images, the report that a model wrote and the one that a radiologist wrote.

    What is not known (yet) is None, or empty.

    Attributes:
        study_id: unique within the data set or file.
        images: the views, as anything `load_xray` reads: images, paths, URLs.
        views: name of each image's view, "" when unknown.
        report: what the model wrote; None for a study that has no report (yet).
        reference: the radiologist's report.
        patient_id: groups the studies that are not independent of each other.
        error: why there is no report: an image that can't be read.
        seconds: the study's share of the time since the reports before it, reading of images included.
        settings: the model and the generation settings, as JSON: what made this report.
        made_with: what the report was made with, by content, see `MadeWith`.
        evidence: what the report rests on, by observation: a probability, a map over the image, recalled or retrieved
            studies. A dict of JSON values; None where the model gives none.
        context: what is known of the study beside its images: `indication`, `technique`, `comparison`, `prior_report`
            and `section` as texts, `prior_images` and `prior_views` as `images` and `views` of the prior study; None
            for nothing.
    """

    study_id: str
    images: "Sequence[Image.Image | str | PathLike]" = ()
    _: KW_ONLY
    views: Sequence[str] = ()
    report: str | None = None
    reference: str | None = None
    patient_id: str | None = None
    error: str | None = None
    seconds: float | None = None
    settings: str | None = None
    made_with: str | None = None
    evidence: Mapping[str, Any] | None = None
    context: Mapping[str, Any] | None = None

    @property
    def inputs(self) -> tuple[Any, ...]:
        """All that decides the study's report: the images, and the context where there is any."""
        if not self.context:
            return tuple(self.images)
        priors = tuple(self.context.get("prior_images", ()))
        told = {name: value for name, value in self.context.items() if name != "prior_images"}
        return (*self.images, *priors, json.dumps([len(priors), told], sort_keys=True))
