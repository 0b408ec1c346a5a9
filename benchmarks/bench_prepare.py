"""How fast `mambaxray prepare` takes JPEG images in, as they are and shrunk, and how much it stores.

    python benchmarks/bench_prepare.py

Images are phantoms with film grain, enlarged to the size of a detector's image, in a folder in R2Gen's format. One
process; images per second of its processor time, and of the clock.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import describe_machine
from PIL import Image

from mambaxray import prepare_studies, read_source
from mambaxray.data.phantoms import draw_phantom

GRAIN = 6.0
"""Standard deviation of the grain in grey levels, with which a large image takes some 2 MB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=40, help="images of 2,544 x 3,056 px")
    parser.add_argument("--small", type=int, default=1500, help="images of 320 x 320 px")
    arguments = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in describe_machine().items()))
    print("\n| images | shorter side | images/s of processor time | of the clock | MB read, each | MB stored, each |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for width, height, count in ((320, 320, arguments.small), (2544, 3056, arguments.large)):
            source = _write_source(Path(folder, f"{width}"), width, height, count)
            for shorter_side in (None, 512) if width > 512 else (None,):
                print(_prepare(source, Path(folder, f"{width}-{shorter_side}"), f"{width} x {height}", shorter_side))


def _write_source(folder: Path, width: int, height: int, count: int) -> Path:
    """A folder with `annotation.json` and one image per study; the same few drawings with different grain."""
    generator = np.random.default_rng(0)
    drawn = [Image.fromarray(draw_phantom([], seed=seed)).resize((width, height), 3) for seed in range(4)]
    (folder / "images").mkdir(parents=True)
    studies = []
    for number in range(count):
        pixels = np.asarray(drawn[number % len(drawn)]) + generator.normal(0, GRAIN, (height, width))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number}.jpg", quality=90)
        studies.append({"id": f"{number}", "report": "The lungs are clear.", "image_path": [f"{number}.jpg"]})
    (folder / "annotation.json").write_text(json.dumps({"train": studies}), encoding="utf-8")
    return folder


def _prepare(folder: Path, output: Path, size: str, shorter_side: int | None) -> str:
    source = read_source("annotation-json", folder, section="findings")
    clock, processor = time.perf_counter(), time.process_time()
    prepare_studies(source, output, shorter_side=shorter_side)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    count = len(list((folder / "images").iterdir()))
    read, stored = (
        sum(file.stat().st_size for file in found) / count / 1e6
        for found in ((folder / "images").iterdir(), output.rglob("*.parquet"))
    )
    rates = f"{count / processor:.0f} | {count / clock:.0f}"
    return f"| {size} | {shorter_side or 'as it is'} | {rates} | {read:.2f} | {stored:.2f} |"


if __name__ == "__main__":
    main()
