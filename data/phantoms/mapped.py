"""Phantoms with maps of where each finding shows: dense supervision for a vision encoder.

Real reports say what is there, hardly where. Phantoms can say both exactly, which teaches an encoder to see small
findings from some thousand images instead of some hundred thousand.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..schema import OBSERVATIONS
from .drawing import draw_finding_maps
from .sampling import sample_findings
from .studies import encode_image, study_seed

if TYPE_CHECKING:
    import datasets

_FIRST_STREAM = 2**32
"""Study numbers start here, so that no mapped phantom is a study of `make_phantoms` with the same seed."""
_MIN_PIXELS = 4
"""A patch shows a finding when at least this many of its pixels do."""


def make_mapped_phantoms(
    num_images: int, *, seed: int = 0, image_size: int = 224, grid_size: int = 14, num_proc: int | None = None
) -> "datasets.Dataset":
    """Frontal phantoms that show many findings at once, with a map of each.

    Args:
        num_images: how many, each of another patient.
        seed: another seed gives other images throughout.
        image_size: height and width in pixels, a multiple of `grid_size`.
        grid_size: patches along one side.
        num_proc: number of processes to draw with.

    Returns:
        A data set with the columns `images` (a list of one image) and `finding_maps` (grid_size * grid_size * 14
        values, patches in raster order: 1 where the patch shows the observation), observations in the order of
        `data.schema.OBSERVATIONS`.

    Raises:
        ValueError: the grid does not divide the image, or as `draw_phantom`.
    """
    import datasets

    if image_size % grid_size:
        raise ValueError(f"image_size {image_size} is not a multiple of grid_size {grid_size}")
    seeds = [study_seed(seed, _FIRST_STREAM + number) for number in range(num_images)]
    source = datasets.Dataset.from_dict({"seed": seeds}, features=datasets.Features(seed=datasets.Value("uint64")))
    flags = datasets.List(datasets.Value("uint8"))
    features = datasets.Features(images=datasets.List(datasets.Image()), finding_maps=flags)
    return source.map(
        _draw_row,
        fn_kwargs={"image_size": image_size, "grid_size": grid_size},
        remove_columns="seed",
        features=features,
        num_proc=num_proc,
        keep_in_memory=True,
        load_from_cache_file=False,
        desc="Drawing phantoms with maps",
    )


def _draw_row(row: Mapping[str, int], image_size: int, grid_size: int) -> dict[str, Any]:
    findings = sample_findings(row["seed"], crowded=True)
    film, maps = draw_finding_maps(findings, seed=row["seed"], image_size=image_size)
    patches = np.zeros((grid_size, grid_size, len(OBSERVATIONS)), np.uint8)
    side = image_size // grid_size
    for name, shown in maps.items():
        pixels = shown.reshape(grid_size, side, grid_size, side).sum((1, 3))
        patches[..., OBSERVATIONS.index(name)] = pixels >= _MIN_PIXELS
    return {
        "images": [encode_image(Image.fromarray(film))],
        "finding_maps": patches.ravel().tolist(),
    }
