"""Phantom studies, images with views, report and labels, and data sets of them."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..schema import STUDY_KEYS, study_features
from .drawing import complete_findings, draw_phantom
from .findings import Finding
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
    seed: int, *, image_size: int = 224, views: Sequence[str] = ("PA",), findings: Sequence[Finding] | None = None
) -> dict[str, Any]:
    """One study in the schema of `data.schema`, images as PIL images of mode "L".

    Args:
        seed: decides everything that is not given.
        image_size: height and width in pixels.
        views: one image for each, see `draw_phantom`.
        findings: what to show; None draws none to three, and devices, at random.

    Raises:
        ValueError: for no views, and as `draw_phantom`.
    """
    if not views:
        raise ValueError("a study needs at least one view: give views=('PA',) or more")
    chosen = sample_findings(seed) if findings is None else list(findings)
    found = complete_findings(chosen, seed)
    images = [Image.fromarray(draw_phantom(found, seed=seed, view=v, image_size=image_size)) for v in views]
    report = write_report(found, stream(seed, REPORT))
    indication = str(stream(seed, CLINIC, 1).choice(_INDICATIONS))
    return {
        "study_id": f"phantom-{seed}",
        "patient_id": f"phantom-{seed}",
        "images": images,
        "views": list(views),
        "findings": report.findings,
        "impression": report.impression,
        "indication": indication,
        "technique": "",
        "comparison": "",
        "prior": "",
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
) -> "datasets.DatasetDict":
    """A data set of random studies, the same for the same arguments on every machine and process count.

    Args:
        num_studies: how many in all splits together; every study is another patient.
        seed: another seed gives other studies throughout.
        image_size: height and width in pixels.
        views: one image for each, see `draw_phantom`.
        splits: share of each split, by name; they must add up to 1.
            Default: train 0.8, validation 0.1, test 0.1.
        num_proc: number of processes to draw with.

    Returns:
        `datasets.DatasetDict` with the columns of `data.schema.STUDY_KEYS`; images are decoded on access.

    Raises:
        ValueError: for no studies, or shares that are negative or do not add up to 1.
    """
    import datasets

    shares = dict(DEFAULT_SPLITS if splits is None else splits)
    if num_studies < 1:
        raise ValueError(f"num_studies is {num_studies}: at least one is needed")
    if min(shares.values(), default=-1) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"splits {shares} must be shares of 0 or more that add up to 1")
    bounds = np.round(np.cumsum([0.0, *shares.values()]) * num_studies).astype(int)
    out = datasets.DatasetDict()
    for name, start, stop in zip(shares, bounds[:-1], bounds[1:], strict=True):
        if start == stop:
            out[name] = datasets.Dataset.from_dict({key: [] for key in STUDY_KEYS}, features=study_features())
            continue
        seeds = [study_seed(seed, number) for number in range(start, stop)]
        source = datasets.Dataset.from_dict({"seed": seeds}, features=datasets.Features(seed=datasets.Value("uint64")))
        out[name] = source.map(
            _draw_row,
            fn_kwargs={"image_size": image_size, "views": tuple(views), "split": name},
            remove_columns="seed",
            features=study_features(),
            num_proc=None if num_proc is None else min(num_proc, len(seeds)),
            keep_in_memory=True,
            load_from_cache_file=False,
            desc=f"Drawing phantoms ({name})",
        )
    return out


def study_seed(seed: int, number: int) -> int:
    """The seed of a data set's study: far apart for neighbouring data sets."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _draw_row(row: Mapping[str, int], image_size: int, views: Sequence[str], split: str) -> dict[str, Any]:
    return encode_study({**make_study(row["seed"], image_size=image_size, views=views), "split": split})


def encode_study(study: Mapping[str, Any]) -> dict[str, Any]:
    """The study with its images as PNG files in memory, as `datasets` stores them."""
    return {**study, "images": [encode_image(image) for image in study["images"]]}


def encode_image(image: Image.Image) -> dict[str, Any]:
    """A grey image as a PNG file in memory, as `datasets` stores it."""
    file = io.BytesIO()
    # Noise hardly compresses: higher levels take several times as long for a few percent.
    image.save(file, "PNG", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}
