"""Soft drawing on a square film: polygons, lines and smooth textures as attenuation fields.

Everything is given in body coordinates: `u` runs to the right of the image (the patient's left), `v` down,
the unit is the film's width, and the origin is the middle of the film's upper edge. A *field* is a float32
array `(size, size)`; drawing returns fields, and the caller adds them up, because X-ray attenuation adds up.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Points = np.ndarray
"""`(n, 2)` float, columns u and v."""


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centres - 0.5, centres)
    x.flags.writeable = y.flags.writeable = False
    return x, y


class Canvas:
    """A film of `size` x `size` pixels on which a body is placed by rotation (radians), scale and shift."""

    def __init__(self, size: int, angle: float = 0.0, scale: float = 1.0, shift: Sequence[float] = (0, 0)):
        self.size = size
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        self._matrix = np.array([[cos, sin], [-sin, cos]])
        # The body turns about the middle of the film, so that the origin needs its own offset.
        self._offset = np.array([0.5, 0.5]) + shift - np.array([0.0, 0.5]) @ self._matrix
        x, y = _grid(size)
        inverse = np.linalg.inv(self._matrix).astype(np.float32)
        dx, dy = x + np.float32(0.5 - self._offset[0]), y - np.float32(self._offset[1])
        self.u = dx * inverse[0, 0] + dy * inverse[1, 0]
        self.v = dx * inverse[0, 1] + dy * inverse[1, 1]

    def _project(self, shapes: Sequence[Points], resolution: int) -> list[list[float]]:
        """Pixel coordinates of every shape, flat as PIL wants them; one product for all of them."""
        counts = [2 * len(points) for points in shapes]
        pixels = (np.concatenate(shapes) @ self._matrix + self._offset) * resolution
        flat, out, start = pixels.ravel().tolist(), [], 0
        for count in counts:
            out.append(flat[start : start + count])
            start += count
        return out

    def _sheet(self, soften: float) -> Image.Image:
        """Twice the film's pixels for sharp edges, fewer for what is blurred anyway."""
        sharp = soften * self.size < 0.8
        resolution = 2 * self.size if sharp else min(2 * self.size, max(16, round(1.3 / soften)))
        return Image.new("L", (resolution, resolution))

    def fill(self, shapes: Sequence[tuple[Points, float]], soften: float = 0.0) -> np.ndarray:
        """Polygons with their values in 0..1, later ones over earlier ones; `soften` is a blur's width."""
        image = self._sheet(soften)
        draw = ImageDraw.Draw(image)
        projected = self._project([points for points, _ in shapes], image.width)
        for points, (_, value) in zip(projected, shapes, strict=True):
            draw.polygon(points, fill=round(255 * value))
        return self._finish(image, soften)

    def lines(self, strokes: Sequence[tuple[Points, float, float]], soften: float = 0.0) -> np.ndarray:
        """Polylines as (points, width, value in 0..1)."""
        image = self._sheet(soften)
        draw = ImageDraw.Draw(image)
        projected = self._project([points for points, _, _ in strokes], image.width)
        for points, (_, width, value) in zip(projected, strokes, strict=True):
            pixels = width * image.width
            # A line is at least one pixel wide; a thinner one is drawn fainter instead.
            draw.line(points, fill=round(255 * value * min(1.0, pixels)), width=max(1, round(pixels)))
        return self._finish(image, soften)

    def _finish(self, image: Image.Image, soften: float) -> np.ndarray:
        if soften * self.size >= 0.8:
            image = image.filter(ImageFilter.BoxBlur(1.5 * soften * image.width))
        if image.width == 2 * self.size:
            image = image.reduce(2)
        elif image.width != self.size:
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)

    def texture(self, rng: np.random.Generator, cells: int) -> np.ndarray:
        """Smooth noise of mean 0 and roughly unit deviation with `cells` bumps across the film."""
        values = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
        image = Image.fromarray(values).resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(image) * np.float32(1.25)

    def blob(self, centre: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> np.ndarray:
        """Squared elliptical distance from `centre`: 1 on the ellipse with these half-axes."""
        du, dv = self.u - np.float32(centre[0]), self.v - np.float32(centre[1])
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        a, b = (du * cos + dv * sin) / np.float32(radii[0]), (dv * cos - du * sin) / np.float32(radii[1])
        return a * a + b * b


def spline(points: Sequence[Sequence[float]], count: int = 6) -> Points:
    """A smooth open curve through the points (Catmull-Rom), `count` samples per piece."""
    p = np.asarray(points, dtype=float)
    padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    before, start, stop, after = (padded[i : i + len(p) - 1, None] for i in range(4))
    t = np.linspace(0, 1, count, endpoint=False)[None, :, None]
    curve = start + 0.5 * t * (
        stop - before
        + t * (2 * before - 5 * start + 4 * stop - after + t * (3 * (start - stop) + after - before))
    )  # fmt: skip
    return np.concatenate([curve.reshape(-1, 2), p[-1:]])


def ribbon(curve: Points, width: np.ndarray | float) -> Points:
    """The outline of a band along `curve` `(…, n, 2)`, of the given full width (`(…, n)` or one number)."""
    along = np.gradient(curve, axis=-2)
    normal = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    half = normal * (np.asarray(width)[..., None] / 2)
    return np.concatenate([curve + half, (curve - half)[..., ::-1, :]], axis=-2)


def ellipse(centre: Sequence[float], radii: Sequence[float], angle: float = 0.0, count: int = 28) -> Points:
    """The outline of an ellipse."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    a, b = radii[0] * np.cos(t), radii[1] * np.sin(t)
    return np.stack(
        [
            centre[0] + a * np.cos(angle) - b * np.sin(angle),
            centre[1] + a * np.sin(angle) + b * np.cos(angle),
        ],
        axis=-1,
    )


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between (either order)."""
    t = np.clip((x - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)
