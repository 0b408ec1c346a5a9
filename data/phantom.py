"""Phantoms: drawn chest X-rays with known findings and reports, the data set that is always at hand.

A phantom's person, pose and film are drawn from its seed; its findings are given or drawn. The same seed with
other findings shows the same person, so that what a finding changes can be seen alone. Reports come from
`phantom_report`, whose labels are exact. Phantoms teach a model to look and to speak; they say nothing about
patients.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from .phantom_anatomy import Chest, sample_anatomy
from .phantom_canvas import Canvas
from .phantom_film import expose
from .phantom_findings import (
    CHOICES,
    DEVICES,
    SEVERITIES,
    SHAPE_OBSERVATIONS,
    SIDED_DEVICES,
    Finding,
    adjust_anatomy,
    complete,
    paint,
)
from .phantom_frontal import draw_frontal
from .phantom_lateral import draw_lateral
from .phantom_report import write_report
from .schema import STUDY_KEYS, study_features

if TYPE_CHECKING:
    import datasets

VIEWS = ("PA", "AP", "LATERAL")
DEFAULT_SPLITS: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}

# Independent random streams of one phantom, so that one choice never disturbs another.
_PERSON, _POSE, _VESSELS, _FILM, _FINDINGS, _KINDS, _REPORT, _CLINIC = range(8)


def _stream(seed: int, *names: int) -> np.random.Generator:
    return np.random.default_rng([seed, *names])


def draw_phantom(findings: Sequence[Finding], *, seed: int, view: str = "PA", image_size: int = 224) -> np.ndarray:
    """A chest X-ray that shows these findings and nothing else.

    Args:
        findings: what to show, in any order; none for a normal chest.
        seed: decides the person, the pose, the film and the findings' details; not negative.
        view: "PA", "AP" (portable: larger heart, higher diaphragm, less contrast) or "LATERAL".
        image_size: height and width in pixels, 32 or more.

    Returns:
        uint8 array `(image_size, image_size)`; the patient's right is on the image's left.

    Raises:
        ValueError: for an unknown view, an image too small, or a negative seed.
    """
    _check_drawing(view, image_size, seed)
    found = _complete(findings, seed)
    chest = _draw_shape(found, seed, view, image_size)
    for i, finding in enumerate(found):
        paint(chest, finding, _paint_stream(seed, i, view))
    return _expose(chest, seed, view)


def _check_drawing(view: str, image_size: int, seed: int) -> None:
    if view not in VIEWS:
        raise ValueError(f"view {view!r} is none of {VIEWS}")
    if image_size < 32:
        raise ValueError(f"image_size {image_size} is too small to draw a chest: 32 at least")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: seeds count from 0")


_SEEN = 0.05
"""Change of attenuation that can be told from a film's noise."""


def draw_finding_maps(
    findings: Sequence[Finding], *, seed: int, view: str = "PA", image_size: int = 224
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The film that `draw_phantom` makes of the same arguments, and where in it each observation shows.

    Returns:
        The film, uint8 `(image_size, image_size)`, and for each observation present a bool array of that shape: True
        where the attenuation differs visibly from that of the same chest without it.

    Raises:
        ValueError: as `draw_phantom`.
    """
    _check_drawing(view, image_size, seed)
    found = _complete(findings, seed)
    chest = _draw_shape(found, seed, view, image_size)
    maps = {finding.observation: np.zeros((image_size, image_size), bool) for finding in found}
    before = chest.attenuation()
    for i, finding in enumerate(found):
        if finding.observation in SHAPE_OBSERVATIONS:
            without = _draw_shape(found, seed, view, image_size, left_out=i).attenuation()
            maps[finding.observation] |= np.abs(before - without) > _SEEN
    for i, finding in enumerate(found):
        paint(chest, finding, _paint_stream(seed, i, view))
        after = chest.attenuation()
        maps[finding.observation] |= np.abs(after - before) > _SEEN
        before = after
    return _expose(chest, seed, view), maps


def _draw_shape(found: Sequence[Finding], seed: int, view: str, image_size: int, left_out: int | None = None) -> Chest:
    """The chest in the shape that the findings give it, all or all but one, with nothing painted into it yet."""
    number = VIEWS.index(view)
    anatomy = sample_anatomy(_stream(seed, _PERSON), portable=view == "AP")
    for i, finding in enumerate(found):
        if i != left_out:
            anatomy = adjust_anatomy(anatomy, finding, _stream(seed, _FINDINGS, i, 0))
    draw = draw_lateral if view == "LATERAL" else draw_frontal
    return draw(anatomy, _pose(seed, number, image_size), _stream(seed, _VESSELS, number))


def _paint_stream(seed: int, index: int, view: str) -> np.random.Generator:
    return _stream(seed, _FINDINGS, index, 1 + VIEWS.index(view))


def _expose(chest: Chest, seed: int, view: str) -> np.ndarray:
    return expose(chest, _stream(seed, _FILM, VIEWS.index(view)), portable=view == "AP")


def _complete(findings: Sequence[Finding], seed: int) -> list[Finding]:
    """Kinds filled in, in an order of their own, so that the caller's order changes nothing."""
    rng = _stream(seed, _KINDS)
    ordered = sorted(findings, key=lambda f: (f.observation, f.side, f.zone, f.severity, f.kind))
    return [complete(finding, rng) for finding in ordered]


def _pose(seed: int, view_number: int, image_size: int) -> Canvas:
    rng = _stream(seed, _POSE, view_number)
    lateral = VIEWS[view_number] == "LATERAL"
    scale = rng.uniform(1.0, 1.1) * (1.08 if lateral else 1.0)
    return Canvas(image_size, rng.normal(0, 0.02), scale, rng.normal(0, [0.012, 0.014]))


# ------------------------------------------------------------------------------------------- studies

_NORMAL = 0.22
"""Share of studies without any finding but devices."""
_WEIGHTS = {
    "Enlarged Cardiomediastinum": 0.8,
    "Cardiomegaly": 1.5,
    "Lung Opacity": 1.2,
    "Lung Lesion": 1.0,
    "Edema": 1.1,
    "Consolidation": 1.0,
    "Pneumonia": 1.0,
    "Atelectasis": 1.2,
    "Pneumothorax": 1.0,
    "Pleural Effusion": 1.6,
    "Pleural Other": 0.8,
    "Fracture": 0.8,
}
"""How often an observation is drawn relative to the others."""
_DEVICES = 0.2
"""Share of studies with support devices."""


def sample_findings(seed: int, *, crowded: bool = False) -> list[Finding]:
    """Findings of a random study: none to three observations, and perhaps devices; `crowded` ones show up to six."""
    rng = _stream(seed, _CLINIC)
    names = np.array(list(_WEIGHTS))
    weights = np.array(list(_WEIGHTS.values()))
    count = int(rng.choice([0, 1, 2, 3], p=[_NORMAL, *(np.array([0.45, 0.37, 0.18]) * (1 - _NORMAL))]))
    if crowded:
        # Rare findings as often as others.
        count, weights = int(rng.integers(0, 7)), np.ones(len(names))
    chosen = rng.choice(names, count, replace=False, p=weights / weights.sum())
    findings: list[Finding] = []
    for name in chosen:
        tries = (_sample_finding(str(name), rng) for _ in range(10))
        fitting = next((f for f in tries if not any(_clash(f, other) for other in findings)), None)
        if fitting is not None:
            findings.append(fitting)
    if rng.uniform() < (2 * _DEVICES if crowded else _DEVICES):
        kinds = rng.choice(DEVICES, int(rng.choice([1, 2], p=[0.7, 0.3])), replace=False)
        for kind in kinds:
            side = str(rng.choice(["left", "right"])) if kind in SIDED_DEVICES else ""
            findings.append(Finding("Support Devices", side, kind=str(kind)))
    return findings


_PARENCHYMAL = ("Lung Opacity", "Lung Lesion", "Consolidation", "Pneumonia", "Atelectasis")


def _clash(one: Finding, other: Finding) -> bool:
    """Whether one would hide the other: two changes of one zone, or a lung drowned or collapsed around it."""
    if not set(one.sides) & set(other.sides):
        return False
    zoned = [f for f in (one, other) if f.observation in _PARENCHYMAL]
    if len(zoned) == 2:
        return one.zone == other.zone
    hiding = {"Pneumothorax": ("severe",), "Pleural Effusion": ("moderate", "severe")}
    pleural = [f for f in (one, other) if f.observation in hiding and f.severity in hiding[f.observation]]
    thick = "Pleural Other" in (one.observation, other.observation)
    return bool(pleural and (zoned or thick))


def _sample_finding(name: str, rng: np.random.Generator) -> Finding:
    choices = CHOICES[name]
    side = str(rng.choice(choices.sides))
    if side == "bilateral" and len(choices.sides) > 1 and rng.uniform() < 0.4:
        side = str(rng.choice(["left", "right"]))
    return Finding(
        name, side, str(rng.choice(choices.zones)), str(rng.choice(SEVERITIES)), str(rng.choice(choices.kinds))
    )


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
    found = _complete(chosen, seed)
    images = [Image.fromarray(draw_phantom(found, seed=seed, view=v, image_size=image_size)) for v in views]
    report = write_report(found, _stream(seed, _REPORT))
    indication = str(_stream(seed, _CLINIC, 1).choice(_INDICATIONS))
    return {
        "study_id": f"phantom-{seed}",
        "patient_id": f"phantom-{seed}",
        "images": images,
        "views": list(views),
        "findings": report.findings,
        "impression": report.impression,
        "indication": indication,
        "comparison": "",
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
    return {"bytes": _png(np.asarray(image)), "path": None}


def _png(film: np.ndarray) -> bytes:
    """A film as a PNG file, three times as fast as PIL's encoder (noise hardly compresses anyway)."""
    height, width = film.shape
    rows = np.empty((height, width + 1), np.uint8)
    # Every row starts with its filter: 1, differences to the pixel on the left.
    rows[:, 0] = 1
    rows[:, 1:] = film
    rows[:, 2:] -= film[:, :-1]
    packer = zlib.compressobj(level=1, strategy=zlib.Z_HUFFMAN_ONLY)
    pixels = packer.compress(rows.tobytes()) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


# ------------------------------------------------------------------------------------------- for the eye


def contact_sheet(studies: Sequence[Mapping[str, Any]], columns: int = 4) -> Image.Image:
    """All images of the studies side by side, each with its view and present observations below.

    Args:
        studies: dicts with `images`, `views` and `labels`, as `make_study` and `make_phantoms` give them.
        columns: images per row.

    Raises:
        ValueError: for no studies, or less than one column.
    """
    cells = [*_cells(studies)]
    if not cells or columns < 1:
        raise ValueError(f"{len(cells)} images in {columns} columns: at least one of each is needed")
    width = max(image.width for image, _ in cells) + 4
    height = max(image.height for image, _ in cells) + 30
    sheet = Image.new("L", (width * columns, height * -(-len(cells) // columns)))
    for i, (image, caption) in enumerate(cells):
        corner = (i % columns * width, i // columns * height)
        sheet.paste(image, corner)
        sheet.paste(_caption(caption, width, 28), (corner[0], corner[1] + image.height))
    return sheet


def _caption(text: str, width: int, height: int) -> Image.Image:
    label = Image.new("L", (width, height))
    ImageDraw.Draw(label).multiline_text((3, 1), text, fill=220, font_size=10, spacing=1)
    return label


def _cells(studies: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Image.Image, str]]:
    for study in studies:
        present = [name for name, value in study["labels"].items() if value == 1]
        for image, view in zip(study["images"], study["views"], strict=True):
            yield image, f"{view}: {', '.join(present[:1])}\n{', '.join(present[1:])}"
