"""From attenuation to a film: tone curve, noise, marker and shutters."""

import numpy as np
from PIL import Image, ImageDraw

from .anatomy import Chest

_LETTERS = {
    "L": np.array([[0, 0], [0, 1], [0.6, 1]]),
    "R": np.array([[0, 1], [0, 0], [0.5, 0.05], [0.6, 0.25], [0.5, 0.48], [0.05, 0.5], [0.6, 1]]),
}


def expose(chest: Chest, rng: np.random.Generator, portable: bool) -> np.ndarray:
    """The film of a chest, uint8 `(size, size)`; `portable` ones are flatter and greyer."""
    canvas = chest.canvas
    contrast = rng.uniform(3.3, 4.3) if portable else rng.uniform(4.0, 5.2)
    middle = rng.uniform(0.62, 0.74) if portable else rng.uniform(0.70, 0.82)
    if chest.lateral:
        # More of the way leads through lung, and the film is exposed for it.
        middle -= 0.09
    total = chest.attenuation()
    across, down = rng.normal(0, 0.03, (2, 1)) * np.linspace(-0.5, 0.5, canvas.size)
    # The tube is never quite centred: the film is a little brighter towards one edge.
    total += (across + down[:, None]).astype(np.float32)
    # Few photons pass where attenuation is high, and noise grows there.
    total += _noise(canvas.size, rng) * (np.float32(rng.uniform(0.008, 0.018)) * (0.65 + 0.45 * total))
    total -= np.float32(middle)
    total *= np.float32(-contrast)
    film = np.exp(total, out=total)
    film += 1
    np.reciprocal(film, out=film)
    # What the tone curve leaves where nothing attenuates is the black around the patient.
    film -= np.float32(0.7 / (1 + np.exp(middle * contrast)))
    film *= np.float32(255 * rng.uniform(0.97, 1.06))
    film = Image.fromarray(np.clip(film, 0, 255, out=film).astype(np.uint8))
    _mark(film, chest.lateral, rng)
    _close_shutters(film, rng)
    return np.array(film)


def _noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of mean 0 and deviation 1: the sum of two uniform ones, cheaper than a normal one."""
    raw = np.frombuffer(rng.bytes(2 * size * size), dtype=np.uint8).reshape(2, size, size)
    return (raw[0].astype(np.float32) + raw[1] - np.float32(255)) * np.float32(1 / 104.5)


def _mark(film: Image.Image, lateral: bool, rng: np.random.Generator) -> None:
    """Lay the lead letter that says which side is which."""
    left = lateral or rng.uniform() < 0.5
    letter = _LETTERS["L" if left else "R"] * 0.035
    letter += [0.5 + (1 if left else -1) * rng.uniform(0.38, 0.42), rng.uniform(0.04, 0.08)]
    width = max(1, round(0.008 * film.width))
    ImageDraw.Draw(film).line((letter * film.width).ravel().tolist(), round(rng.uniform(170, 250)), width)


def _close_shutters(film: Image.Image, rng: np.random.Generator) -> None:
    """Black borders, where the beam was narrower than the film."""
    size = film.width
    left, right, top, bottom = (rng.uniform(0, 0.035, 4) * (rng.uniform(size=4) < 0.3) * size).astype(int).tolist()
    boxes = ((0, 0, left, size), (size - right, 0, size, size), (0, 0, size, top), (0, size - bottom, size, size))
    for box in boxes:
        film.paste(3, box)
