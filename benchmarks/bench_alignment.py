"""What alignment does to the demo's model on phantoms, with several seeds.

    mambaxray demo --output demo
    python benchmarks/bench_alignment.py --model demo/model --output runs/align

Runs the recipe `align_phantoms` (or another) once per seed, each in a folder of its own below OUTPUT; what is finished
there is not run again. The seed decides which studies come when and what is sampled; the data is the same for all.
Prints, for every seed, label F1 and located F1 on the held-out phantoms before and after with the paired interval of
the difference, which scores fell by more than their interval, the other checks, and the time.
"""

import argparse
import os
import platform
import time
from pathlib import Path
from statistics import mean, stdev

from measure import processor_name

from mambaxray import load_recipe, run_recipe
from mambaxray.train.alignment_result import alignment_rows, read_alignment

LOCATED, LABEL = "located_F1_micro_14_uncertain-negative", "F1_micro_14_uncertain-negative"
GOAL = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model to start from")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--recipe", default="align_phantoms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", help="overrides of the recipe, KEY=VALUE")
    options = parser.parse_args()
    print(f"machine: {processor_name()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    print(f"recipe: {options.recipe} {' '.join(options.overrides)}".rstrip())
    results = {}
    for seed in options.seeds:
        folder = options.output / f"seed{seed}"
        recipe = load_recipe(
            options.recipe,
            [f"model.checkpoint={options.model}", f"seed={seed}", "training.report_to=[]", *options.overrides],
        )
        started = time.process_time()
        result = run_recipe(recipe, folder)
        spent = folder / "processor_minutes.txt"
        if not spent.is_file():
            spent.write_text(f"{(time.process_time() - started) / 60:.1f}")
        results[seed] = read_alignment(folder)
        print(
            f"\nseed {seed}: {result.steps} steps, {float(spent.read_text()):.1f} minutes of processor time in all "
            f"(data, reports before and after, training), training {result.seconds / 60:.1f} minutes of wall-clock\n"
        )
        print("| | before | after | difference (95% interval), or the references' value |")
        print("|---|---|---|---|")
        for row in alignment_rows(results[seed]):
            print(f"| {' | '.join(row)} |")
    summary(results)


def summary(results: dict[int, dict]) -> None:
    studies = next(iter(results.values()))["studies"]
    print(f"\nin short, on {studies} held-out phantoms\n")
    print(
        "| seed | label F1 before | after | located F1 before | after | difference (95% interval) | scores that fell |"
    )
    print("|---|---|---|---|---|---|---|")
    for seed, result in results.items():
        label, located = (result["scores"][name] for name in (LABEL, LOCATED))
        fell = [name for name, each in result["scores"].items() if each["is_worse"]]
        low, high = located["interval"]
        values = (label["before"], label["after"], located["before"], located["after"])
        print(
            f"| {seed} | {' | '.join(f'{value:.3f}' for value in values)} "
            f"| {located['difference']:+.3f} ({low:+.3f} to {high:+.3f}) | {', '.join(fell) or 'none'} |"
        )
    gains = [result["scores"][LOCATED]["difference"] for result in results.values()]
    spread = f", standard deviation {stdev(gains):.3f}" if len(gains) > 1 else ""
    fell = sum(any(each["is_worse"] for each in result["scores"].values()) for result in results.values())
    verdict = "reached by all seeds" if min(gains) >= GOAL else "not reached by all seeds"
    print(f"\nlocated F1 {mean(gains):+.3f} in the mean{spread}; the goal of {GOAL:+.2f} is {verdict}")
    print(f"{fell} of {len(results)} seeds have a score that fell by more than its interval")


if __name__ == "__main__":
    main()
