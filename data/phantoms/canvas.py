"""Soft drawing on a square film: polygons, lines and smooth textures as attenuation fields.

Everything is given in body coordinates: `u` runs to the right of the image (the patient's left), `v` down,
the unit is the film's width, and the origin is the middle of the film's upper edge. A *field* is a float32
array `(size, size)`; drawing returns fields, and the caller adds them up, because X-ray attenuation adds up.
Speed matters here: what is smooth is drawn on `Canvas.coarse` and enlarged.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Points = np.ndarray
"""`(n, 2)` float, columns u and v."""
Shape = tuple[Points, float]
"""A polygon and its value in 0..1."""
Stroke = tuple[Points, float, float]
"""A polyline `(n, 2)`, or many `(m, n, 2)`, with their width and their value in 0..1."""


class Canvas:
    """A film of `size` x `size` pixels on which a body is placed by rotation (radians), scale and shift."""

    def __init__(self, size: int, angle: float = 0.0, scale: float = 1.0, shift: Sequence[float] | np.ndarray = (0, 0)):
        self.size = size
        self._pose = (angle, scale, shift)
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        self._matrix = np.array([[cos, sin], [-sin, cos]])
        # The body turns about the middle of the film, so the origin needs an offset of its own.
        self._offset = np.array([0.5, 0.5]) + shift - np.array([0.0, 0.5]) @ self._matrix

    def _coordinate(self, axis: int) -> np.ndarray:
        inverse = np.linalg.inv(self._matrix)[:, axis]
        centres = (np.arange(self.size) + 0.5) / self.size
        columns = (centres - self._offset[0]) * inverse[0]
        rows = (centres - self._offset[1]) * inverse[1]
        return rows.astype(np.float32)[:, None] + columns.astype(np.float32)

    @cached_property
    def u(self) -> np.ndarray:
        """Every pixel's u."""
        return self._coordinate(0)

    @cached_property
    def v(self) -> np.ndarray:
        """Every pixel's v."""
        return self._coordinate(1)

    @cached_property
    def coarse(self) -> "Canvas":
        """The same film with a quarter of the pixels per side, for smooth fields."""
        return Canvas(max(self.size // 4, 32), *self._pose)

    def enlarge(self, field: np.ndarray) -> np.ndarray:
        """A field of `coarse` at full size."""
        image = Image.fromarray(field.astype(np.float32, copy=False))
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR))

    def fill(self, shapes: Sequence[Shape], soften: float = 0.0, strength: float = 1.0) -> np.ndarray:
        """Polygons, later ones over earlier ones, times `strength`; `soften` is the width of a blur."""
        image = self._sheet(soften)
        draw = ImageDraw.Draw(image)
        # One product for all of them; flat, as PIL wants them.
        pixels = self._project(np.concatenate([points for points, _ in shapes]), image.width).ravel().tolist()
        start = 0
        for points, value in shapes:
            stop = start + 2 * len(points)
            draw.polygon(pixels[start:stop], fill=round(255 * value))
            start = stop
        return self._finish(image, soften, strength)

    def lines(self, strokes: Sequence[Stroke], soften: float = 0.0, strength: float = 1.0) -> np.ndarray:
        """Polylines, later ones over earlier ones, times `strength`."""
        image = self._sheet(soften)
        resolution = image.width
        draw = ImageDraw.Draw(image)
        for points, width, value in strokes:
            pixels = width * resolution
            # A line is at least one pixel wide; a thinner one is drawn fainter instead.
            fill, whole = round(255 * value * min(1.0, pixels)), max(1, round(pixels))
            for line in self._project(points, resolution).reshape(-1, 2 * points.shape[-2]).tolist():
                draw.line(line, fill=fill, width=whole)
        return self._finish(image, soften, strength)

    def texture(self, rng: np.random.Generator, cells: int, strength: float = 1.0) -> np.ndarray:
        """Smooth noise of mean 0 and a deviation of about `strength`, with `cells` bumps across the film."""
        if cells * 3 <= self.coarse.size < self.size:
            return self.enlarge(self.coarse.texture(rng, cells, strength))
        values = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32) * np.float32(1.25 * strength)
        image = Image.fromarray(values).resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(image)

    def blob(self, centre: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> np.ndarray:
        """Squared elliptical distance from `centre`: 1 on the ellipse with these half-axes."""
        du, dv = self.u - np.float32(centre[0]), self.v - np.float32(centre[1])
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        a, b = (du * cos + dv * sin) / np.float32(radii[0]), (dv * cos - du * sin) / np.float32(radii[1])
        return a * a + b * b

    def _project(self, points: Points, resolution: int) -> Points:
        """Pixel coordinates of points `(…, 2)`."""
        return (points @ self._matrix + self._offset) * resolution

    def _sheet(self, soften: float) -> Image.Image:
        """Twice the film's pixels for sharp edges, fewer for what is blurred anyway."""
        sharp = soften * self.size < 0.8
        resolution = 2 * self.size if sharp else min(self.size, max(16, round(1.3 / soften)))
        return Image.new("L", (resolution, resolution))

    def _finish(self, image: Image.Image, soften: float, strength: float) -> np.ndarray:
        if soften * self.size >= 0.8:
            image = image.filter(ImageFilter.BoxBlur(1.5 * soften * image.width))
        if image.width == 2 * self.size:
            image = image.reduce(2)
        elif image.width != self.size:
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(image) * np.float32(strength / 255)


@lru_cache(maxsize=32)
def _spline_basis(count: int) -> np.ndarray:
    """`(count, 4)`: weights of the four neighbouring points along one piece of a Catmull-Rom curve."""
    t = np.linspace(0, 1, count, endpoint=False)[:, None] ** np.arange(4)
    return t @ (0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]))


def spline(points: Sequence[Sequence[float]], count: int = 6) -> Points:
    """A smooth open curve through the points (Catmull-Rom), `count` samples per piece."""
    p = np.array(points, dtype=float)
    padded = np.empty((len(p) + 2, 2))
    padded[1:-1] = p
    padded[0], padded[-1] = 2 * p[0] - p[1], 2 * p[-1] - p[-2]
    windows = np.stack([padded[i : i + len(p) - 1] for i in range(4)], axis=1)
    return np.concatenate([(_spline_basis(count) @ windows).reshape(-1, 2), p[-1:]])


def ribbon(curve: Points, width: np.ndarray | float) -> Points:
    """The outline of a band along `curve` `(…, n, 2)`, of the given full width (`(…, n)` or one number)."""
    along = np.empty_like(curve)
    along[..., 1:-1, :] = curve[..., 2:, :] - curve[..., :-2, :]
    along[..., 0, :], along[..., -1, :] = curve[..., 1, :] - curve[..., 0, :], curve[..., -1, :] - curve[..., -2, :]
    length = np.sqrt((along * along).sum(-1))
    half = along[..., ::-1] * (np.asarray(width) / 2 / np.maximum(length, 1e-9))[..., None]
    half[..., 0] *= -1
    return np.concatenate([curve + half, (curve - half)[..., ::-1, :]], axis=-2)


@lru_cache(maxsize=32)
def _circle(count: int) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], axis=-1)


def ellipse(
    centre: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray, angle: float = 0.0, count: int = 24
) -> Points:
    """The outline of an ellipse."""
    cos, sin = np.cos(angle), np.sin(angle)
    axes = np.array([[cos * radii[0], sin * radii[0]], [-sin * radii[1], cos * radii[1]]])
    return _circle(count) @ axes + centre


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between (either order)."""
    t = np.clip((x - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)
