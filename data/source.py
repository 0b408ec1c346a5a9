"""What the readers of data sets share: from the studies found in a folder to those a model is trained and tested on.

A reader turns the files of one data set into rows of the schema (`data/schema.py`), images as paths. `finish_source`
does what is the same for all of them: it chooses and cleans the report, leaves out studies without one and says so,
counts, and looks for patients who are in two splits.
"""

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..processing.report_cleaning import CLEANINGS, clean_report
from ..processing.report_text import SECTIONS, choose_report, is_missing
from .cells import look_alike, plain_text
from .priors import ORDER, link_priors
from .schema import OBSERVATIONS, SPLITS, STUDY_KEYS, SourceError

logger = logging.getLogger(__name__)

SEEDED_SHARES: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""Shares of a data set whose authors published no list (CXPMRG-Bench for CheXpert Plus)."""
_SECTIONS = ("findings", "impression", "indication", "technique", "comparison")


class SharedPatientsError(SourceError):
    """Patients who are in more than one split."""


@dataclass(frozen=True)
class LeftOut:
    """Something of the source that is not in the data set, and why.

    Attributes:
        study_id: the study that it belongs to.
        item: what is left out: "study", or the path of an image.
        reason: why, in words.
    """

    study_id: str
    item: str
    reason: str


@dataclass(frozen=True)
class Source:
    """The studies of a data set as its files hold them, before any image is read.

    Attributes:
        name: the data set's name, as in `mambaxray prepare NAME`.
        studies: rows of the schema whose `images` are paths.
        left_out: studies that are not among them.
        section: what `report` consists of, see `processing.report_text.SECTIONS`.
        cleaning: how `report` was cleaned, see `processing.report_cleaning`; None for not at all.
        split_source: where the splits come from, in words.
        published_counts: studies of each split as the papers state them, where they do.
        shared_patients: how many patients are in more than one split.
        has_priors: whether studies were linked to the patient's previous one.
    """

    name: str
    studies: list[dict[str, Any]]
    left_out: list[LeftOut]
    section: str
    cleaning: str | None
    split_source: str
    published_counts: Mapping[str, int] = field(default_factory=dict)
    shared_patients: int = 0
    has_priors: bool = False


def check_text_options(section: str, cleaning: str | None) -> None:
    """Refuses an unknown section or cleaning, before any file is read.

    Raises:
        ValueError: with the names there are.
    """
    if section not in SECTIONS:
        raise ValueError(f"unknown section {section!r}; a model can write {', '.join(SECTIONS)}")
    if cleaning is not None and cleaning not in CLEANINGS:
        raise ValueError(f"unknown report cleaning {cleaning!r}; there are {', '.join(CLEANINGS)}, or None")


def empty_study(study_id: str, patient_id: str) -> dict[str, Any]:
    """A row of the schema to fill in; its split is not decided."""
    study: dict[str, Any] = dict.fromkeys(STUDY_KEYS, "")
    own = {"study_id": study_id, "patient_id": patient_id, "images": [], "views": []}
    return study | own | {"labels": dict.fromkeys(OBSERVATIONS)}


def finish_source(
    name: str,
    studies: Iterable[dict[str, Any]],
    *,
    section: str,
    cleaning: str | None,
    split_source: str,
    left_out: Iterable[LeftOut] = (),
    published_counts: Mapping[str, int] | None = None,
    allow_shared_patients: bool = False,
    seed: int | None = None,
    prior: bool = False,
) -> Source:
    """Chooses and cleans the reports of studies just read, splits them where the source does not, and checks them.

    Args:
        name: of the data set.
        studies: rows; a `report` that is given already is kept as the text to clean. A row may also have what
            `link_priors` orders the patient's studies by.
        section: what to make reports of.
        cleaning: style of `clean_report`, or None.
        split_source: where the splits come from.
        left_out: what the reader has left out already.
        published_counts: what the papers state.
        allow_shared_patients: whether a patient may be in two splits.
        seed: to split with `split_by_patient`; None when the rows have their split.
        prior: whether to link each study to the patient's previous one among those that are kept.

    Raises:
        SourceError: no study is left, or priors are asked for and the order of studies is not known.
        SharedPatientsError: a patient is in two splits and that is not allowed.
    """
    check_text_options(section, cleaning)
    kept, missing = [], list(left_out)
    for study in studies:
        study = study | {name: plain_text(study[name]) for name in _SECTIONS}
        study |= {name: "" for name in _SECTIONS if name != "comparison" and is_missing(study[name])}
        report = choose_report(study["findings"], study["impression"], section)
        if not report:
            missing.append(LeftOut(study["study_id"], "study", f"no {section} in its report"))
        elif not study["images"]:
            missing.append(LeftOut(study["study_id"], "study", "no image"))
        else:
            kept.append({**study, "report": report if cleaning is None else clean_report(report, cleaning)})
    if not kept:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in count_reasons(missing).items())
        raise SourceError(f"{name}: no study can be used ({reasons or 'none was found'})")
    require_unique(kept, name)
    if seed is not None:
        split_by_patient(kept, SEEDED_SHARES, seed)
    shared = check_leaks(kept, name, split_source, allow_shared_patients=allow_shared_patients)
    if prior:
        link_priors(kept, name)
    for study in kept:
        study.pop(ORDER, None)
    return Source(name, kept, missing, section, cleaning, split_source, published_counts or {}, shared, prior)


def require_unique(studies: Iterable[Mapping[str, Any]], name: str) -> None:
    """Refuses studies of one id.

    Raises:
        SourceError: with the first ids that occur more than once.
    """
    twice = [study_id for study_id, count in Counter(s["study_id"] for s in studies).items() if count > 1]
    if twice:
        raise SourceError(f"{name}: {len(twice)} study ids occur more than once: {', '.join(twice[:3])}")


def labels_by_study(pairs: Iterable[tuple[str, dict[str, int | None]]], name: str) -> dict[str, dict[str, int | None]]:
    """The labels of each study, which may be stated for each of its images.

    Raises:
        SourceError: labels of one study differ.
    """
    found: dict[str, dict[str, int | None]] = {}
    for study_id, labels in pairs:
        if found.setdefault(study_id, labels) != labels:
            raise SourceError(f"{name}: study {study_id} has different labels in two places")
    return found


def require_matches(labels: Mapping[str, Any], studies: Mapping[str, Any], name: str) -> None:
    """Refuses labels none of which is of one of the studies, and says how many studies have none.

    Raises:
        SourceError: the ids are written in different ways, for example.
    """
    if not labels:
        return
    unlabeled = len(studies.keys() - labels.keys())
    if studies and unlabeled == len(studies):
        raise SourceError(
            f"{name}: none of its {len(labels):,} labels is of a study that was found: their ids are like "
            f"{next(iter(labels))!r}, those of the studies like {next(iter(studies))!r}"
        )
    if unlabeled:
        logger.warning("%s: %s of %s studies have no labels in it", name, f"{unlabeled:,}", f"{len(studies):,}")


def check_leaks(
    studies: Sequence[Mapping[str, Any]], name: str, split_source: str, *, allow_shared_patients: bool
) -> int:
    """Refuses patients who are in two splits; images that are, and patients who may be one, are logged.

    Args:
        studies: rows of the schema. Images that are no paths are not compared.
        name: of the data set, for messages.
        split_source: where the splits come from, in words.
        allow_shared_patients: whether to let them be.

    Returns:
        How many patients are in more than one split.

    Raises:
        SharedPatientsError: a patient is in two splits and that is not allowed.
    """
    shared = count_shared_patients(studies)
    if shared and not allow_shared_patients:
        raise SharedPatientsError(
            f"{name}: {shared} patients are in more than one split ({split_source}), so that scores on the test split "
            "would be too good; allow it knowingly with allow_shared_patients (--allow-shared-patients)"
        )
    places: dict[str, set[str]] = defaultdict(set)
    for study in studies:
        for image in study["images"]:
            if isinstance(image, str):
                places[image].add(study["split"])
    if twice := [image for image, found in places.items() if len(found) > 1]:
        logger.warning("%s: %d images are in more than one split, such as %s", name, len(twice), twice[0])
    splits = {study["patient_id"]: study["split"] for study in studies}
    alike = [ids for ids in look_alike(splits).values() if len({splits[each] for each in ids}) > 1]
    if alike:
        logger.warning(
            "%s: %d pairs of patients in different splits have nearly the same id, such as %r and %r; if each is one "
            "patient, write the ids in one way",
            name,
            len(alike),
            *alike[0][:2],
        )
    return shared


def count_reasons(left_out: Iterable[LeftOut]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first. Reasons that name a file count by what follows it."""
    return dict(Counter(entry.reason.rpartition(": ")[2] for entry in left_out).most_common())


def count_splits(studies: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Studies of each split, in the order of `SPLITS`; splits without any are left out."""
    counts = Counter(study["split"] for study in studies)
    return {name: counts[name] for name in SPLITS if counts[name]}


def count_shared_patients(studies: Iterable[Mapping[str, Any]]) -> int:
    """How many patients are in more than one split."""
    splits = defaultdict(set)
    for study in studies:
        splits[study["patient_id"]].add(study["split"])
    return sum(len(names) > 1 for names in splits.values())


def split_by_patient(studies: list[dict[str, Any]], shares: Mapping[str, float], seed: int) -> None:
    """Gives every study its split, all studies of a patient the same one.

    The last split gets what the rounded-down shares of the others leave: with 0.7, 0.1 and 0.2 of 57,805 studies
    that is 40,463, 5,780 and 11,562, as CXPMRG-Bench has it for CheXpert Plus. In random order, each patient goes to
    the first split with room for all their studies, or where none has it to the one with the most room, so the counts
    are met exactly unless patients are few and have many studies.
    """
    by_patient = defaultdict(list)
    for study in studies:
        by_patient[study["patient_id"]].append(study)
    # Sorted first, so that the order in which files were found changes nothing.
    patients = sorted(by_patient)
    random.Random(seed).shuffle(patients)
    *first, last = shares
    room = {name: int(shares[name] * len(studies)) for name in first}
    room[last] = len(studies) - sum(room.values())
    for patient in patients:
        own = by_patient[patient]
        split = next((name for name in room if room[name] >= len(own)), max(room, key=room.__getitem__))
        room[split] -= len(own)
        for study in own:
            study["split"] = split


def compare_counts(counts: Mapping[str, int], published: Mapping[str, int]) -> str:
    """Counts by split in words, beside the published ones where there are some."""
    return ", ".join(
        f"{name} {counts.get(name, 0):,}"
        + (f" (published: {published[name]:,})" if name in published and published[name] != counts.get(name, 0) else "")
        for name in SPLITS
        if name in counts or name in published
    )


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that can't be one (too long, with a null) is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def find_folder(source: str | Path) -> Path:
    """The source as a folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    return folder
