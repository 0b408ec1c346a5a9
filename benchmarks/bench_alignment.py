"""What alignment does to the demo's model on phantoms, with several seeds.

    mambaxray demo --output demo
    python benchmarks/bench_alignment.py --model demo/model --output runs/align
    python benchmarks/bench_alignment.py --model demo/model --output runs/align_likelihood --likelihood

Runs the recipe `align_phantoms` (or another) once per seed, each in a folder of its own below OUTPUT; what is finished
there is not run again. The seed decides which studies come when and what is sampled; the data is the same for all.
Prints, for every seed, label F1 and located F1 on the held-out phantoms before and after with the paired interval of
the difference, which scores fell by more than their interval, the findings denied, the other checks, and the time.

With `--likelihood` the same model learns as many steps of as many of the same studies from their references, by
likelihood and with the recipe's learning rate: what more training would have done without any reward.
"""

import argparse
import os
import platform
import time
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from measure import processor_name
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerControl

from mambaxray import load_recipe, run_recipe
from mambaxray.data.schema import ABSENT
from mambaxray.evaluation.clinical import precision_recall_f1
from mambaxray.evaluation.labeler import CheXpertStyleLabeler
from mambaxray.evaluation.metric_table import MetricTable
from mambaxray.evaluation.report_files import read_reports
from mambaxray.evaluation.statistics import paired_differences
from mambaxray.train.alignment_guard import AlignmentGuard
from mambaxray.train.alignment_result import GUARD, alignment_rows, read_alignment
from mambaxray.train.recipe import make_recipe
from mambaxray.train.recipe_align import AlignRecipe
from mambaxray.train.run_result import RunResult
from mambaxray.train.stage_parts import load_splits

LOCATED, LABEL = "located_F1_micro_14_uncertain-negative", "F1_micro_14_uncertain-negative"
GOAL = 0.03
DENIALS = ("denials per report", "those that the reference makes", "denial precision", "denial recall", "denial F1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model to start from")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--recipe", default="align_phantoms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--likelihood", action="store_true", help="train by likelihood instead")
    parser.add_argument("overrides", nargs="*", help="overrides of the recipe, KEY=VALUE")
    options = parser.parse_args()
    print(f"machine: {processor_name()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    way = "by likelihood: " if options.likelihood else ""
    print(f"recipe: {way}{options.recipe} {' '.join(options.overrides)}".rstrip())
    results = {}
    for seed in options.seeds:
        folder = options.output / f"seed{seed}"
        recipe = load_recipe(
            options.recipe,
            [f"model.checkpoint={options.model}", f"seed={seed}", "training.report_to=[]", *options.overrides],
        )
        started = time.process_time()
        result = (run_by_likelihood if options.likelihood else run_recipe)(recipe, folder)
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
        for row in denial_rows(folder):
            print(f"| {' | '.join(row)} |")
    summary(results)


def run_by_likelihood(recipe: AlignRecipe, folder: Path) -> RunResult:
    """The recipe's model after supervised training on its studies, with the guard's numbers as `run_recipe` leaves
    them: as many steps, as many studies in each, the same learning rate and schedule."""
    studies = recipe.training["per_device_train_batch_size"] // recipe.num_samples
    supervised = make_recipe(
        {
            "stage": "finetune",
            "description": "what align is compared with",
            "seed": recipe.seed,
            "data": recipe.data.model_dump(),
            "model": {"checkpoint": recipe.model.checkpoint, "freeze": recipe.model.freeze},
            "training": recipe.training | {"per_device_train_batch_size": studies},
        }
    )
    result = run_recipe(supervised, folder)
    if not (folder / GUARD / "alignment.json").is_file():
        start, end = (
            AutoModelForImageTextToText.from_pretrained(name).eval()
            for name in (recipe.model.checkpoint, folder / "model")
        )
        processor = AutoProcessor.from_pretrained(recipe.model.checkpoint)
        _, validation = load_splits(recipe.data)
        guard = AlignmentGuard(recipe, start, processor, validation, folder / GUARD, 16)
        guard.before(start)
        guard.on_train_end(None, None, TrainerControl(), model=end)
    return result


def denial_rows(folder: Path) -> list[tuple[str, str, str, str]]:
    """How many findings the reports deny, and whether the references do, as rows of the guard's table."""
    before, after = (read_reports(folder / GUARD / f"{name}.jsonl") for name in ("before", "after"))
    tables = [denial_table([(each.report, each.reference) for each in reports]) for reports in (after, before)]
    intervals = paired_differences([tables[0]], [tables[1]], np.arange(len(after)))
    scores = [table.scores() for table in tables]
    return [
        (
            name,
            f"{scores[1][name]:.4f}",
            f"{scores[0][name]:.4f}",
            "{:+.4f} ({:+.4f} to {:+.4f})".format(scores[0][name] - scores[1][name], *intervals[name]),
        )
        for name in DENIALS
    ]


def denial_table(pairs: list[tuple[str, str]]) -> MetricTable:
    """`DENIALS` of reports and their references, over all studies; the references' number of denials is that of their
    own reports."""
    labeler = CheXpertStyleLabeler()

    def denied(text: str) -> set[str]:
        return {name for name, value in labeler(text).items() if value == ABSENT and name != "No Finding"}

    found = [(denied(report), denied(reference)) for report, reference in pairs]
    counts = np.array([(len(a & b), len(a), len(b), 1) for a, b in found], dtype=np.float64)
    return MetricTable(DENIALS, counts, _denial_scores)


def _denial_scores(sums: np.ndarray) -> np.ndarray:
    hits, stated, true, studies = np.moveaxis(sums, -1, 0)
    return np.stack(
        [stated / studies, hits / studies, *(each for _, each in precision_recall_f1(hits, stated, true))], axis=-1
    )


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
