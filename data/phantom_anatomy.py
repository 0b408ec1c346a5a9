"""A normal chest, drawn: frontal (PA, AP) and lateral.

`sample_anatomy` draws a person's proportions; `draw_chest` turns them into a `Chest`: attenuation of the body
without its lungs, the lungs' air, their vessels, and room for what findings add. `Chest.attenuation` puts
them together; `expose` makes a film of it. Coordinates: `phantom_canvas`. Sides are the patient's, so that
the right lung lies on the image's left.
"""

from dataclasses import dataclass, field

import numpy as np

from .phantom_canvas import Canvas, Points, ellipse, ribbon, smoothstep, spline

SIGN = {"right": -1, "left": 1}
"""Sign of `u` for the patient's sides on a frontal film."""
HALF_WIDTH = 0.385
"""Half of the inner width of a chest of `width` 1 at its widest."""
RIBS = 10


@dataclass(frozen=True)
class Break:
    """A broken rib: which (0 = first), how far along it (0 = spine, 1 = lateral) and how far displaced."""

    side: str
    rib: int
    place: float
    offset: float
    healed: bool


@dataclass(frozen=True)
class Anatomy:
    """A person's proportions (lengths in film widths)."""

    width: float
    """Width of the chest, 1 on average."""
    apex: float
    """`v` of the lungs' upper end."""
    dome_right: float
    dome_left: float
    """`v` of the hemidiaphragms' summits."""
    cardiothoracic_ratio: float
    mediastinum: float
    """Half of the upper mediastinum's width."""
    arch: float
    """Prominence of the aortic arch, 0..1."""
    breast: float
    """Size of the breast shadows, 0 for none."""
    bone: float
    """Density of bone, 1 on average."""
    markings: float
    """Strength of the vessels, 1 on average."""
    armpit: float
    """Gap between arm and chest wall."""
    gas: float
    """Size of the stomach's gas bubble, 0 for none."""
    thickness: float
    """Thickness of the body wall, 1 on average."""
    shift: float = 0.0
    """Displacement of the mediastinum to the patient's left."""
    upper_vessels: float = 1.0
    """Calibre of the upper lobes' vessels, above 1 when congested."""
    breaks: tuple[Break, ...] = ()

    def dome(self, side: str) -> float:
        return self.dome_right if side == "right" else self.dome_left


@dataclass
class Chest:
    """A chest in the making: fields that findings may change before `attenuation` sums them."""

    canvas: Canvas
    anatomy: Anatomy
    view: str
    body: np.ndarray
    """Attenuation of everything but the lungs."""
    lungs: dict[str, np.ndarray]
    """Masks of the lungs in 0..1 by side; a lateral film has one, under both sides."""
    air: dict[str, np.ndarray]
    """Attenuation that air takes away, by side (on a lateral film the one lung under "both")."""
    vessels: np.ndarray
    bones: np.ndarray
    density: np.ndarray = field(init=False)
    """What findings add inside the chest."""
    hardware: np.ndarray = field(init=False)
    """Metal and plastic, over everything."""

    def __post_init__(self) -> None:
        self.density = np.zeros_like(self.body)
        self.hardware = np.zeros_like(self.body)

    @property
    def lateral(self) -> bool:
        return self.view == "LATERAL"

    def attenuation(self) -> np.ndarray:
        total = self.body + self.bones + self.vessels + self.density + self.hardware
        for air in self.air.values():
            total -= air
        return total


def sample_anatomy(rng: np.random.Generator, portable: bool) -> Anatomy:
    """A normal person; `portable` films are taken sitting or lying: diaphragm and heart look larger."""
    r = rng.uniform
    dome = r(0.685, 0.745) - (0.05 if portable else 0.0)
    return Anatomy(
        width=r(0.93, 1.06),
        apex=r(0.105, 0.14),
        dome_right=dome,
        dome_left=dome + r(0.012, 0.032),
        cardiothoracic_ratio=r(0.42, 0.49) if portable else r(0.39, 0.475),
        mediastinum=r(0.052, 0.064) if portable else r(0.048, 0.06),
        arch=r(0.0, 1.0),
        breast=r(0.5, 1.0) if r() < 0.45 else 0.0,
        bone=r(0.8, 1.2),
        markings=r(0.8, 1.2),
        armpit=r(0.005, 0.06),
        gas=r(0.6, 1.0) if r() < 0.6 else 0.0,
        thickness=r(0.88, 1.12),
    )


def draw_chest(anatomy: Anatomy, canvas: Canvas, view: str, rng: np.random.Generator) -> Chest:
    """The chest on a film; `rng` decides the vessels' course and the textures."""
    return (_draw_lateral if view == "LATERAL" else _draw_frontal)(anatomy, canvas, view, rng)


# ---------------------------------------------------------------------------------------------- frontal


def lateral_wall(a: Anatomy, v: np.ndarray | float) -> np.ndarray:
    """Distance of the lung's lateral edge from the midline at height `v`."""
    levels = a.apex + np.array([0.0, 0.012, 0.05, 0.12, 0.22, 0.34, 0.48, 0.62, 0.8])
    reach = np.array([0.12, 0.175, 0.235, 0.288, 0.328, 0.358, 0.378, 0.385, 0.378])
    return np.interp(v, levels, reach) * a.width


def angle_level(a: Anatomy, side: str) -> float:
    """`v` of the costophrenic angle."""
    return a.dome(side) + 0.115


def lung_outline(a: Anatomy, side: str) -> Points:
    """A frontal lung, reaching behind the heart to the spine."""
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


def heart_extent(a: Anatomy) -> tuple[float, float]:
    """How far the heart reaches to the patient's right and left of the midline."""
    total = a.cardiothoracic_ratio * 2 * HALF_WIDTH * a.width
    return 0.31 * total - a.shift, 0.69 * total + a.shift


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
        (-0.9 * right, top + 0.7 * reach), (-right, top + 0.83 * reach), (-0.9 * right, low + 0.0),
        (-0.5 * right, low + 0.06), (0.5 * left, low + 0.07), (0.88 * left, low + 0.03),
        (left, low - 0.035), (0.93 * left, top + 0.8 * reach), (0.71 * left, top + 0.65 * reach),
        (0.42 * left + 0.4 * m, top + 0.52 * reach), (s + m + 0.012, top + 0.43 * reach),
        (s + m + 0.004, top + 0.375 * reach), (s + knob, top + 0.3 * reach),
        (s + knob * 0.94, top + 0.25 * reach), (s + m * 0.95, top + 0.19 * reach),
        (s + m * 0.85, top + 0.03), (s + m * 0.8, top - 0.1),
    ]  # fmt: skip
    return spline(points, 4)


def rib_curves(a: Anatomy, side: str) -> tuple[Points, Points]:
    """Posterior `(ribs, n, 2)` and anterior parts; each runs outwards resp. inwards, falling."""
    k = np.arange(RIBS)
    spacing = (a.dome_right - a.apex) / 0.58
    start = a.apex - 0.012 + 0.068 * spacing * k
    drop = (0.105 + 0.014 * np.minimum(k, 6)) * spacing
    reach = lateral_wall(a, start + drop / 2) + 0.004
    first = np.arcsin(np.minimum(0.035 / reach, 1))
    last = np.pi - np.arcsin(np.clip((0.125 + 0.022 * np.maximum(k - 4, 0)) / reach, 0, 0.97))
    t = np.linspace(0, 1, 14)
    parts = []
    for low, high in ((first, np.full(RIBS, np.pi / 2)), (np.full(RIBS, np.pi / 2), last)):
        theta = low[:, None] + (high - low)[:, None] * t
        u = SIGN[side] * reach[:, None] * np.sin(theta)
        v = start[:, None] + drop[:, None] * (0.5 - 0.5 * np.cos(theta))
        parts.append(np.stack([u, v], axis=-1))
    return parts[0], parts[1]


def hilum(a: Anatomy, side: str) -> tuple[float, float]:
    """Where the lung's vessels spring from on a frontal film."""
    reach = a.dome_right - a.apex
    return SIGN[side] * (a.mediastinum + 0.022) + a.shift, a.apex + (0.47 if side == "right" else 0.44) * reach


def vessel_tree(
    rng: np.random.Generator, roots: Points, directions: np.ndarray, length: float, calibre: float
) -> list[tuple[Points, float, float]]:
    """Strokes of branching trees from `roots` in `directions` (angles: 0 = +u, pi/2 = down)."""
    tips, angles, width = roots, directions, calibre
    strokes: list[tuple[Points, float, float]] = []
    for level in range(5):
        steps = length * 0.76**level * rng.uniform(0.7, 1.25, len(angles))
        # Every branch bends once on its way.
        for turn in (0.0, 1.0):
            course = angles + turn * rng.normal(0, 0.22, len(angles))
            ends = tips + np.stack([np.cos(course), np.sin(course)], -1) * (steps / 2)[:, None]
            strokes += [(pair, width, 0.9 - 0.12 * level) for pair in np.stack([tips, ends], 1)]
            tips = ends
            width *= 0.87
        spread = rng.uniform(0.1, 0.55, (2, len(angles))) * np.array([[1], [-1]])
        tips, angles = np.concatenate([tips, tips]), np.concatenate([angles + spread[0], angles + spread[1]])
    return strokes


def _body_frontal(a: Anatomy, canvas: Canvas) -> np.ndarray:
    w, top = a.width * (0.9 + 0.1 * a.thickness), a.apex - 0.12
    gap = a.armpit
    half = [
        (0.085, top - 0.2), (0.083, top + 0.02), (0.10, top + 0.065), (0.2 * w, top + 0.1), (0.33 * w, top + 0.125),
        (0.45 * w, top + 0.15), (0.53 * w, top + 0.2), (0.60 * w, top + 0.3), (0.64 * w, top + 1.2),
        ((0.45 + 1.6 * gap) * w, top + 1.2), ((0.45 + gap) * w, top + 0.6), (0.455 * w, top + 0.38), (0.445 * w, top + 0.5),
        (0.437 * w, top + 0.75), (0.44 * w, top + 1.4),
    ]  # fmt: skip
    edge = spline(half, 4)
    outline = np.concatenate([edge, (edge * [-1, 1])[::-1]])
    skin = canvas.fill([(outline, 1.0)])
    deep = canvas.fill([(outline, 1.0)], soften=0.045)
    flank = np.clip(1 - (canvas.u / np.float32(0.62 * w)) ** 2, 0.2, 1)
    trunk = 0.75 + 0.25 * smoothstep(top + 0.02, top + 0.25, canvas.v)
    belly = 0.16 * smoothstep(a.dome_right - 0.05, a.dome_right + 0.2, canvas.v)
    return skin * (0.30 + 0.42 * deep * trunk + 0.30 * flank * trunk + belly) * np.float32(a.thickness)


def _spine_frontal(a: Anatomy, canvas: Canvas) -> np.ndarray:
    height = 0.062
    levels = np.arange(-1, 17) * height + a.apex - 0.08
    column = np.array([[-0.041, -0.2], [0.041, -0.2], [0.047, 1.3], [-0.047, 1.3]])
    shapes: list[tuple[Points, float]] = [(column, 0.45)]
    for level in levels:
        half = 0.036 + 0.01 * level
        box = np.array([[-half, level + 0.006], [half, level + 0.006], [half * 0.95, level + height - 0.008],
                        [-half * 0.95, level + height - 0.008]])  # fmt: skip
        shapes.append((box, 0.8))
        shapes += [(ellipse((s * half * 0.68, level + 0.02), (0.007, 0.011), count=10), 1.0) for s in (-1, 1)]
        shapes.append((ellipse((0.0, level + 0.045), (0.005, 0.014), count=8), 1.0))
    return canvas.fill(shapes, soften=0.004)


def _ribs_frontal(a: Anatomy, canvas: Canvas) -> np.ndarray:
    back: list[tuple[Points, float]] = []
    front: list[tuple[Points, float]] = []
    for side in SIGN:
        posterior, anterior = rib_curves(a, side)
        broken = {b.rib: b for b in a.breaks if b.side == side}
        for k in range(RIBS):
            pieces = _fragments(posterior[k], broken[k]) if k in broken else [posterior[k]]
            for piece in pieces:
                w = np.linspace(0.03, 0.025, len(piece))
                back += [(ribbon(piece, w), 0.95), (ribbon(piece, w * 0.66), 0.6)]
        wide = np.linspace(0.024, 0.034, anterior.shape[1])
        for outer, inner in zip(ribbon(anterior[:7], wide), ribbon(anterior[:7], wide * 0.66), strict=True):
            front += [(outer, 0.55), (inner, 0.42)]
    ribs = canvas.fill(back) * np.float32(0.12) + canvas.fill(front) * np.float32(0.11)
    return ribs + _callus(a, canvas)


def _fragments(curve: Points, broken: Break) -> list[Points]:
    """The two parts of a broken rib; the outer one hangs lower and overrides a little."""
    t = np.linspace(0, 1, len(curve))
    fine = np.linspace(0, 1, 2 * len(curve))
    dense = np.stack([np.interp(fine, t, curve[:, i]) for i in range(2)], -1)
    cut = int(broken.place * len(dense))
    outer = dense[cut + 1 :] + [0.0, broken.offset]
    return [dense[:cut], outer]


def _callus(a: Anatomy, canvas: Canvas) -> np.ndarray | float:
    """Bright ends of a fresh break, or the lump of a healed one."""
    shapes = []
    for b in a.breaks:
        curve = rib_curves(a, b.side)[0][b.rib]
        at = curve[min(int(b.place * len(curve)), len(curve) - 1)]
        radii = (0.02, 0.017) if b.healed else (0.007, 0.016)
        shapes.append((ellipse(at + [0, b.offset / 2], radii), 1.0))
    return canvas.fill(shapes, soften=0.004) * np.float32(0.2) if shapes else 0.0


def _girdle(a: Anatomy, canvas: Canvas) -> np.ndarray:
    """Clavicles, scapulae and humeral heads."""
    w, top = a.width, a.apex
    soft: list[tuple[Points, float]] = []
    hard: list[tuple[Points, float]] = []
    for s in (-1, 1):
        flip = [s, 1]
        clavicle = spline(
            [(0.036, top + 0.095), (0.1 * w, top + 0.068), (0.19 * w, top + 0.03), (0.29 * w, top + 0.0),
             (0.38 * w, top - 0.004)], 5,
        ) * flip  # fmt: skip
        width = np.interp(np.linspace(0, 1, len(clavicle)), [0, 0.15, 0.5, 1], [0.042, 0.034, 0.028, 0.034])
        hard += [(ribbon(clavicle, width), 0.95), (ribbon(clavicle, width * 0.55), 0.68)]
        blade = spline(
            [(0.315 * w, top + 0.01), (0.375 * w, top + 0.02), (0.44 * w, top + 0.06), (0.425 * w, top + 0.15),
             (0.40 * w, top + 0.3), (0.385 * w, top + 0.33), (0.36 * w, top + 0.26), (0.325 * w, top + 0.1),
             (0.315 * w, top + 0.01)], 4,
        ) * flip  # fmt: skip
        border = spline([(0.44 * w, top + 0.07), (0.425 * w, top + 0.15), (0.388 * w, top + 0.325)], 6) * flip
        arm = spline([(0.49 * w, top + 0.05), (0.525 * w, top + 0.2), (0.55 * w, top + 0.9)], 6) * flip
        head = ellipse((s * 0.475 * w, top + 0.05), (0.042, 0.048))
        soft += [(blade, 0.35), (ribbon(border, 0.016), 0.75), (ribbon(arm, 0.042), 0.7), (head, 0.9)]
    return canvas.fill(soft, soften=0.005) * np.float32(0.14) + canvas.fill(hard) * np.float32(0.16)


def _draw_frontal(a: Anatomy, canvas: Canvas, view: str, rng: np.random.Generator) -> Chest:
    u, v = canvas.u, canvas.v
    body = _body_frontal(a, canvas)
    silhouette = mediastinum_outline(a)
    heart = canvas.fill([(silhouette, 1.0)], soften=0.0035)
    lungs, air = {}, {}
    for side in SIGN:
        outline = lung_outline(a, side)
        mask = canvas.fill([(outline, 1.0)], soften=0.002)
        depth = canvas.fill([(outline, 1.0)], soften=0.05)
        lungs[side] = mask * (1 - heart)
        # A little lung lies before and behind the heart.
        air[side] = mask * (0.34 + 0.33 * depth) * (1 - 0.8 * heart) * np.float32(0.94)
    core = canvas.fill([(silhouette, 1.0)], soften=0.03)
    body += (0.02 + 0.09 * core) * heart * smoothstep(a.dome_right + 0.09, a.dome_right - 0.02, v)
    body += 0.13 * _spine_frontal(a, canvas) * np.float32(a.bone)
    body -= _airways_frontal(a, canvas)
    body += _abdomen_frontal(a, canvas, rng)
    if a.breast:
        body += _breasts(a, canvas)
    body += np.float32(0.015) * canvas.texture(rng, 9)

    inside = lungs["left"] + lungs["right"]
    bones = (_ribs_frontal(a, canvas) * (0.45 + 0.55 * inside) + _girdle(a, canvas)) * np.float32(a.bone)
    strokes = []
    for side, s in SIGN.items():
        root = np.array(hilum(a, side))
        down = np.array([2.1, 1.75, 1.45, 1.1, 0.75, 0.3])
        up = np.array([-0.25, -0.75, -1.15, -1.5])
        for directions, calibre in ((down, 0.0125), (up, 0.0095 * a.upper_vessels)):
            chosen = directions + rng.normal(0, 0.1, len(directions))
            chosen = chosen if s > 0 else np.pi - chosen
            roots = root + rng.normal(0, 1, (len(chosen), 2)) * [0.008, 0.02]
            strokes += vessel_tree(rng, roots, chosen, 0.1, calibre)
    hila = [(ellipse(hilum(a, side), (0.024, 0.045), 0.25 * s), 1.0) for side, s in SIGN.items()]
    tree = canvas.lines(strokes, soften=0.0022) * np.float32(0.15) + canvas.fill(hila, 0.013) * np.float32(0.13)
    fine = np.maximum(canvas.texture(rng, 56), 0) * np.float32(0.012)
    vessels = (tree + fine) * inside * np.float32(a.markings)
    return Chest(canvas, a, view, body, lungs, air, vessels, bones)


def _airways_frontal(a: Anatomy, canvas: Canvas) -> np.ndarray:
    carina = a.apex + 0.42 * (a.dome_right - a.apex)
    s = a.shift
    trachea = spline([(0.0, -0.1), (0.002, a.apex), (s - 0.006, carina - 0.08), (s, carina)], 5)
    bronchi = [
        spline([(s, carina - 0.012), (s - 0.03, carina + 0.035), (s - 0.075, carina + 0.075)], 4),
        spline([(s, carina - 0.012), (s + 0.045, carina + 0.04), (s + 0.09, carina + 0.06)], 4),
    ]
    shapes = [(ribbon(trachea, 0.037), 1.0), *((ribbon(b, 0.024), 0.7) for b in bronchi)]
    return canvas.fill(shapes, soften=0.005) * np.float32(0.17)


def _abdomen_frontal(a: Anatomy, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    below = smoothstep(a.dome_right + 0.08, a.dome_right + 0.25, canvas.v)
    out = below * (np.float32(0.05) + np.float32(0.02) * canvas.texture(rng, 7))
    if a.gas:
        centre = (0.15 * a.width, a.dome_left + 0.055)
        bubble = ellipse(centre, (0.065 * a.gas, 0.036 * a.gas), 0.15)
        level = centre[1] + 0.016
        bubble[:, 1] = np.minimum(bubble[:, 1], level)
        out -= canvas.fill([(bubble, 1.0)], soften=0.004) * np.float32(0.3)
    return out


def _breasts(a: Anatomy, canvas: Canvas) -> np.ndarray:
    out = np.zeros_like(canvas.u)
    for s in (-1, 1):
        centre = (s * 0.215 * a.width, a.dome_right - 0.05)
        square = canvas.blob(centre, (0.175 * a.width, 0.14 + 0.06 * a.breast))
        edge = smoothstep(1.06, 0.9, square)
        out += edge * (0.25 + 0.75 * smoothstep(centre[1] - 0.18, centre[1] + 0.16, canvas.v))
    return out * np.float32(0.1 * a.breast)


# ---------------------------------------------------------------------------------------------- lateral


def _lateral_spine(a: Anatomy) -> Points:
    return spline(
        [(0.085, -0.12), (0.14, 0.08), (0.215, 0.25), (0.25, 0.42), (0.25, 0.6), (0.215, 0.8), (0.17, 1.1)], 8
    )


def lateral_outline(a: Anatomy) -> Points:
    """Both lungs on a lateral film; the sternum lies on the image's left, the spine on its right."""
    top, dome = a.apex, a.dome_right
    mid = (top + dome) / 2
    front = spline(
        [(0.0, top), (-0.09, top + 0.035), (-0.17, top + 0.12), (-0.235, mid - 0.04), (-0.268, mid + 0.1),
         (-0.275, dome + 0.035)], 6,
    )  # fmt: skip
    base = spline(
        [(-0.275, dome + 0.035), (-0.2, dome - 0.015), (-0.09, dome - 0.03), (0.03, dome - 0.005), (0.15, dome + 0.06),
         (0.24, dome + 0.135), (0.285, dome + 0.185)], 6,
    )  # fmt: skip
    back = spline(
        [(0.285, dome + 0.185), (0.322, dome + 0.05), (0.335, mid + 0.08), (0.318, mid - 0.07), (0.25, top + 0.14),
         (0.15, top + 0.045), (0.07, top + 0.005), (0.0, top)], 6,
    )  # fmt: skip
    return np.concatenate([front, base, back])


def lateral_ribs(a: Anatomy) -> Points:
    """`(2 * ribs, n, 2)`: the ribs of the near and, a little displaced, of the far side."""
    k = np.arange(RIBS)[:, None]
    t = np.linspace(0, 1, 16)
    step = 0.062 * (a.dome_right - a.apex) / 0.58
    start = a.apex + 0.0 + step * k
    back = 0.27 + 0.075 * np.sin(np.pi * np.clip((k + 1.0) / 10, 0, 1))
    front = -0.14 - 0.13 * np.sin(np.pi / 2 * np.clip(k / 5, 0, 1))
    u = back + (front - back) * t + 0.01 * np.sin(np.pi * t)
    v = start + (0.2 + 0.012 * k) * t**1.25
    near = np.stack([u, v], -1)
    return np.concatenate([near, near + [0.012, 0.02]])


def lateral_hilum(a: Anatomy) -> tuple[float, float]:
    return 0.035, a.apex + 0.47 * (a.dome_right - a.apex)


def _draw_lateral(a: Anatomy, canvas: Canvas, view: str, rng: np.random.Generator) -> Chest:
    outline = lateral_outline(a)
    body = _body_lateral(a, canvas)
    mask = canvas.fill([(outline, 1.0)], soften=0.0025)
    depth = canvas.fill([(outline, 1.0)], soften=0.05)
    heart_shape, vessels_shape = _heart_lateral(a)
    heart = canvas.fill([(heart_shape, 1.0)], soften=0.006)
    great = canvas.fill(vessels_shape, soften=0.009)
    # Towards the diaphragm the spine grows darker: less shoulder, more lung.
    low = smoothstep(a.apex, a.dome_right, canvas.v)
    air = mask * (0.36 + 0.36 * depth) * (0.78 + 0.24 * low) * (1 - 0.42 * heart) * (1 - 0.2 * great)
    body += 0.08 * heart * mask + _abdomen_lateral(a, canvas, mask, rng) + 0.015 * canvas.texture(rng, 9)
    trachea = spline([(0.02, -0.1), (0.02, a.apex + 0.05), (0.032, lateral_hilum(a)[1] - 0.01)], 5)
    bronchus = ellipse((0.035, lateral_hilum(a)[1] - 0.005), (0.014, 0.013))
    airway = canvas.fill([(ribbon(trachea, 0.036), 1.0), (bronchus, 1.0)], soften=0.005)
    body -= np.float32(0.11) * airway

    root = lateral_hilum(a)
    directions = np.linspace(-np.pi, np.pi, 13)[:-1] + rng.normal(0, 0.15, 12)
    roots = root + rng.normal(0, 1, (12, 2)) * [0.015, 0.02]
    strokes = vessel_tree(rng, roots, directions, 0.095, 0.0105 * (0.5 + 0.5 * a.upper_vessels))
    tree = canvas.lines(strokes, soften=0.0025) * np.float32(0.12)
    hila = canvas.fill([(ellipse((root[0] - 0.01, root[1] + 0.012), (0.042, 0.05)), 1.0)], 0.016)
    vessels = (tree + hila * np.float32(0.11)) * mask * np.float32(a.markings)
    bones = _bones_lateral(a, canvas, mask) * np.float32(a.bone)
    return Chest(canvas, a, view, body, {"both": mask}, {"both": air}, vessels, bones)


def _body_lateral(a: Anatomy, canvas: Canvas) -> np.ndarray:
    t, dome = a.thickness, a.dome_right
    front = [
        (-0.13, -0.15), (-0.14, 0.05), (-0.22, a.apex + 0.1), (-0.275 * t, a.apex + 0.22),
        (-(0.30 + 0.07 * a.breast) * t, dome - 0.14), (-(0.315 + 0.02 * a.breast) * t, dome), (-0.31 * t, 1.2),
    ]  # fmt: skip
    back = [(0.33 * t, 1.2), (0.37 * t, dome), (0.405 * t, 0.42), (0.37 * t, 0.2), (0.31, 0.04), (0.27, -0.15)]
    outline = np.concatenate([spline(front, 6), spline(back, 6)])
    skin = canvas.fill([(outline, 1.0)], soften=0.003)
    deep = canvas.fill([(outline, 1.0)], soften=0.05)
    arms = 0.22 * smoothstep(a.apex + 0.14, a.apex - 0.04, canvas.v)
    belly = 0.12 * smoothstep(dome - 0.05, dome + 0.2, canvas.v)
    return skin * (0.30 + 0.52 * deep + arms * deep + belly) * np.float32(t)


def _heart_lateral(a: Anatomy) -> tuple[Points, list[tuple[Points, float]]]:
    """The heart's outline, and the aorta and its arch."""
    size = a.cardiothoracic_ratio / 0.45
    top, dome = a.apex, a.dome_right
    reach = dome - top
    back = -0.26 + 0.285 * size
    heart = spline(
        [(-0.255, dome + 0.0), (-0.262, dome - 0.14 * size), (-0.2, dome - 0.24 * size), (-0.11, dome - 0.285 * size),
         (-0.02, dome - 0.28 * size), (back, dome - 0.17 * size), (back - 0.005, dome - 0.06), (back - 0.07, dome + 0.02),
         (-0.2, dome + 0.03), (-0.255, dome + 0.0)], 5,
    )  # fmt: skip
    aorta = spline(
        [(-0.11, top + 0.55 * reach), (-0.105, top + 0.4 * reach), (-0.045, top + 0.27 * reach), (0.04, top + 0.24 * reach),
         (0.115, top + 0.33 * reach), (0.145, top + 0.5 * reach), (0.155, dome + 0.1)], 5,
    )  # fmt: skip
    width = 0.045 + 0.55 * (a.mediastinum - 0.05) + 0.012 * a.arch
    widths = np.interp(np.linspace(0, 1, len(aorta)), [0, 0.5, 0.75, 1], [1.5, 1.15, 0.8, 0.6]) * width
    return heart, [(ribbon(aorta, widths), 1.0)]


def _abdomen_lateral(a: Anatomy, canvas: Canvas, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The second dome, seen through the lung, and the stomach's gas."""
    outline = spline(
        [(-0.27, a.dome_left + 0.055), (-0.17, a.dome_left + 0.0), (-0.05, a.dome_left - 0.015), (0.07, a.dome_left + 0.02),
         (0.2, a.dome_left + 0.11), (0.285, a.dome_left + 0.2), (0.2, 1.2), (-0.3, 1.2)], 5,
    )  # fmt: skip
    second = canvas.fill([(outline, 1.0)], soften=0.003)
    out = second * (np.float32(0.1) + np.float32(0.02) * canvas.texture(rng, 7))
    if a.gas:
        centre = (0.03, a.dome_left + 0.07)
        bubble = ellipse(centre, (0.075 * a.gas, 0.04 * a.gas), 0.25)
        out -= canvas.fill([(bubble, 1.0)], soften=0.006) * np.float32(0.2)
    return out


def _bones_lateral(a: Anatomy, canvas: Canvas, mask: np.ndarray) -> np.ndarray:
    spine = _lateral_spine(a)
    blocks: list[tuple[Points, float]] = [(ribbon(spine, 0.062), 0.35)]
    along = np.cumsum(np.r_[0, np.hypot(*np.diff(spine, axis=0).T)])
    for start in np.arange(0.0, along[-1] - 0.062, 0.064):
        stretch = np.linspace(start + 0.005, start + 0.054, 5)
        piece = np.stack([np.interp(stretch, along, spine[:, i]) for i in range(2)], -1)
        blocks += [(ribbon(piece, 0.062), 0.95), (ribbon(piece[1:-1], 0.048), 0.7)]
    processes = spine + [0.062, 0.02]
    column = canvas.fill([(ribbon(processes, 0.03), 0.3), *blocks], soften=0.003)
    top = a.apex
    sternum = spline([(-0.155, top + 0.07), (-0.225, top + 0.17), (-0.275, top + 0.32), (-0.287, top + 0.45)], 6)
    plate = canvas.fill([(ribbon(sternum, 0.026), 0.95), (ribbon(sternum, 0.014), 0.6)], soften=0.002)
    curves = lateral_ribs(a)
    ribs: list[tuple[Points, float]] = []
    broken = {b.rib: b for b in a.breaks}
    for k, curve in enumerate(curves):
        pieces = _fragments(curve, broken[k]) if k in broken else [curve]
        for piece in pieces:
            ribs += [(ribbon(piece, 0.017), 0.8), (ribbon(piece, 0.008), 0.5)]
    cage = canvas.fill(ribs, soften=0.0015) * (0.3 + 0.7 * mask)
    blade = spline([(0.2, top + 0.02), (0.27, top + 0.14), (0.305, top + 0.3)], 6)
    scapula = canvas.fill([(ribbon(blade, 0.014), 1.0), (ribbon(blade - [0.035, -0.01], 0.012), 0.8)], soften=0.004)
    return (
        column * np.float32(0.17)
        + plate * np.float32(0.16)
        + cage * np.float32(0.075)
        + scapula * np.float32(0.07)
    )


# ---------------------------------------------------------------------------------------------- the film


def expose(chest: Chest, rng: np.random.Generator) -> np.ndarray:
    """The film: tone curve, scatter, noise, marker and collimation; uint8 `(size, size)`."""
    canvas, portable = chest.canvas, chest.view == "AP"
    contrast = rng.uniform(3.2, 4.2) if portable else rng.uniform(3.8, 5.0)
    middle = rng.uniform(0.62, 0.76) if portable else rng.uniform(0.70, 0.84)
    attenuation = chest.attenuation()
    attenuation += np.float32(rng.normal(0, 0.03)) * canvas.u + np.float32(rng.normal(0, 0.04)) * (canvas.v - 0.5)
    noise = rng.standard_normal((canvas.size, canvas.size), dtype=np.float32)
    # Few photons pass where attenuation is high, and noise grows there.
    attenuation += noise * (np.float32(rng.uniform(0.008, 0.018)) * (0.6 + 0.5 * np.clip(attenuation, 0, 1.5)))
    film = 1 / (1 + np.exp((np.float32(middle) - attenuation) * np.float32(contrast)))
    # What the tone curve leaves at zero attenuation is the black of unattenuated air.
    floor = 1 / (1 + np.exp(middle * contrast))
    film = (film - np.float32(floor * 0.7)) * np.float32(rng.uniform(0.97, 1.06))
    film += _marker(chest, rng) * np.float32(rng.uniform(0.6, 0.95))
    film *= _collimation(canvas, rng)
    return (np.clip(film, 0, 1) * 255 + 0.5).astype(np.uint8)


def _marker(chest: Chest, rng: np.random.Generator) -> np.ndarray:
    """The lead letter that says which side is which."""
    s = rng.choice([-1, 1]) if not chest.lateral else 1
    x, y, h = s * rng.uniform(0.40, 0.45), rng.uniform(0.03, 0.08), 0.035
    if s > 0:
        letter = np.array([[0, 0], [0, 1], [0.6, 1]])
    else:
        letter = np.array([[0, 1], [0, 0], [0.5, 0.05], [0.6, 0.25], [0.5, 0.48], [0.05, 0.5], [0.6, 1]])
    return chest.canvas.lines([(letter * h + [x, y], 0.008, 1.0)])


def _collimation(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Shutters that cut some films' edges."""
    left, right, top, bottom = rng.uniform(0, 0.035, 4) * (rng.uniform(size=4) < 0.3)
    size = canvas.size
    rows, columns = np.full(size, 1.0, np.float32), np.full(size, 1.0, np.float32)
    columns[: round(left * size)] = columns[size - round(right * size) :] = 0.02
    rows[: round(top * size)] = rows[size - round(bottom * size) :] = 0.02
    return np.minimum(rows[:, None], columns[None, :])
