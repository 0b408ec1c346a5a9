"""A frontal (PA, AP) film of a normal chest; see `anatomy` for the parts and `canvas` for units."""

from functools import lru_cache

import numpy as np

from .anatomy import RIBS, SIGN, Anatomy, Break, Chest, fragments, vessel_tree
from .canvas import Canvas, Points, Shape, ellipse, ribbon, smoothstep, spline

HALF_WIDTH = 0.385
"""Half of the inner width of a chest of `width` 1 at its widest."""

_LEVELS = np.array([0.0, 0.012, 0.05, 0.12, 0.22, 0.34, 0.48, 0.62, 0.8])
_REACH = np.array([0.12, 0.175, 0.235, 0.288, 0.328, 0.358, 0.378, 0.385, 0.378])
_T = np.linspace(0, 1, 11)
_MIRROR = np.array([-1, 1])


def lateral_wall(a: Anatomy, v: np.ndarray | float) -> np.ndarray:
    """Distance of the lung's lateral edge from the midline at height `v`."""
    return np.asarray(np.interp(v, a.apex + _LEVELS, _REACH * a.width))


def angle_level(a: Anatomy, side: str) -> float:
    """`v` of the costophrenic angle."""
    return a.dome(side) + 0.115


def heart_extent(a: Anatomy) -> tuple[float, float]:
    """How far the heart reaches to the patient's right and left of the midline."""
    total = a.cardiothoracic_ratio * 2 * HALF_WIDTH * a.width
    return 0.31 * total - a.shift, 0.69 * total + a.shift


def hilum(a: Anatomy, side: str) -> np.ndarray:
    """Where the lung's vessels spring from."""
    level = 0.47 if side == "right" else 0.44
    return np.array([SIGN[side] * (a.mediastinum + 0.022) + a.shift, a.apex + level * a.reach])


def lung_outline(a: Anatomy, side: str) -> Points:
    """A lung, reaching behind the heart to the spine."""
    w, dome, low = a.width, a.dome(side), angle_level(a, side)
    levels = np.linspace(a.apex + 0.03, low, 16)
    wall = np.stack([lateral_wall(a, levels), levels], axis=-1)
    base = spline(
        [(wall[-1, 0], low), (0.335 * w, dome + 0.05), (0.26 * w, dome + 0.012), (0.18 * w, dome),
         (0.10 * w, dome + 0.018), (0.03, dome + 0.05)], 5,
    )  # fmt: skip
    inner = spline(
        [(0.03, dome + 0.04), (0.03, a.apex + 0.3), (0.045, a.apex + 0.13), (0.075, a.apex + 0.035),
         (0.125 * w, a.apex), (0.18 * w, a.apex + 0.012), (wall[0, 0], wall[0, 1])], 5,
    )  # fmt: skip
    outline = np.concatenate([wall, base, inner])
    outline[:, 0] *= SIGN[side]
    return outline


def mediastinum_outline(a: Anatomy) -> Points:
    """Heart and great vessels, from the thoracic inlet to the diaphragm."""
    right, left = heart_extent(a)
    m, s, top = a.mediastinum, a.shift, a.apex
    low = max(a.dome_right, a.dome_left)
    reach = low - top
    knob = m + 0.018 + 0.016 * a.arch
    points = [
        (s - m * 0.85, top - 0.1), (s - m * 0.9, top + 0.02), (s - m, top + 0.2 * reach),
        (s - m * 1.02, top + 0.42 * reach), (-0.55 * right - 0.45 * m, top + 0.56 * reach),
        (-0.9 * right, top + 0.7 * reach), (-right, top + 0.83 * reach), (-0.9 * right, low),
        (-0.5 * right, low + 0.06), (0.5 * left, low + 0.07), (0.88 * left, low + 0.03),
        (left, low - 0.035), (0.93 * left, top + 0.8 * reach), (0.71 * left, top + 0.65 * reach),
        (0.42 * left + 0.4 * m, top + 0.52 * reach), (s + m + 0.012, top + 0.43 * reach),
        (s + m + 0.004, top + 0.375 * reach), (s + knob, top + 0.3 * reach),
        (s + knob * 0.94, top + 0.25 * reach), (s + m * 0.95, top + 0.19 * reach),
        (s + m * 0.85, top + 0.03), (s + m * 0.8, top - 0.1),
    ]  # fmt: skip
    return spline(points, 4)


def _rib_curves(a: Anatomy) -> tuple[Points, Points]:
    """The left ribs' posterior and anterior parts, each `(ribs, n, 2)`; outwards resp. inwards, falling."""
    k = np.arange(RIBS)
    spacing = a.reach / 0.58
    start = a.apex - 0.012 + 0.068 * spacing * k
    drop = (0.105 + 0.014 * np.minimum(k, 6)) * spacing
    reach = lateral_wall(a, start + drop / 2) + 0.004
    first = np.arcsin(np.minimum(0.035 / reach, 1))
    last = np.pi - np.arcsin(np.clip((0.125 + 0.022 * np.maximum(k - 4, 0)) / reach, 0, 0.97))
    parts = []
    for low, high in ((first, np.pi / 2), (np.pi / 2, last)):
        theta = low + (high - low) * _T[:, None]
        u = reach * np.sin(theta)
        v = start + drop * (0.5 - 0.5 * np.cos(theta))
        parts.append(np.stack([u.T, v.T], axis=-1))
    return parts[0], parts[1]


def draw_frontal(a: Anatomy, canvas: Canvas, rng: np.random.Generator) -> Chest:
    """A normal chest from the front; `rng` decides the vessels' course and the textures."""
    silhouette = mediastinum_outline(a)
    outlines = [(lung_outline(a, side), 1.0) for side in SIGN]
    heart = canvas.fill([(silhouette, 1.0)])
    mask = canvas.fill(outlines)
    heart *= mask
    lung = mask - heart
    # A little lung lies before and behind the heart.
    aerated = heart * np.float32(0.2)
    aerated += lung
    air = canvas.fill(outlines, soften=0.05, strength=0.28)
    air += np.float32(0.33)
    air *= aerated
    bones = _bones(a, canvas, silhouette)
    bones *= np.float32(0.5 * a.bone) * (1 + lung)
    vessels = _vessels(a, canvas, rng)
    vessels *= aerated
    return Chest(canvas, a, False, _body(a, canvas, silhouette, rng), lung, air, vessels, bones)


def _body(a: Anatomy, canvas: Canvas, silhouette: Points, rng: np.random.Generator) -> np.ndarray:
    """Soft tissue: thick in the middle, thin towards the skin; heart, abdomen and breasts."""
    w, top, gap = a.width * (0.9 + 0.1 * a.thickness), a.apex - 0.12, a.armpit
    half = [
        (0.085, top - 0.2), (0.083, top + 0.02), (0.10, top + 0.065), (0.2 * w, top + 0.1), (0.33 * w, top + 0.125),
        (0.45 * w, top + 0.15), (0.53 * w, top + 0.2), (0.60 * w, top + 0.3), (0.64 * w, top + 1.2),
        ((0.45 + 1.6 * gap) * w, top + 1.2), ((0.45 + gap) * w, top + 0.6), (0.455 * w, top + 0.38),
        (0.445 * w, top + 0.5), (0.437 * w, top + 0.75), (0.44 * w, top + 1.4),
    ]  # fmt: skip
    edge = spline(half, 4)
    outline = np.concatenate([edge, (edge * _MIRROR)[::-1]])
    skin = canvas.fill([(outline, 1.0)])

    coarse = canvas.coarse
    u, v = coarse.u, coarse.v
    deep = coarse.fill([(outline, 1.0)], soften=0.03)
    flank = np.maximum(1 - (u * np.float32(1 / (0.62 * w))) ** 2, 0.1)
    trunk = 0.75 + 0.25 * smoothstep(top + 0.02, top + 0.25, v)
    below = smoothstep(a.dome_right - 0.05, a.dome_right + 0.22, v)
    smooth = (0.08 + 0.61 * deep + 0.32 * flank) * trunk + below * 0.18
    core = coarse.fill([(silhouette, 1.0)], soften=0.03, strength=0.1)
    smooth += core * (1 - smoothstep(a.dome_right - 0.03, a.dome_right + 0.09, v))
    smooth += coarse.texture(rng, 9, strength=0.018)
    if a.breast:
        smooth += _breasts(a, coarse)
    skin *= canvas.enlarge(smooth * np.float32(a.thickness))
    skin -= _gas(a, canvas)
    return skin


def _breasts(a: Anatomy, coarse: Canvas) -> np.ndarray:
    level = a.dome_right - 0.05
    fall = (0.25 + 0.75 * smoothstep(level - 0.18, level + 0.16, coarse.v)) * np.float32(0.1 * a.breast)
    radii = (0.175 * a.width, 0.14 + 0.06 * a.breast)
    left, right = (smoothstep(1.12, 0.88, coarse.blob((s * 0.215 * a.width, level), radii)) for s in SIGN.values())
    return left * fall + right * fall


def _gas(a: Anatomy, canvas: Canvas) -> np.ndarray:
    """Trachea, main bronchi and the stomach's bubble: what they take away."""
    carina, s = a.apex + 0.42 * a.reach, a.shift
    trachea = spline([(0.0, -0.1), (0.002, a.apex), (s - 0.006, carina - 0.08), (s, carina)], 5)
    right = spline([(s, carina - 0.012), (s - 0.03, carina + 0.035), (s - 0.075, carina + 0.075)], 4)
    left = spline([(s, carina - 0.012), (s + 0.045, carina + 0.04), (s + 0.09, carina + 0.06)], 4)
    shapes: list[Shape] = [(ribbon(trachea, 0.037), 0.55), (ribbon(right, 0.024), 0.4), (ribbon(left, 0.024), 0.4)]
    if a.gas:
        centre = (0.15 * a.width, a.dome_left + 0.055)
        bubble = ellipse(centre, (0.065 * a.gas, 0.036 * a.gas), 0.15)
        # Fluid in the stomach cuts the bubble off below.
        bubble[:, 1] = np.minimum(bubble[:, 1], centre[1] + 0.016)
        shapes.append((bubble, 1.0))
    return canvas.fill(shapes, soften=0.0045, strength=0.3)


@lru_cache(maxsize=1)
def _vertebrae() -> list[Shape]:
    """The spine of a person whose apex is at 0: bodies and pedicles."""
    height = 0.062
    column = np.array([[-0.041, -0.3], [0.041, -0.3], [0.047, 1.2], [-0.047, 1.2]])
    shapes: list[Shape] = [(column, 0.55)]
    for level in np.arange(-3, 15) * height - 0.02:
        half = 0.037 + 0.01 * level
        box = [[-half, level + 0.006], [half, level + 0.006], [half * 0.95, level + height - 0.008],
               [-half * 0.95, level + height - 0.008]]  # fmt: skip
        shapes.append((np.array(box), 0.82))
        shapes += [(ellipse((s * half * 0.68, level + 0.02), (0.007, 0.011), count=6), 1.0) for s in (-1, 1)]
    return shapes


def _bones(a: Anatomy, canvas: Canvas, silhouette: Points) -> np.ndarray:
    """Two layers that cross: scapulae, posterior ribs and spine; anterior ribs and clavicles."""
    ends: list[Shape] = []
    right_ends: list[Shape] = []
    posterior, anterior = _rib_curves(a)
    left = _posterior_ribs(posterior, {b.rib: b for b in a.breaks if b.side == "left"}, ends)
    right = _posterior_ribs(posterior, {b.rib: b for b in a.breaks if b.side == "right"}, right_ends)
    ends += _mirrored(right_ends)
    girdle = _scapula_and_arm(a)
    back = girdle + left + _mirrored(girdle + right)
    wide = np.linspace(0.024, 0.034, anterior.shape[1])
    front: list[Shape] = []
    for outer, inner in zip(ribbon(anterior[:7], wide), ribbon(anterior[:7], wide * 0.66), strict=True):
        front += [(outer, 0.48), (inner, 0.38)]
    front += _mirrored(front)
    # Ribs drown in the heart, the spine does not.
    back.append((silhouette, 0.04))
    front.append((silhouette, 0.04))
    clavicle = _clavicle(a)
    front += clavicle + _mirrored(clavicle)
    back += [(points + [0.0, a.apex], value) for points, value in _vertebrae()]
    out = canvas.fill(back, strength=0.24)
    out += canvas.fill(front, strength=0.24)
    if ends:
        out += canvas.fill(ends, soften=0.003, strength=0.3)
    return out


def _mirrored(shapes: list[Shape]) -> list[Shape]:
    return [(points * _MIRROR, value) for points, value in shapes]


def _posterior_ribs(curves: Points, broken: dict[int, Break], ends: list[Shape]) -> list[Shape]:
    """Cortex and marrow of each of the left ribs; a break's bright ends or callus go to `ends`."""
    width = np.linspace(0.031, 0.025, curves.shape[1])
    pairs = list(zip(ribbon(curves, width), ribbon(curves, width * 0.64), strict=True))
    shapes: list[Shape] = []
    for k, (outer, inner) in enumerate(pairs):
        if k not in broken:
            shapes += [(outer, 0.48), (inner, 0.32)]
            continue
        parts = fragments(curves[k], broken[k])
        for part in parts:
            shapes += [(ribbon(part, 0.03), 0.8), (ribbon(part, 0.016), 0.5)]
        if broken[k].healed:
            ends.append((ellipse((parts[0][-1] + parts[1][0]) / 2, (0.023, 0.022)), 0.65))
        else:
            ends += [(ribbon(parts[0][-4:], 0.03), 0.7), (ribbon(parts[1][:4], 0.03), 0.7)]
    return shapes


def _clavicle(a: Anatomy) -> list[Shape]:
    w, top = a.width, a.apex
    curve = spline(
        [(0.038, top + 0.115), (0.1 * w, top + 0.088), (0.19 * w, top + 0.045), (0.29 * w, top + 0.008),
         (0.38 * w, top - 0.002)], 5,
    )  # fmt: skip
    width = np.interp(np.linspace(0, 1, len(curve)), [0, 0.15, 0.5, 1], [0.044, 0.034, 0.027, 0.034])
    return [(ribbon(curve, width), 1.0), (ribbon(curve, width * 0.6), 0.75)]


def _scapula_and_arm(a: Anatomy) -> list[Shape]:
    w, top = a.width, a.apex
    blade = spline(
        [(0.315 * w, top + 0.01), (0.375 * w, top + 0.02), (0.44 * w, top + 0.06), (0.425 * w, top + 0.15),
         (0.40 * w, top + 0.3), (0.385 * w, top + 0.33), (0.36 * w, top + 0.26), (0.325 * w, top + 0.1),
         (0.315 * w, top + 0.01)], 4,
    )  # fmt: skip
    border = spline([(0.44 * w, top + 0.07), (0.425 * w, top + 0.15), (0.388 * w, top + 0.325)], 6)
    arm = spline([(0.49 * w, top + 0.05), (0.525 * w, top + 0.2), (0.55 * w, top + 0.9)], 6)
    head = ellipse((0.475 * w, top + 0.05), (0.042, 0.048))
    return [(blade, 0.33), (ribbon(border, 0.016), 0.75), (ribbon(arm, 0.042), 0.7), (head, 0.9)]


_DOWN = np.array([2.1, 1.7, 1.3, 0.9, 0.35])
_UP = np.array([-0.35, -0.85, -1.4])


def _vessels(a: Anatomy, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Arteries and veins branching from the hila; those to the bases are the larger ones."""
    strokes, hila = [], []
    for side, s in SIGN.items():
        root = hilum(a, side)
        hila.append((ellipse(root, (0.024, 0.045), 0.25 * s), 1.0))
        for directions, calibre, levels in ((_DOWN, 0.0128, 5), (_UP, 0.0098 * a.upper_vessels, 4)):
            course = directions + rng.normal(0, 0.1, len(directions))
            roots = root + rng.normal(0, 1, (len(course), 2)) * [0.008, 0.02]
            strokes += vessel_tree(rng, roots, course if s > 0 else np.pi - course, 0.105, calibre, levels)
    # Larger branches lie over smaller ones.
    strokes.sort(key=lambda stroke: stroke[1])
    out = canvas.lines(strokes, strength=0.16 * a.markings)
    out += canvas.fill(hila, soften=0.013, strength=0.13 * a.markings)
    return out
