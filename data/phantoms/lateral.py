"""A lateral film of a normal chest: the sternum lies on the image's left, the spine on its right."""

from functools import lru_cache

import numpy as np

from .anatomy import RIBS, Anatomy, Chest, fragments, vessel_tree
from .canvas import Canvas, Points, Shape, ellipse, ribbon, smoothstep, spline

_T = np.linspace(0, 1, 14)


def lateral_hilum(a: Anatomy) -> np.ndarray:
    """Where the lungs' vessels spring from."""
    return np.array([0.035, a.apex + 0.47 * a.reach])


def lateral_outline(a: Anatomy) -> Points:
    """Both lungs, one before the other."""
    top, dome = a.apex, a.dome_right
    mid = (top + dome) / 2
    front = [
        (0.0, top), (-0.09, top + 0.035), (-0.17, top + 0.12), (-0.235, mid - 0.04), (-0.268, mid + 0.1),
        (-0.275, dome + 0.035),
    ]  # fmt: skip
    base = [
        (-0.275, dome + 0.035), (-0.2, dome - 0.015), (-0.09, dome - 0.03), (0.03, dome - 0.005),
        (0.15, dome + 0.06), (0.24, dome + 0.135), (0.285, dome + 0.185),
    ]  # fmt: skip
    back = [
        (0.285, dome + 0.185), (0.322, dome + 0.05), (0.335, mid + 0.08), (0.318, mid - 0.07), (0.25, top + 0.14),
        (0.15, top + 0.045), (0.07, top + 0.005), (0.0, top),
    ]  # fmt: skip
    return np.concatenate([spline(part, 5) for part in (front, base, back)])


def draw_lateral(a: Anatomy, canvas: Canvas, rng: np.random.Generator) -> Chest:
    """A normal chest from the patient's side; `rng` decides the vessels' course and the textures."""
    outline = lateral_outline(a)
    mask = canvas.fill([(outline, 1.0)])
    heart = mask * canvas.fill([(_heart(a), 1.0)], soften=0.007)
    smooth, relief = _smooth(a, canvas.coarse, outline, rng)
    air = (mask - np.float32(0.5) * heart) * canvas.enlarge(relief)
    body = canvas.fill([(_outer(a), 1.0)])
    body *= canvas.enlarge(smooth)
    # The second dome is seen through the lung.
    body += canvas.fill([(_second_dome(a), 1.0)], strength=0.1)
    heart *= np.float32(0.06)
    body += heart
    body -= _gas(a, canvas)

    root = lateral_hilum(a)
    directions = np.linspace(-np.pi, np.pi, 11)[:-1] + rng.normal(0, 0.2, 10)
    roots = root + rng.normal(0, 1, (10, 2)) * [0.02, 0.025]
    strokes = vessel_tree(rng, roots, directions, 0.095, 0.0105 * (0.5 + 0.5 * a.upper_vessels), 4)
    strokes.sort(key=lambda stroke: stroke[1])
    vessels = canvas.lines(strokes, strength=0.13 * a.markings)
    hila = [(ellipse(root + [-0.01, 0.012], (0.042, 0.05)), 1.0)]
    vessels += canvas.fill(hila, soften=0.016, strength=0.11 * a.markings)
    vessels *= mask
    return Chest(canvas, a, True, body, mask, air, vessels, _bones(a, canvas, mask))


def _outer(a: Anatomy) -> Points:
    t, dome = a.thickness, a.dome_right
    front = [
        (-0.13, -0.15), (-0.14, 0.05), (-0.22, a.apex + 0.1), (-0.275 * t, a.apex + 0.22),
        (-(0.30 + 0.07 * a.breast) * t, dome - 0.14), (-(0.315 + 0.02 * a.breast) * t, dome), (-0.31 * t, 1.2),
    ]  # fmt: skip
    back = [(0.33 * t, 1.2), (0.37 * t, dome), (0.405 * t, 0.42), (0.37 * t, 0.2), (0.31, 0.04), (0.27, -0.15)]
    return np.concatenate([spline(front, 6), spline(back, 6)])


def _smooth(a: Anatomy, coarse: Canvas, outline: Points, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Soft tissue within the skin, and how much air the lungs hold where they are."""
    u, v, dome = coarse.u, coarse.v, a.dome_right
    deep = coarse.fill([(_outer(a), 1.0)], soften=0.035)
    arms = 0.24 * smoothstep(a.apex + 0.16, a.apex - 0.06, v)
    belly = 0.14 * smoothstep(dome - 0.05, dome + 0.2, v)
    smooth = 0.10 + 0.72 * deep + arms * deep + belly + coarse.texture(rng, 9, strength=0.02)
    smooth += coarse.fill([(_aorta(a), 1.0)], soften=0.012, strength=0.09)
    depth = coarse.fill([(outline, 1.0)], soften=0.045)
    # The spine grows darker towards the diaphragm: less shoulder, more lung.
    low = smoothstep(a.apex, dome, v)
    back = smoothstep(0.12, 0.3, u)
    relief = (0.3 + 0.36 * depth) * (0.84 + 0.18 * low) * (1 - 0.14 * back)
    return (smooth * np.float32(a.thickness)).astype(np.float32), relief


def _heart(a: Anatomy) -> Points:
    size, dome = a.cardiothoracic_ratio / 0.45, a.dome_right
    back = -0.26 + 0.285 * size
    return spline(
        [(-0.255, dome), (-0.262, dome - 0.14 * size), (-0.2, dome - 0.24 * size), (-0.11, dome - 0.285 * size),
         (-0.02, dome - 0.28 * size), (back, dome - 0.17 * size), (back - 0.005, dome - 0.06),
         (back - 0.07, dome + 0.02), (-0.2, dome + 0.03), (-0.255, dome)], 5,
    )  # fmt: skip


def _aorta(a: Anatomy) -> Points:
    top, reach = a.apex, a.reach
    curve = spline(
        [(-0.11, top + 0.55 * reach), (-0.105, top + 0.4 * reach), (-0.045, top + 0.27 * reach),
         (0.04, top + 0.24 * reach), (0.115, top + 0.33 * reach), (0.145, top + 0.5 * reach),
         (0.155, a.dome_right + 0.1)], 5,
    )  # fmt: skip
    width = 0.045 + 1.1 * (a.mediastinum - 0.05) + 0.012 * a.arch
    return ribbon(curve, np.interp(np.linspace(0, 1, len(curve)), [0, 0.5, 0.75, 1], [1.5, 1.15, 0.8, 0.6]) * width)


def _second_dome(a: Anatomy) -> Points:
    dome = a.dome_left
    return spline(
        [(-0.27, dome + 0.055), (-0.17, dome), (-0.05, dome - 0.015), (0.07, dome + 0.02), (0.2, dome + 0.11),
         (0.285, dome + 0.2), (0.2, 1.2), (-0.3, 1.2)], 5,
    )  # fmt: skip


def _gas(a: Anatomy, canvas: Canvas) -> np.ndarray:
    """Trachea, a bronchus end on, and the stomach's bubble: what they take away."""
    root = lateral_hilum(a)
    trachea = spline([(0.02, -0.1), (0.02, a.apex + 0.05), (0.032, root[1] - 0.01)], 5)
    shapes: list[Shape] = [(ribbon(trachea, 0.036), 0.55), (ellipse(root, (0.014, 0.013)), 0.7)]
    if a.gas:
        shapes.append((ellipse((0.03, a.dome_left + 0.07), (0.075 * a.gas, 0.04 * a.gas), 0.25), 1.0))
    return canvas.fill(shapes, soften=0.005, strength=0.2)


@lru_cache(maxsize=1)
def _spine() -> list[Shape]:
    """Vertebral bodies along the thoracic curve, and the processes behind them."""
    curve = spline(
        [(0.085, -0.12), (0.14, 0.08), (0.215, 0.25), (0.25, 0.42), (0.25, 0.6), (0.215, 0.8), (0.17, 1.1)], 8
    )
    shapes: list[Shape] = [(ribbon(curve + [0.062, 0.02], 0.03), 0.25), (ribbon(curve, 0.062), 0.3)]
    along = np.cumsum(np.r_[0, np.hypot(*np.diff(curve, axis=0).T)])
    for start in np.arange(0.0, along[-1] - 0.062, 0.064):
        stretch = np.linspace(start + 0.005, start + 0.054, 5)
        piece = np.stack([np.interp(stretch, along, curve[:, i]) for i in range(2)], -1)
        shapes += [(ribbon(piece, 0.062), 0.85), (ribbon(piece[1:-1], 0.048), 0.62)]
    return shapes


def _ribs(a: Anatomy) -> Points:
    """`(2 * ribs, n, 2)`: those of the near side and, a little displaced, of the far side."""
    k = np.arange(RIBS)[:, None]
    start = a.apex + 0.062 * a.reach / 0.58 * k
    back = 0.27 + 0.075 * np.sin(np.pi * np.clip((k + 1.0) / 10, 0, 1))
    front = -0.14 - 0.13 * np.sin(np.pi / 2 * np.clip(k / 5, 0, 1))
    u = back + (front - back) * _T + 0.01 * np.sin(np.pi * _T)
    near = np.stack([u, start + (0.2 + 0.012 * k) * _T**1.25], -1)
    return np.concatenate([near, near + [0.012, 0.02]])


def _bones(a: Anatomy, canvas: Canvas, mask: np.ndarray) -> np.ndarray:
    top = a.apex
    sternum = spline([(-0.155, top + 0.07), (-0.225, top + 0.17), (-0.275, top + 0.32), (-0.287, top + 0.45)], 6)
    blade = spline([(0.2, top + 0.02), (0.27, top + 0.14), (0.305, top + 0.3)], 6)
    solid: list[Shape] = [
        (ribbon(blade, 0.014), 0.35),
        (ribbon(blade - [0.035, -0.01], 0.012), 0.3),
        *_spine(),
        (ribbon(sternum, 0.026), 0.9),
        (ribbon(sternum, 0.014), 0.6),
    ]
    curves = _ribs(a)
    broken = {b.rib: b for b in a.breaks}
    ribs: list[Shape] = []
    for k, (outer, inner) in enumerate(zip(ribbon(curves, 0.018), ribbon(curves, 0.01), strict=True)):
        if k not in broken:
            ribs += [(outer, 0.6), (inner, 0.42)]
            continue
        for part in fragments(curves[k], broken[k]):
            ribs += [(ribbon(part, 0.021), 0.95), (ribbon(part, 0.01), 0.7)]
    cage = canvas.fill(ribs, strength=0.0665 * a.bone)
    cage *= mask + np.float32(0.43)
    cage += canvas.fill(solid, strength=0.19 * a.bone)
    return cage
