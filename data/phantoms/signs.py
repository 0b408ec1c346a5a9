"""How each finding looks on a film.

A finding first changes the person (`adjust_anatomy`: a larger heart, a raised diaphragm, broken ribs), then
the film (`paint`: fluid replaces air, haze adds density, a tube lies on top). Severity scales size and
density. Looks follow the Fleischner Society's glossary (Hansell et al., Radiology 246, 2008).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .anatomy import SIGN, Anatomy, Break, Chest, vessel_tree
from .canvas import Shape, Stroke, ellipse, ribbon, smoothstep, spline
from .devices import paint_device
from .findings import Finding, ribs_of
from .frontal import angle_level, hilum, lateral_wall, lung_outline
from .lateral import lateral_hilum, lateral_outline

# ------------------------------------------------------------------------------------------- the person

CARDIOTHORACIC_RATIO = ((0.565, 0.60), (0.61, 0.65), (0.66, 0.71))
"""Of an enlarged heart, by severity; a normal one stays below 0.5."""
MEDIASTINUM = ((0.092, 0.10), (0.112, 0.122), (0.135, 0.15))
"""Half the width of a wide upper mediastinum; a normal one stays below 0.065."""

SHAPE_OBSERVATIONS = ("Cardiomegaly", "Enlarged Cardiomediastinum", "Fracture")
"""Observations that are drawn by changing the person's shape, nothing is painted for them."""


def adjust_anatomy(anatomy: Anatomy, finding: Finding, rng: np.random.Generator) -> Anatomy:
    """The person with what the finding changes in shape."""
    degree = finding.degree
    match finding.observation:
        case "Cardiomegaly":
            return replace(anatomy, cardiothoracic_ratio=rng.uniform(*CARDIOTHORACIC_RATIO[degree]))
        case "Enlarged Cardiomediastinum":
            return replace(anatomy, mediastinum=rng.uniform(*MEDIASTINUM[degree]))
        case "Edema":
            return replace(anatomy, upper_vessels=1.3 + 0.25 * degree)
        case "Atelectasis":
            lift = (0.012, 0.03, 0.055)[degree]
            domes: dict[str, Any] = {f"dome_{side}": anatomy.dome(side) - lift for side in finding.sides}
            pull = sum(SIGN[side] for side in finding.sides) * (0.0, 0.006, 0.018)[degree]
            return replace(anatomy, **domes, shift=anatomy.shift + pull)
        case "Pneumothorax" | "Pleural Effusion":
            push = -sum(SIGN[side] for side in finding.sides) * (0.0, 0.0, 0.028)[degree]
            return replace(anatomy, shift=anatomy.shift + push)
        case "Fracture":
            healed = finding.kind == "healed"
            place = rng.uniform(0.5, 0.8)
            offset = 0.008 if healed else rng.uniform(0.024, 0.032)
            new = tuple(
                Break(side, rib, place + rng.uniform(-0.05, 0.05), offset, healed)
                for side in finding.sides
                for rib in ribs_of(finding)
            )
            return replace(anatomy, breaks=anatomy.breaks + new)
    return anatomy


# --------------------------------------------------------------------------------------------- the film


def paint(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Draw the finding into the chest's fields."""
    painter = _PAINTERS.get(finding.observation)
    if painter is not None:
        painter(chest, finding, rng)


def _solidify(chest: Chest, side: str, cover: np.ndarray) -> None:
    """Replace air by fluid or tissue where `cover` is 1; vessels drown in it."""
    cover = cover * chest.half(side)
    chest.air *= 1 - cover
    chest.vessels *= 1 - np.float32(0.85) * cover
    chest.bones *= 1 - np.float32(0.4) * cover


def _add(chest: Chest, side: str, field: np.ndarray, beyond: float = 0.0) -> None:
    """Add to one lung; `beyond` is how much shows where no lung is (before the heart, say)."""
    mask = chest.lung * np.float32(1 - beyond) + np.float32(beyond)
    chest.body += field * mask * chest.half(side)


def _sides(chest: Chest, finding: Finding) -> tuple[str, ...]:
    """Sides to draw on; on a lateral film both sides of a finding project onto one another."""
    return finding.sides[:1] if chest.lateral else finding.sides


_LATERAL_CENTRE = {"upper": (0.02, 0.2), "mid": (-0.12, 0.6), "lower": (0.16, 0.88)}


def _centre(chest: Chest, side: str, zone: str, rng: np.random.Generator) -> tuple[float, float]:
    """A point in the zone: frontal zones by height, lateral ones also from front to back."""
    a = chest.anatomy
    jitter_u, jitter_v = rng.uniform(-0.03, 0.03, 2)
    if chest.lateral:
        u, level = _LATERAL_CENTRE[zone]
        return u + jitter_u, a.apex + level * a.reach + jitter_v
    v = a.apex + {"upper": 0.24, "mid": 0.54, "lower": 0.86}[zone] * (a.dome(side) - a.apex) + jitter_v
    reach = float(lateral_wall(a, v))
    inner = 0.14 if zone == "lower" and side == "left" else 0.08
    return SIGN[side] * (inner + (reach - inner) * (0.5 + 4 * jitter_u)), v


def _haze(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Lung Opacity: one even, ill-defined veil through which vessels stay visible."""
    size, strength = (0.075, 0.10, 0.135)[finding.degree], (0.15, 0.20, 0.26)[finding.degree]
    coarse = chest.canvas.coarse
    for side in _sides(chest, finding):
        square = coarse.blob(_centre(chest, side, finding.zone, rng), (size * 1.1, size), rng.uniform(0, 3))
        veil = np.exp(-0.8 * square * square) * (1 + coarse.texture(rng, 12, strength=0.12))
        _add(chest, side, chest.canvas.enlarge(np.float32(strength) * veil))


def _lesion(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Lung Lesion: a round, sharply bordered nodule (mild, moderate) or mass, one on each side concerned."""
    shapes: list[Shape] = []
    for side in _sides(chest, finding):
        centre, turn = _centre(chest, side, finding.zone, rng), rng.uniform(0, 3)
        radii = (0.024, 0.035, 0.054)[finding.degree] * rng.uniform(0.88, 1.12, 2)
        # Thicker towards the middle, as a ball is.
        shapes += [(ellipse(centre, radii * part, turn), value) for part, value in _BALL]
    chest.body += chest.canvas.fill(shapes, strength=0.36) * (0.3 + 0.7 * chest.lung)


_BALL = ((1.0, 0.4), (0.93, 0.6), (0.8, 0.78), (0.6, 0.92), (0.35, 1.0))


def _consolidation(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Consolidation: part of a lobe as dense as tissue, straight along the fissure, bronchi dark within."""
    canvas, a = chest.canvas, chest.anatomy
    height, solid = (0.10, 0.16, 0.25)[finding.degree], (0.62, 0.72, 0.82)[finding.degree]
    for side in _sides(chest, finding):
        reach = a.dome(side) - a.apex
        fissure = a.apex + 0.5 * reach + canvas.u * np.float32(0.05 * rng.normal())
        edge = canvas.texture(rng, 7, strength=0.03)
        if finding.zone == "upper":
            region = smoothstep(0.008, -0.004, canvas.v - fissure) * smoothstep(
                -height - 0.06, -height + 0.04, canvas.v - fissure + edge
            )
        elif finding.zone == "mid":
            region = smoothstep(-0.008, 0.004, canvas.v - fissure) * smoothstep(
                height + 0.05, height - 0.04, canvas.v - fissure + edge
            )
        else:
            base = a.dome(side) + (0.05 if not chest.lateral else 0.08)
            region = smoothstep(base - height - 0.06, base - height + 0.04, canvas.v + edge)
        if chest.lateral:
            region = region * (
                smoothstep(0.0, 0.06, canvas.u + edge) if finding.zone == "lower" else
                smoothstep(0.09, 0.03, canvas.u + edge) if finding.zone == "mid" else 1
            )  # fmt: skip
            root = lateral_hilum(a)
            course = {"upper": -1.4, "mid": 2.5, "lower": 1.1}[finding.zone]
        else:
            root = hilum(a, side)
            course = {"upper": -0.9, "mid": 0.15, "lower": 1.1}[finding.zone]
            course = course if side == "left" else np.pi - course
        directions = course + np.array([-0.5, -0.15, 0.2, 0.55])
        bronchi = vessel_tree(rng, np.repeat([root], 4, axis=0), directions, 0.105, 0.0145, 3)
        air_bronchogram = canvas.lines(bronchi, soften=0.0022)
        cover = region * np.float32(solid) * (1 + canvas.texture(rng, 14, strength=0.06))
        _solidify(chest, side, np.clip(cover * (1 - 0.55 * air_bronchogram), 0, 0.95))


def _pneumonia(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Pneumonia: many small fluffy patches that run together."""
    canvas = chest.canvas
    size, strength = (0.085, 0.115, 0.15)[finding.degree], (0.26, 0.33, 0.40)[finding.degree]
    for side in _sides(chest, finding):
        square = canvas.coarse.blob(_centre(chest, side, finding.zone, rng), (size, size * 1.15), rng.uniform(0, 3))
        envelope = canvas.enlarge(smoothstep(1.9, 0.2, square) * np.float32(strength))
        _add(chest, side, envelope * smoothstep(-0.6, 1.4, canvas.texture(rng, 34)))


def _edema(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Edema: bat-wing haze around both hila, thick blurred vessels, Kerley B lines at the bases."""
    canvas, a, degree = chest.canvas, chest.anatomy, finding.degree
    strength = np.float32((0.16, 0.23, 0.31)[degree])
    coarse = canvas.coarse
    haze = np.zeros_like(coarse.u)
    septa: list[Stroke] = []
    for side in _sides(chest, finding):
        root = lateral_hilum(a) if chest.lateral else hilum(a, side)
        out = 0.0 if chest.lateral else SIGN[side] * 0.055
        square = coarse.blob((root[0] + out, root[1] + 0.07), (0.135 + 0.02 * degree, 0.19 + 0.02 * degree))
        haze += strength * np.exp(-square)
        if not chest.lateral:
            low = a.dome(side) + 0.05
            for v in np.linspace(low - 0.13, low, 5 + 2 * degree):
                wall = float(lateral_wall(a, v)) - 0.004
                septum = np.array([[wall, v], [wall - rng.uniform(0.025, 0.04), v + rng.normal(0, 0.003)]])
                septa.append((septum * [SIGN[side], 1], 0.005, 0.9))
    chest.body += canvas.enlarge(haze * (1 + coarse.texture(rng, 30, strength=0.22))) * chest.lung
    if septa:
        chest.body += canvas.lines(septa, strength=0.12 + 0.03 * degree)
    chest.vessels *= np.float32(1.15)


def _atelectasis(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Atelectasis: plate-like bands, nearly horizontal, above a raised hemidiaphragm."""
    canvas, a = chest.canvas, chest.anatomy
    count, strength = (2, 3, 4)[finding.degree], (0.2, 0.25, 0.3)[finding.degree]
    for side in _sides(chest, finding):
        bands = []
        low = a.dome(side) - (0.02 if finding.zone == "lower" else 0.2)
        for i in range(count):
            v = low - 0.032 * i + rng.uniform(-0.006, 0.006)
            length = rng.uniform(0.13, 0.2)
            if chest.lateral:
                start = rng.uniform(-0.02, 0.08) if finding.zone == "lower" else rng.uniform(-0.2, -0.1)
                curve = spline([(start, v), (start + length / 2, v + 0.015), (start + length, v + 0.045)], 6)
            else:
                far = float(lateral_wall(a, v)) - rng.uniform(0.02, 0.06)
                bend = rng.uniform(-0.01, 0.014)
                slope = rng.uniform(-0.02, 0.03)
                curve = spline([(far, v + slope), (far - length / 2, v + bend), (far - length, v - slope / 2)], 6)
                curve = curve * [SIGN[side], 1]
            taper = np.sin(np.linspace(0.25, np.pi - 0.25, len(curve)))
            bands.append((ribbon(curve, taper * rng.uniform(0.011, 0.017)), 0.95))
        _add(chest, side, canvas.fill(bands, strength=strength), beyond=0.3)


def _pneumothorax(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Pneumothorax: the visceral pleura's fine line, and beyond it air without vessels."""
    canvas, a = chest.canvas, chest.anatomy
    side = finding.side
    outline = lateral_outline(a) if chest.lateral else lung_outline(a, side)
    root = (lateral_hilum(a) if chest.lateral else hilum(a, side) * [0.6, 1]) + [0, 0.05]
    top, bottom = a.apex, angle_level(a, side)
    shrink = np.array([0.21, 0.40, 0.62])[finding.degree] * rng.uniform(0.92, 1.08)
    # Air gathers at the apex; only a large amount also lifts the lung off the diaphragm.
    at_base = (0.0, 0.1, 0.42)[finding.degree]
    height = np.clip((bottom - outline[:, 1]) / (bottom - top), 0, 1) ** 0.6
    factor = 1 - (at_base + (shrink - at_base) * height)
    collapsed = root + (outline - root) * factor[:, None]
    # A collapsed lung has no sharp corners.
    reach = 1 + 5 * finding.degree
    wrapped = np.concatenate([collapsed[-reach:], collapsed, collapsed[:reach]])
    total = np.cumsum(wrapped, axis=0)
    collapsed = (total[2 * reach :] - total[: -2 * reach]) / (2 * reach)
    lung = canvas.fill([(collapsed, 1.0)])
    line = canvas.lines([(np.concatenate([collapsed, collapsed[:1]]), 0.009, 1.0)])
    mask = chest.lung * chest.half(side)
    # On a lateral film the other lung stays in the beam.
    weight = np.float32(0.5 if chest.lateral else 1.0)
    free = weight * mask * (1 - lung)
    chest.vessels *= 1 - free
    chest.air *= 1 + np.float32(0.16) * free
    chest.body += mask * lung * (weight * np.float32((0.02, 0.07, 0.2)[finding.degree]))
    chest.body += line * mask * (weight * np.float32((0.17, 0.15, 0.08)[finding.degree]))


def _effusion(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Pleural Effusion: fluid from the costophrenic angle up, its surface a meniscus along the wall."""
    canvas, a = chest.canvas, chest.anatomy
    for side in _sides(chest, finding):
        if chest.lateral:
            level = a.dome_right + 0.185 - (0.10, 0.21, 0.36)[finding.degree]
            along = np.clip((canvas.u + 0.02) / 0.32, -1, 1)
            surface = level - 0.09 * np.abs(along) ** 3
        else:
            depth = (0.065, 0.185, 0.36)[finding.degree] * rng.uniform(0.95, 1.05)
            wall = lateral_wall(a, angle_level(a, side) - depth)
            along = np.clip(canvas.u * np.float32(SIGN[side] / wall), 0, 1.05)
            surface = angle_level(a, side) - depth - (0.05 + 0.02 * finding.degree) * (along**5 - 0.35)
        fluid = smoothstep(-0.012, 0.02, canvas.v - surface)
        _solidify(chest, side, fluid * np.float32(0.9))


def _pleural_other(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    for side in _sides(chest, finding):
        draw = _plaques if finding.kind == "plaques" else _thickening
        draw(chest, finding, side, rng)


def _thickening(chest: Chest, finding: Finding, side: str, rng: np.random.Generator) -> None:
    """A rind along the chest wall, an apical cap in the upper zone."""
    canvas, a = chest.canvas, chest.anatomy
    thick = (0.03, 0.04, 0.054)[finding.degree]
    reach = a.dome(side) - a.apex
    low, high = {"upper": (-0.3, 0.2), "mid": (0.3, 0.75), "lower": (0.65, 1.2)}[finding.zone]
    span = smoothstep(a.apex + (high + 0.1) * reach, a.apex + (high - 0.05) * reach, canvas.v)
    span = span * smoothstep(a.apex + (low - 0.1) * reach, a.apex + (low + 0.05) * reach, canvas.v)
    ragged = canvas.texture(rng, 30, strength=0.004)
    outline = lateral_outline(a) if chest.lateral else lung_outline(a, side)
    centre = np.array([outline[:, 0].mean(), a.apex + 0.55 * reach])
    vector = outline - centre
    shrunk = centre + vector * (1 - thick / np.linalg.norm(vector, axis=1, keepdims=True))
    inner = canvas.fill([(shrunk, 1.0)], soften=0.004)
    rind = smoothstep(0.3, 0.7, 1 - inner + ragged * 20) * span
    if not chest.lateral:
        # Only along the wall and over the apex, not along heart or diaphragm.
        wall = lateral_wall(a, np.linspace(0, 1, 65))
        edge = np.interp(canvas.v[:, 0], np.linspace(0, 1, 65), wall).astype(np.float32)[:, None]
        near = smoothstep(2.6 * thick, 1.6 * thick, edge - np.abs(canvas.u))
        rind = rind * np.maximum(near, smoothstep(a.apex + 2 * thick, a.apex + thick, canvas.v))
    _solidify(chest, side, np.float32(0.7) * rind)


def _plaques(chest: Chest, finding: Finding, side: str, rng: np.random.Generator) -> None:
    """Calcified plaques: short dense bands along the chest wall, at the bases also along the diaphragm."""
    a = chest.anatomy
    low, high = {"upper": (0.12, 0.4), "mid": (0.4, 0.72), "lower": (0.72, 1.05)}[finding.zone]
    bands: list[Shape] = []
    for level in np.linspace(low, high, 2 + finding.degree):
        length, t = rng.uniform(0.045, 0.075), np.linspace(-0.5, 0.5, 7)
        v = a.apex + (level + rng.uniform(-0.03, 0.03)) * (a.dome(side) - a.apex) + length * t
        if chest.lateral:
            u = _LATERAL_CENTRE[finding.zone][0] + rng.uniform(-0.08, 0.08) + 0.4 * length * t
        else:
            u = SIGN[side] * (lateral_wall(a, v) - rng.uniform(0.018, 0.045))
        bands.append((_rough(np.stack([u, v], -1), rng), rng.uniform(0.8, 1.0)))
    if finding.zone == "lower":
        t = np.linspace(-0.5, 0.5, 7)
        u, v = 0.21 * a.width + 0.09 * t, a.dome(side) + 0.002 + 0.10 * t * t
        if chest.lateral:
            u = u - 0.25
        bands.append((_rough(np.stack([u if chest.lateral else SIGN[side] * u, v], -1), rng), 1.0))
    chest.body += chest.canvas.fill(bands, strength=0.24 + 0.06 * finding.degree)


def _rough(curve: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A band of uneven width along a curve."""
    return ribbon(curve, np.array([0.3, 1, 1, 1, 1, 1, 0.3]) * rng.uniform(0.011, 0.021, 7))


_PAINTERS: dict[str, Callable[[Chest, Finding, np.random.Generator], None]] = {
    "Lung Opacity": _haze,
    "Lung Lesion": _lesion,
    "Edema": _edema,
    "Consolidation": _consolidation,
    "Pneumonia": _pneumonia,
    "Atelectasis": _atelectasis,
    "Pneumothorax": _pneumothorax,
    "Pleural Effusion": _effusion,
    "Pleural Other": _pleural_other,
    "Support Devices": paint_device,
}
"""Observations drawn by shape alone (`adjust_anatomy`) have none."""
