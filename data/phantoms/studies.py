"""Phantom studies, images with views, report and labels, and data sets of them."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..priors import with_priors
from ..schema import STUDY_KEYS, study_features
from .drawing import complete_findings, draw_phantom
from .findings import Finding
from .history import sample_history
from .report import write_report
from .sampling import sample_findings
from .streams import CLINIC, REPORT, stream

if TYPE_CHECKING:
    import datasets

DEFAULT_SPLITS: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}

_INDICATIONS = (
    "Chest pain.",
    "Shortness of breath.",
    "Cough and fever.",
    "Dyspnea.",
    "Trauma.",
    "Preoperative evaluation.",
    "Follow-up.",
    "Weakness.",
    "",
)


def make_study(
    seed: int,
    *,
    image_size: int = 224,
    views: Sequence[str] = ("PA",),
    findings: Sequence[Finding] | None = None,
    visit: int | None = None,
) -> dict[str, Any]:
    """One study in the schema of `data.schema`, images as PIL images of mode "L".

    Args:
        seed: decides everything that is not given.
        image_size: height and width in pixels.
        views: one image for each, see `draw_phantom`.
        findings: what to show; None draws none to three, and devices, at random.
        visit: 0 or 1 for the first or second study of a patient with a history (`sample_history`), whose findings are
            not given; the second one's report compares. None is a patient with one study.

    Raises:
        ValueError: for no views, findings of a patient with a history, a visit that is neither 0 nor 1, and as
            `draw_phantom`.
    """
    if not views:
        raise ValueError("a study needs at least one view: give views=('PA',) or more")
    if visit not in (None, 0, 1) or (visit is not None and findings is not None):
        raise ValueError(f"visit {visit} must be 0 or 1, and its findings are those of the seed's history")
    history = None if visit is None else sample_history(seed)
    if history is not None and visit is not None:
        chosen = list(history.visits[visit])
    else:
        chosen = sample_findings(seed) if findings is None else list(findings)
    found = complete_findings(chosen, seed)
    images = [
        Image.fromarray(draw_phantom(found, seed=seed, view=view, image_size=image_size, visit=visit)) for view in views
    ]
    later = (visit,) if visit else ()
    compared: dict[str, Any] = (
        {"changes": history.changes, "gone": history.gone} if history is not None and visit else {}
    )
    report = write_report(found, stream(seed, REPORT, *later), **compared)
    indication = str(stream(seed, CLINIC, 3 if visit else 1).choice(_INDICATIONS))
    name = f"phantom-{seed}"
    return {
        "study_id": name if visit is None else f"{name}-{visit}",
        "patient_id": name,
        "images": images,
        "views": list(views),
        "findings": report.findings,
        "impression": report.impression,
        "indication": indication,
        "technique": "" if visit is None else f"{' and '.join(views)} view{'s' if len(views) > 1 else ''}.",
        "comparison": "Prior radiograph." if visit else "",
        "prior": f"{name}-0" if visit else "",
        "report": report.text,
        "labels": report.labels,
        "split": "train",
    }


# ------------------------------------------------------------------------------------------- the data set


def make_phantoms(
    num_studies: int,
    *,
    seed: int = 0,
    image_size: int = 224,
    views: Sequence[str] = ("PA",),
    splits: Mapping[str, float] | None = None,
    num_proc: int | None = None,
    history: bool = False,
) -> "datasets.DatasetDict":
    """A data set of random studies, the same for the same arguments on every machine and process count.

    Args:
        num_studies: how many in all splits together; every study is another patient, without `history`.
        seed: another seed gives other studies throughout.
        image_size: height and width in pixels.
        views: one image for each, see `draw_phantom`.
        splits: share of each split, by name; they must add up to 1.
            Default: train 0.8, validation 0.1, test 0.1.
        num_proc: number of processes to draw with.
        history: whether every patient has two studies, one behind the other (so `num_studies` is even), between which
            findings appear, grow, shrink and go. The second's report says so, and its row shows the first (see
            `with_priors`).

    Returns:
        `datasets.DatasetDict` with the columns of `data.schema.STUDY_KEYS`; images are decoded on access.

    Raises:
        ValueError: for no studies, an odd number of them with `history`, or shares that are negative or do not add up
            to 1.
    """
    import datasets

    shares = dict(DEFAULT_SPLITS if splits is None else splits)
    if num_studies < 1:
        raise ValueError(f"num_studies is {num_studies}: at least one is needed")
    if min(shares.values(), default=-1) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"splits {shares} must be shares of 0 or more that add up to 1")
    if history and num_studies % 2:
        raise ValueError(f"num_studies is {num_studies}: patients with a history have two studies each; give 2, 4, …")
    visits = (0, 1) if history else (None,)
    num_studies //= len(visits)
    bounds = np.round(np.cumsum([0.0, *shares.values()]) * num_studies).astype(int)
    out = datasets.DatasetDict()
    for name, start, stop in zip(shares, bounds[:-1], bounds[1:], strict=True):
        if start == stop:
            out[name] = datasets.Dataset.from_dict({key: [] for key in STUDY_KEYS}, features=study_features())
            continue
        rows = [(study_seed(seed, number), visit) for number in range(start, stop) for visit in visits]
        kinds = datasets.Features(seed=datasets.Value("uint64"), visit=datasets.Value("int8"))
        columns = {"seed": [seed for seed, _ in rows], "visit": [visit for _, visit in rows]}
        source = datasets.Dataset.from_dict(columns, features=kinds)
        out[name] = source.map(
            _draw_row,
            fn_kwargs={"image_size": image_size, "views": tuple(views), "split": name},
            remove_columns=["seed", "visit"],
            features=study_features(),
            num_proc=None if num_proc is None else min(num_proc, len(rows)),
            keep_in_memory=True,
            load_from_cache_file=False,
            desc=f"Drawing phantoms ({name})",
        )
    return with_priors(out) if history else out


def study_seed(seed: int, number: int) -> int:
    """The seed of a data set's study: far apart for neighbouring data sets."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _draw_row(row: Mapping[str, Any], image_size: int, views: Sequence[str], split: str) -> dict[str, Any]:
    study = make_study(row["seed"], image_size=image_size, views=views, visit=row["visit"])
    return encode_study({**study, "split": split})


def encode_study(study: Mapping[str, Any]) -> dict[str, Any]:
    """The study with its images as PNG files in memory, as `datasets` stores them."""
    return {**study, "images": [encode_image(image) for image in study["images"]]}


def encode_image(image: Image.Image) -> dict[str, Any]:
    """A grey image as a PNG file in memory, as `datasets` stores it."""
    file = io.BytesIO()
    # Noise hardly compresses: higher levels take several times as long for a few percent.
    image.save(file, "PNG", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}
