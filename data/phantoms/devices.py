"""Support devices on a film: tubes, catheters and pacemakers, over everything else."""

from collections.abc import Callable

import numpy as np

from .anatomy import SIGN, Anatomy, Chest
from .canvas import Shape, Stroke, ellipse, spline
from .findings import DEVICES, Finding
from .frontal import heart_extent, lateral_wall


def paint_device(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Adds a device to a chest: tubes, leads and metal."""
    draw = _LATERAL_DEVICES if chest.lateral else _FRONTAL_DEVICES
    strokes, plates = draw[finding.kind](chest.anatomy, finding.side, rng)
    if strokes:
        chest.body += chest.canvas.lines(strokes, strength=0.5)
    if plates:
        chest.body += chest.canvas.fill(plates, strength=0.6)


Drawing = tuple[list[Stroke], list[Shape]]
"""Wires and tubes, and metal plates."""


def _tube(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    tip = a.apex + (0.42 - rng.uniform(0.07, 0.13)) * a.reach
    curve = spline([(0.004, -0.1), (0.006, a.apex - 0.05), (a.shift - 0.003, tip)], 6)
    walls = [(curve + [d, 0], 0.006, 0.8) for d in (-0.011, 0.011)]
    return [*walls, (curve[:-1] + [0.003, 0], 0.004, 0.9)], []


def _svc(a: Anatomy) -> list[tuple[float, float]]:
    reach, x = a.dome_right - a.apex, a.shift - 0.7 * a.mediastinum
    return [(x - 0.004, a.apex + 0.22 * reach), (x - 0.006, a.apex + 0.36 * reach)]


def _catheter(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    s, reach = SIGN[side], a.dome_right - a.apex
    tip = (a.shift - 0.75 * a.mediastinum, a.apex + rng.uniform(0.52, 0.64) * reach)
    if rng.uniform() < 0.5:
        entry = [(s * 0.085, a.apex - 0.14), (s * 0.062, a.apex + 0.01), (s * 0.05, a.apex + 0.07)]
    else:
        entry = [(s * 0.42, a.apex + 0.12), (s * 0.28, a.apex + 0.045), (s * 0.13, a.apex + 0.055)]
    return [(spline([*entry, *_svc(a), tip], 6), 0.0075, 0.85)], []


def _pacemaker(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    s = SIGN[side]
    right, left = heart_extent(a)
    can = (s * 0.275 * a.width, a.apex + 0.095)
    body = ellipse(can, (0.05, 0.043), s * 0.4)
    head = ellipse((can[0] - s * 0.012, can[1] - 0.032), (0.028, 0.02), s * 0.4)
    start = [(can[0] - s * 0.02, can[1] - 0.045), (s * 0.17, a.apex + 0.03), (s * 0.085, a.apex + 0.062), *_svc(a)]
    atrium = [*start, (-0.55 * right, a.dome_right - 0.13), (-0.75 * right, a.dome_right - 0.17)]
    ventricle = [*start, (-0.5 * right, a.dome_right - 0.09), (0.25 * left, a.dome_right - 0.005),
                 (0.66 * left, a.dome_right - 0.03)]  # fmt: skip
    leads = [(spline(lead, 6), 0.0075, 0.9) for lead in (atrium, ventricle)]
    return leads, [(body, 0.9), (head, 0.65)]


def _gastric_tube(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    path = [(0.012, -0.1), (0.012, a.apex + 0.1), (0.014 + a.shift, a.dome_left - 0.15), (0.03, a.dome_left - 0.01),
            (0.075, a.dome_left + 0.06), (0.13, a.dome_left + 0.1), (0.17, a.dome_left + 0.09)]  # fmt: skip
    return [(spline(path, 6), 0.008, 0.75)], []


def _chest_tube(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    entry = a.apex + rng.uniform(0.6, 0.75) * a.reach
    wall = float(lateral_wall(a, entry))
    path = [(wall + 0.11, entry + 0.05), (wall, entry), (0.8 * wall, a.apex + 0.42 * a.reach),
            (0.19 * a.width, a.apex + rng.uniform(0.05, 0.09))]  # fmt: skip
    curve = spline(path, 7) * [SIGN[side], 1]
    return [(curve, 0.016, 0.4), (curve + [0.003, 0.002], 0.005, 1.0)], []


def _lateral_tube(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    tip = a.apex + 0.31 * a.reach
    curve = spline([(0.02, -0.1), (0.02, a.apex), (0.028, tip)], 6)
    return [(curve + [d, 0], 0.005, 0.75) for d in (-0.01, 0.01)], []


def _lateral_catheter(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    low = a.apex + 0.58 * a.reach
    return [(spline([(-0.06, a.apex - 0.14), (-0.055, a.apex + 0.1), (-0.015, low)], 8), 0.0075, 0.85)], []


def _lateral_pacemaker(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    can = (-0.19, a.apex + 0.1)
    start = [can, (-0.1, a.apex + 0.03), (-0.045, a.apex + 0.16), (-0.03, a.dome_right - 0.25)]
    leads = [
        [*start, (-0.03, a.dome_right - 0.15), (-0.08, a.dome_right - 0.18)],
        [*start, (-0.06, a.dome_right - 0.08), (-0.2, a.dome_right - 0.05)],
    ]
    return [(spline(lead, 6), 0.0075, 0.9) for lead in leads], [(ellipse(can, (0.02, 0.048), 0.4), 0.9)]


def _lateral_gastric_tube(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    path = [(0.045, -0.1), (0.06, a.apex + 0.2), (0.09, a.dome_left - 0.1), (0.06, a.dome_left + 0.04),
            (0.0, a.dome_left + 0.11)]  # fmt: skip
    return [(spline(path, 6), 0.008, 0.75)], []


def _lateral_chest_tube(a: Anatomy, side: str, rng: np.random.Generator) -> Drawing:
    curve = spline([(-0.02, a.dome_right - 0.12), (0.1, a.dome_right - 0.25), (0.11, a.apex + 0.07)], 8)
    return [(curve, 0.016, 0.4), (curve + [0.003, 0.002], 0.005, 1.0)], []


_FRONTAL_DEVICES: dict[str, Callable[[Anatomy, str, np.random.Generator], Drawing]] = dict(
    zip(DEVICES, (_tube, _catheter, _pacemaker, _gastric_tube, _chest_tube), strict=True)
)
_LATERAL_DEVICES: dict[str, Callable[[Anatomy, str, np.random.Generator], Drawing]] = dict(
    zip(
        DEVICES,
        (_lateral_tube, _lateral_catheter, _lateral_pacemaker, _lateral_gastric_tube, _lateral_chest_tube),
        strict=True,
    )
)
