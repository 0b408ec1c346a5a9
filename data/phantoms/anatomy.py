"""The person inside a phantom, and the chest being drawn from it.

`sample_anatomy` draws a normal person's proportions; `frontal` and `lateral` turn them into a
`Chest`: attenuation of the body without its lungs, the lungs' air, their vessels, and room for what findings
add. `Chest.attenuation` adds them up. Coordinates: `canvas`. Sides are the patient's, so that the right
lung lies on the image's left.
"""

from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Points, Stroke

SIGN = {"right": -1, "left": 1}
"""Sign of `u` for the patient's sides on a frontal film."""
RIBS = 10


@dataclass(frozen=True)
class Break:
    """A broken rib: which (0 = first), where (0 = spine, 1 = lateral) and how far displaced."""

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

    @property
    def reach(self) -> float:
        """Height of the chest, from the apex to the right dome."""
        return self.dome_right - self.apex


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
        bone=r(0.85, 1.2),
        markings=r(0.8, 1.2),
        armpit=r(0.015, 0.13),
        gas=r(0.6, 1.0) if r() < 0.6 else 0.0,
        thickness=r(0.88, 1.12),
    )


@dataclass
class Chest:
    """A chest in the making: fields that findings change in place before `attenuation` adds them up."""

    canvas: Canvas
    anatomy: Anatomy
    lateral: bool
    body: np.ndarray
    """Attenuation of everything but what the other fields hold."""
    lung: np.ndarray
    """Where lung is seen, 0..1; on a lateral film both lungs at once."""
    air: np.ndarray
    """Attenuation that the lungs' air takes away."""
    vessels: np.ndarray
    bones: np.ndarray

    def half(self, side: str) -> np.ndarray | bool:
        """Where the patient's side is: half of a frontal film, all of a lateral one."""
        if self.lateral:
            return True
        return self.canvas.u < 0 if side == "right" else self.canvas.u >= 0

    def attenuation(self) -> np.ndarray:
        return self.body + self.bones + self.vessels - self.air


def vessel_tree(
    rng: np.random.Generator, roots: Points, directions: np.ndarray, length: float, calibre: float, levels: int
) -> list[Stroke]:
    """Strokes of branching trees from `roots` in `directions` (angles: 0 = +u, pi/2 = down)."""
    tips, angles, width = roots, directions, calibre
    strokes: list[Stroke] = []
    for level in range(levels):
        count = len(angles)
        half = length * 0.76**level * rng.uniform(0.35, 0.62, count)[:, None]
        # Every branch bends once on its way.
        bent = angles + rng.normal(0, 0.22, count)
        middle = tips + np.stack([np.cos(angles), np.sin(angles)], -1) * half
        ends = middle + np.stack([np.cos(bent), np.sin(bent)], -1) * half
        strokes.append((np.stack([tips, middle, ends], 1), width, 0.95 - 0.13 * level))
        spread = rng.uniform(0.1, 0.55, (2, count))
        tips, angles = np.concatenate([ends, ends]), np.concatenate([angles + spread[0], angles - spread[1]])
        width *= 0.76
        if level == levels - 2:
            # Half of the finest twigs are too fine to see.
            tips, angles = tips[::2], angles[::2]
    return strokes


def fragments(curve: Points, broken: Break) -> list[Points]:
    """The two parts of a broken rib: a gap, then the outer part hanging lower (frontal: towards the feet)."""
    fine = np.linspace(0, 1, 4 * len(curve))
    coarse = np.linspace(0, 1, len(curve))
    dense = np.stack([np.interp(fine, coarse, curve[:, i]) for i in range(2)], -1)
    cut = int(broken.place * len(dense))
    return [dense[:cut], dense[cut + (0 if broken.healed else 2) :] + [0.0, broken.offset]]
