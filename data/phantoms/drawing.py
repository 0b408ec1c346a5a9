"""Draws a phantom: a chest X-ray that shows given findings, and maps of where it shows them.

Person, pose and film are drawn from the seed. The same seed with other findings shows the same person, so that the
change that a finding makes can be seen alone.
"""

from collections.abc import Sequence

import numpy as np

from ..schema import OBSERVATIONS, VIEWS
from . import streams
from .anatomy import Chest, sample_anatomy
from .canvas import Canvas
from .film import expose
from .findings import DEVICES, Finding, complete
from .frontal import draw_frontal
from .lateral import draw_lateral
from .signs import SHAPE_OBSERVATIONS, adjust_anatomy, paint
from .streams import stream


def draw_phantom(
    findings: Sequence[Finding], *, seed: int, view: str = "PA", image_size: int = 224, visit: int | None = None
) -> np.ndarray:
    """A chest X-ray that shows these findings and nothing else.

    Args:
        findings: what to show, in any order; none for a normal chest.
        seed: decides the person, the pose, the film and the findings' details; not negative.
        view: "PA", "AP" (portable: larger heart, higher diaphragm, less contrast) or "LATERAL".
        image_size: height and width in pixels, 32 or more.
        visit: which film of the person it is, 0 or more: each has a pose and an exposure of its own, and a finding
            stays in its place from one to the next, whatever else is shown. None is a person with one film.

    Returns:
        uint8 array `(image_size, image_size)`; the patient's right is on the image's left.

    Raises:
        ValueError: for an unknown view, an image too small, or a negative seed.
    """
    _check_drawing(view, image_size, seed)
    found = complete_findings(findings, seed)
    keys = range(len(found)) if visit is None else [_place_key(finding) for finding in found]
    chest = _draw_shape(found, seed, view, image_size, keys=keys, visit=visit)
    for key, finding in zip(keys, found, strict=True):
        paint(chest, finding, _paint_stream(seed, key, view))
    return _expose(chest, seed, view, visit)


_FIRST_PLACE = 1000
"""Beyond the numbers of findings that are keyed by their order."""


def _place_key(finding: Finding) -> int:
    """The stream of a finding's details in all films of a person."""
    kind = DEVICES.index(finding.kind) if finding.kind in DEVICES else 0
    return _FIRST_PLACE + OBSERVATIONS.index(finding.observation) + 100 * kind


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
    found = complete_findings(findings, seed)
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


def _draw_shape(
    found: Sequence[Finding],
    seed: int,
    view: str,
    image_size: int,
    left_out: int | None = None,
    keys: Sequence[int] | None = None,
    visit: int | None = None,
) -> Chest:
    """The chest in the shape that the findings give it, all or all but one, with nothing painted into it yet."""
    number = VIEWS.index(view)
    keys = range(len(found)) if keys is None else keys
    anatomy = sample_anatomy(stream(seed, streams.PERSON), portable=view == "AP")
    for i, finding in enumerate(found):
        if i != left_out:
            anatomy = adjust_anatomy(anatomy, finding, stream(seed, streams.FINDINGS, keys[i], 0))
    draw = draw_lateral if view == "LATERAL" else draw_frontal
    return draw(anatomy, _pose(seed, number, image_size, visit), stream(seed, streams.VESSELS, number))


def _paint_stream(seed: int, index: int, view: str) -> np.random.Generator:
    return stream(seed, streams.FINDINGS, index, 1 + VIEWS.index(view))


def _expose(chest: Chest, seed: int, view: str, visit: int | None = None) -> np.ndarray:
    return expose(chest, stream(seed, streams.FILM, VIEWS.index(view), *_later(visit)), portable=view == "AP")


def _later(visit: int | None) -> tuple[int, ...]:
    """What tells the streams of a later film from those of the first."""
    return (visit,) if visit else ()


def complete_findings(findings: Sequence[Finding], seed: int) -> list[Finding]:
    """Kinds filled in, in an order of their own, so that the caller's order changes nothing."""
    rng = stream(seed, streams.KINDS)
    ordered = sorted(findings, key=lambda f: (f.observation, f.side, f.zone, f.severity, f.kind))
    return [complete(finding, rng) for finding in ordered]


def _pose(seed: int, view_number: int, image_size: int, visit: int | None = None) -> Canvas:
    rng = stream(seed, streams.POSE, view_number, *_later(visit))
    lateral = VIEWS[view_number] == "LATERAL"
    scale = rng.uniform(1.0, 1.1) * (1.08 if lateral else 1.0)
    return Canvas(image_size, rng.normal(0, 0.02), scale, rng.normal(0, [0.012, 0.014]))
