"""Does each stage earn its place? Fine-tuning after stages 1 and 2, and from scratch, on phantoms, with three seeds.

python benchmarks/bench_stages.py [--output runs/stages] [--seeds 0 1 2] [--processes 2]

Both ways train the same model on the same studies in the same order with the same recipe; they differ in the weights
that the vision encoder starts from. For each seed: after how many steps is the validation loss as low as the last one
from scratch? It goes on where it was interrupted.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

from mambaxray.data.phantoms import make_phantoms
from mambaxray.train.recipe import load_recipe
from mambaxray.train.run import RunResult, run_recipe

IMAGE_SIZE, EVERY = 64, 25
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_ENCODER = {
    "model_type": "vision_mamba",
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "state_size": 4,
    "initializer_range": 0.1,
}
# The recipes' steps, batch sizes and learning rates, but for fine-tuning, which is watched more closely.
_WATCHED = ["training.max_steps=250", f"training.eval_steps={EVERY}", "training.save_steps=250", "metrics=null"]


def draw(folder: Path, num_studies: int) -> None:
    """Phantoms in R2Gen's format, drawn once for all runs."""
    if (folder / "annotation.json").is_file():
        return
    (folder / "images").mkdir(parents=True, exist_ok=True)
    annotation = {}
    for split, studies in make_phantoms(num_studies, image_size=IMAGE_SIZE).items():
        annotation[_SPLITS[split]] = rows = []
        for study in studies:
            name = f"{study['study_id']}.png"
            study["images"][0].save(folder / "images" / name)
            rows.append({"id": study["study_id"], "report": study["report"], "image_path": [name]})
    (folder / "annotation.json").write_text(json.dumps(annotation))


def run(name: str, folder: Path, data: Path, seed: int, *overrides: str) -> RunResult:
    given = [
        f"data.source={data}",
        "data.options={}",
        "data.max_validation=64",
        f"seed={seed}",
        "training.report_to=[]",
    ]
    return run_recipe(load_recipe(name, [*given, "training.disable_tqdm=true", *overrides]), folder)


def one_way(output: Path, seed: int, after_stages: bool) -> None:
    """All the stages of one seed, or fine-tuning alone."""
    import torch

    torch.set_num_threads(1)
    data = output / "phantoms"
    encoder = json.dumps(_ENCODER)
    if after_stages:
        folder = output / f"seed-{seed}"
        run("pretrain_phantoms", folder / "1-pretrain", data, seed, "picture_every=100")
        before = f"model.vision_encoder={folder / '1-pretrain' / 'model'}"
        run("contrast_phantoms", folder / "2-contrast", data, seed, before)
        encoder = str(folder / "2-contrast" / "model")
        run("finetune_phantoms", folder / "3-finetune", data, seed, f"model.vision_encoder={encoder}", *_WATCHED)
    else:
        folder = output / f"seed-{seed}" / "3-from-scratch"
        run("finetune_phantoms", folder, data, seed, f"model.vision_encoder={encoder}", *_WATCHED)


def curve(folder: Path) -> dict[int, float]:
    history = json.loads((folder / "result.json").read_text())["history"]
    return {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}


def steps_to(losses: dict[int, float], target: float) -> int | None:
    return next((step for step, loss in losses.items() if loss <= target), None)


def seconds(folder: Path) -> float:
    return json.loads((folder / "result.json").read_text())["seconds"]


def report(output: Path, seeds: Sequence[int]) -> None:
    print(
        f"\n{'seed':>4} {'target':>7} {'steps after 1+2':>16} {'from scratch':>13} {'last loss':>16}   minutes by stage"
    )
    for seed in seeds:
        folder = output / f"seed-{seed}"
        after, scratch = curve(folder / "3-finetune"), curve(folder / "3-from-scratch")
        target = scratch[max(scratch)]
        parts = ("1-pretrain", "2-contrast", "3-finetune", "3-from-scratch")
        minutes = " ".join(f"{seconds(folder / part) / 60:.1f}" for part in parts)
        reached = steps_to(after, target) or "not reached"
        print(
            f"{seed:4} {target:7.3f} {reached:>16} {steps_to(scratch, target):13} "
            f"{after[max(after)]:7.3f} {target:8.3f}   {minutes}"
        )
    print("\nValidation loss (mean over seeds):")
    curves = [
        (curve(output / f"seed-{s}" / "3-finetune"), curve(output / f"seed-{s}" / "3-from-scratch")) for s in seeds
    ]
    for step in list(curves[0][0])[1::2]:
        after, scratch = (sum(pair[way][step] for pair in curves) / len(curves) for way in (0, 1))
        print(f"  step {step:4}: after stages 1+2 {after:.3f}, from scratch {scratch:.3f}")
    for seed in seeds:
        history = json.loads((output / f"seed-{seed}" / "2-contrast" / "result.json").read_text())["metrics"]
        recalls = ", ".join(f"{k.removeprefix('eval_')} {v:.2f}" for k, v in history.items() if "recall" in k)
        print(f"  seed {seed}, stage 2 on the 64 validation studies: {recalls}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/stages"), help="folder of all runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--studies", type=int, default=1200, help="phantoms in all splits")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at the same time, one thread each")
    options = parser.parse_args()
    started = time.perf_counter()
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    draw(options.output / "phantoms", options.studies)
    # The long way first, so that no process is left with it alone at the end.
    tasks = [(options.output, seed, after) for after in (True, False) for seed in options.seeds]
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        pool.starmap(one_way, tasks, chunksize=1)
    report(options.output, options.seeds)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes in all")


if __name__ == "__main__":
    main()
