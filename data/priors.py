"""Prior studies: which of a patient's studies came before, and data sets whose rows show it.

A row of a data set names its prior by `study_id` alone (`prior`). `with_priors` lets rows show the prior's images and
report, which are read from the prior's own row when they are asked for; nothing is stored twice.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .schema import SourceError

if TYPE_CHECKING:
    import datasets

ORDER = "order"
"""Key under which a reader says when a study was made: a value that sorts among those of the same patient, or None."""


def link_priors(studies: Sequence[dict[str, Any]], name: str) -> None:
    """Sets `prior` of each study to the `study_id` of the same patient's latest study before it, in the same split.

    Earlier means strictly earlier by `ORDER`: two studies of one time are not each other's prior, and a study of
    unknown time neither has one nor is one. Where several rows share the time of the prior, as the images of one study
    do in a data set with a row for each image, the one with the same views is taken, else the first that is frontal,
    else the first.

    Args:
        studies: rows of the schema with `ORDER`.
        name: of the data set, for messages.

    Raises:
        SourceError: the time of no study is known.
    """
    if all(study.get(ORDER) is None for study in studies):
        raise SourceError(f"{name}: it does not say in which order a patient's studies were made, so none has a prior")
    of_patient: dict[tuple[str, str], dict[Any, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for study in studies:
        if study.get(ORDER) is not None:
            of_patient[study["patient_id"], study["split"]][study[ORDER]].append(study)
    for by_time in of_patient.values():
        times = sorted(by_time)
        for before, time in pairwise(times):
            for study in by_time[time]:
                study["prior"] = _closest_view(by_time[before], study["views"])["study_id"]


def read_date(value: Any, where: str) -> datetime | None:
    """A date or time as tables hold it: ISO 8601 (`2019-03-01`, `20190301`, `2019-03-01T08:45`), also as a number; None
    for an empty one. Times of one data set are compared without their zones.

    Raises:
        SourceError: anything else.
    """
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    text = str(value).strip().removesuffix(".0")
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError as error:
        raise SourceError(f"{where}: study_date must be a date such as 2019-03-01, got {value!r}") from error


def _closest_view(candidates: Sequence[dict[str, Any]], views: Any) -> dict[str, Any]:
    same = [study for study in candidates if _known_views(study["views"]) == _known_views(views) != []]
    frontal = [study for study in candidates if {"PA", "AP"} & {*_known_views(study["views"])}]
    return next(iter(same or frontal or candidates))


def _known_views(views: Any) -> list[str]:
    """The views that are named; a table may give one as a text, or none."""
    names = [views] if isinstance(views, str) else views or []
    return [name for name in names if isinstance(name, str) and name]


def with_priors(splits: "datasets.DatasetDict") -> "datasets.DatasetDict":
    """The data sets with rows that also have `prior_images`, `prior_views` and `prior_report`: what the prior's row
    holds as `images`, `views` and `report`; empty for a study without a prior in the same split.

    They are no columns. Selecting, sorting and shuffling rows keeps them; what makes a new data set (`save_to_disk`,
    `to_parquet`) keeps the link alone.
    """
    import datasets

    return datasets.DatasetDict({name: studies.with_transform(_AddPriors(studies)) for name, studies in splits.items()})


def shows_priors(studies: "datasets.Dataset") -> bool:
    """Whether the rows of a data set show their priors, as `with_priors` lets them."""
    return isinstance(studies.format["format_kwargs"].get("transform"), _AddPriors)


def count_priors(studies: Mapping[str, Sequence[str]]) -> int:
    """How many studies have a prior in the same data set.

    Args:
        studies: its columns `study_id` and `prior`.
    """
    known = set(studies["study_id"])
    return sum(prior in known for prior in studies["prior"])


class _AddPriors:
    """What a data set applies to the rows that it reads. It can be sent to other processes."""

    def __init__(self, studies: "datasets.Dataset"):
        self._studies = studies
        wanted = set(studies["prior"]) - {""}
        self._rows = {name: row for row, name in enumerate(studies["study_id"]) if name in wanted}

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        # A column by itself, or rows that are read without their images.
        if not {"prior", "images"} <= batch.keys():
            return batch
        priors = [self._studies[self._rows[name]] if name in self._rows else None for name in batch["prior"]]
        return {
            **batch,
            "prior_images": [[] if prior is None else prior["images"] for prior in priors],
            "prior_views": [[] if prior is None else prior["views"] for prior in priors],
            "prior_report": ["" if prior is None else prior["report"] for prior in priors],
        }


__all__ = ["ORDER", "count_priors", "link_priors", "read_date", "shows_priors", "with_priors"]
