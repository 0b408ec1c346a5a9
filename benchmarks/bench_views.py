"""How often a view classifier is right: on phantoms, and on real radiographs of two hospitals.

    python benchmarks/bench_views.py --seeds 0 1 2
    python benchmarks/bench_views.py --data ../shared/data --seeds 0 1 2

Phantoms: PA, AP and lateral, 300 patients to learn from and 200 others to test. With `--data FOLDER` also AP against PA
on the folders `nih_label_matched` (its own split by patient) and `hannover` (half of the patients to learn from, by the
seed, the other half to test), each by itself, and trained on the one and tested on the other. Intervals are of one run,
a bootstrap over patients; the three seeds are three trainings.
"""

import argparse
import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from measure import print_machine
from PIL import Image

from mambaxray.data.phantoms import make_study
from mambaxray.data.schema import VIEWS
from mambaxray.train.view_classification import score_views, train_view_classifier

Studies = Sequence[Mapping[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with nih_label_matched and hannover")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print_machine("cpu")
    print("\n| trained on | tested on | seed | images | patients | accuracy (95 %) | recall | seconds |")
    print("|---" * 8 + "|")
    for seed in options.seeds:
        sets = {"phantoms": phantoms(seed)}
        if options.data is not None:
            sets |= {
                "nih": nih(options.data / "nih_label_matched"),
                "hannover": hannover(options.data / "hannover", seed),
            }
        for name, splits in sets.items():
            started = perf_counter()
            classifier, _ = train_view_classifier({"train": splits["train"]}, image_size=options.image_size, seed=seed)
            seconds = perf_counter() - started
            for other, tested in sets.items():
                if (name == "phantoms") == (other == "phantoms"):
                    row(name, other, seed, score_views(classifier, tested["test"]), seconds)


def row(trained: str, tested: str, seed: int, scores: Mapping[str, Any], seconds: float) -> None:
    low, high = scores["accuracy_interval"]
    recall = ", ".join(f"{view} {value:.2f}" for view, value in scores["recall"].items())
    print(
        f"| {trained} | {tested} | {seed} | {scores['images']} | {scores['patients']} "
        f"| {scores['accuracy']:.3f} ({low:.3f} to {high:.3f}) | {recall} | {seconds:.0f} |",
        flush=True,
    )


def phantoms(seed: int) -> dict[str, Studies]:
    """Another 500 patients for each seed, three views each."""
    rows = [make_study(10_000 * (seed + 1) + number, views=VIEWS, image_size=128) for number in range(500)]
    return {"train": rows[:300], "test": rows[300:]}


def nih(folder: Path) -> dict[str, Studies]:
    """The images with their view, by the data set's own split."""
    splits = json.loads((folder / "annotation.json").read_text(encoding="utf-8"))
    return {
        split: [study(folder / each["image_path"][0], each["patient_id"], each["view"]) for each in entries]
        for split, entries in splits.items()
    }


def hannover(folder: Path, seed: int) -> dict[str, Studies]:
    """Half of the patients in each split, drawn by the seed."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [study(folder / row["file_name"], row["patient_id"], row["view"]) for row in csv.DictReader(file)]
    patients = sorted({row["patient_id"] for row in rows})
    random.Random(seed).shuffle(patients)
    of_training = set(patients[: len(patients) // 2])
    return {
        "train": [row for row in rows if row["patient_id"] in of_training],
        "test": [row for row in rows if row["patient_id"] not in of_training],
    }


def study(file: Path, patient: str, view: str) -> dict[str, Any]:
    with Image.open(file) as image:
        return {"images": [image.convert("L")], "views": [view], "patient_id": patient}


if __name__ == "__main__":
    main()
