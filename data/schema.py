"""The one schema of every data set: what a study is, and the observations a report can name.

A study is a dict with the keys of `STUDY_KEYS`:

| key | type | meaning |
|---|---|---|
| `study_id`, `patient_id` | str | unique within the data set; splits never share a patient |
| `images` | list of PIL images or paths | one per view, in acquisition order |
| `views` | list of str | `"PA"`, `"AP"`, `"LATERAL"` or `""`, one per image |
| `findings`, `impression`, `indication`, `technique`, `comparison` | str | the report's sections, empty when absent |
| `prior` | str | `study_id` of the patient's previous study, empty where there is none or none was looked for |
| `report` | str | the text a model is trained to write |
| `labels` | dict of int or None | one entry per observation, see `LABEL_VALUES` |
| `split` | str | `"train"`, `"validation"` or `"test"` |

Data sets that are loaded with their priors give in each row, beside these, the prior's `prior_images`, `prior_views`
and `prior_report`; they are read from the prior's own row and stored once (`priors.py`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..configuration.observations import OBSERVATIONS

if TYPE_CHECKING:
    import datasets

VIEWS: tuple[str, ...] = ("PA", "AP", "LATERAL")
"""The projections of chest radiographs; the view of an image is one of them, or empty when it is not known."""

PRESENT, ABSENT, UNCERTAIN, NOT_MENTIONED = 1, 0, -1, None
LABEL_VALUES: tuple[int | None, ...] = (PRESENT, ABSENT, UNCERTAIN, NOT_MENTIONED)
"""Values of a label, as in CheXpert's files (a blank cell there is `None` here)."""

STUDY_KEYS: tuple[str, ...] = (
    "study_id",
    "patient_id",
    "images",
    "views",
    "findings",
    "impression",
    "indication",
    "technique",
    "comparison",
    "prior",
    "report",
    "labels",
    "split",
)

SPLITS: tuple[str, ...] = ("train", "validation", "test")
SPLIT_NAMES: Mapping[str, str] = {
    **{name: name for name in SPLITS},
    **dict.fromkeys(("val", "valid", "dev"), "validation"),
}
"""What a split may be called in files, and what it is called here."""


class SourceError(ValueError):
    """A data set's files that do not hold what is expected of them."""


def study_features() -> "datasets.Features":
    """The schema's columns as `datasets` types; images are decoded by `XrayImage` when a row is read."""
    import datasets

    from .xray_feature import XrayImage

    text = datasets.Value("string")
    columns = dict.fromkeys(STUDY_KEYS, text) | {
        "images": datasets.List(XrayImage()),
        "views": datasets.List(text),
        "labels": {name: datasets.Value("int8") for name in OBSERVATIONS},
    }
    return datasets.Features(columns)


__all__ = [
    "ABSENT",
    "LABEL_VALUES",
    "NOT_MENTIONED",
    "OBSERVATIONS",
    "PRESENT",
    "SPLITS",
    "SPLIT_NAMES",
    "STUDY_KEYS",
    "UNCERTAIN",
    "VIEWS",
    "SourceError",
    "study_features",
]
