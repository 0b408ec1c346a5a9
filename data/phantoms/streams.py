"""The random streams of one phantom: independent, so that one choice never changes another."""

import numpy as np

PERSON, POSE, VESSELS, FILM, FINDINGS, KINDS, REPORT, CLINIC = range(8)


def stream(seed: int, *names: int) -> np.random.Generator:
    """The generator of a stream, or of one of its parts when further numbers follow its name."""
    return np.random.default_rng([seed, *names])
