"""Stage 1 on real X-rays: AUROC of observations on a test split of NIH ChestX-ray8, with intervals.

python benchmarks/bench_classify_nih.py --data FOLDER [--output runs/classify-nih] [--seeds 0 1 2] [--recipe RECIPE]

FOLDER holds an `annotation.json` in R2Gen's format whose studies have `labels`, a list of NIH's findings, and a
`patient_id`. A tiny encoder with disease queries learns from them, from random weights and after the same stage on
phantoms. It shows that the stage runs and learns on real pixels, not how well a model of the papers' size does. It goes
on where it was interrupted.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.classification import auroc
from mambaxray.train.recipe import load_recipe
from mambaxray.train.run import run_recipe

LEAST_POSITIVES = 20
# CheXpert's observations by NIH's findings. Emphysema, Fibrosis and Hernia have none; "Enlarged Cardiomediastinum",
# "Fracture" and "Support Devices" are not labelled by NIH, so they are left out.
_FINDINGS = {
    "Cardiomegaly": {"Cardiomegaly"},
    "Edema": {"Edema"},
    "Consolidation": {"Consolidation"},
    "Pneumonia": {"Pneumonia"},
    "Atelectasis": {"Atelectasis"},
    "Pneumothorax": {"Pneumothorax"},
    "Pleural Effusion": {"Effusion"},
    "Lung Lesion": {"Mass", "Nodule"},
    "Pleural Other": {"Pleural_Thickening"},
    "No Finding": {"No Finding"},
    # The parent of these in CheXpert's hierarchy (Irvin et al., AAAI 2019, figure 1).
    "Lung Opacity": {"Infiltration", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Mass", "Nodule"},
}
_QUIET = [
    *('training.eval_strategy="no"', "training.save_steps=1000"),
    *("training.report_to=[]", "training.disable_tqdm=true"),
]


def chexpert_labels(findings: Sequence[str]) -> dict[str, int | None]:
    """CheXpert's labels of an image with these of NIH's findings; None where NIH has no such finding."""
    return {name: int(bool(_FINDINGS[name] & set(findings))) if name in _FINDINGS else None for name in OBSERVATIONS}


def auroc_of_the_view(data: Path) -> float:
    """What the view alone (AP or PA) tells of "No Finding" in the test split, in the direction of the training split: a
    model that has learned only the view scores as much."""
    annotation = json.loads((data / "annotation.json").read_text(encoding="utf-8"))
    train, test = (
        auroc([study["view"] == "AP" for study in studies], ["No Finding" in study["labels"] for study in studies])
        for studies in (annotation["train"], annotation["test"])
    )
    return test if train >= 0.5 else 1 - test


def write_table(data: Path, file: Path) -> dict[str, dict[str, int]]:
    """The annotation as a table with labels; returns how many positive studies each observation has in each split."""
    file.parent.mkdir(parents=True, exist_ok=True)
    annotation = json.loads((data / "annotation.json").read_text(encoding="utf-8"))
    rows, counts = [], {}
    for split, studies in annotation.items():
        labels = [chexpert_labels(study["labels"]) for study in studies]
        counts[split] = {name: sum(each[name] == 1 for each in labels) for name in OBSERVATIONS}
        rows += [
            {
                "study_id": study["id"],
                "patient_id": study["patient_id"],
                "split": split,
                "image": [str((data / path).resolve()) for path in study["image_path"]],
                "report": study["report"],
                "labels": each,
            }
            for study, each in zip(studies, labels, strict=True)
        ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return counts


def train(name: str, folder: Path, seed: int, steps: int, *overrides: str) -> dict[str, Any]:
    """One run; its scores and the processor time that it took, which is kept in the folder."""
    started = time.process_time()
    given = [f"seed={seed}", f"training.max_steps={steps}", *_QUIET, *overrides]
    run_recipe(load_recipe(name, given), folder)
    file = folder / "processor_seconds.json"
    if not file.is_file():
        file.write_text(json.dumps(time.process_time() - started))
    scores = json.loads((folder / "classification.json").read_text())["splits"]["test"]
    return scores | {"processor_seconds": json.loads(file.read_text())}


def print_table(start: str, scores: Mapping[int, Mapping[str, Any]], names: Sequence[str]) -> None:
    print(f"\n### {start}\n")
    seeds = list(scores)
    first = scores[seeds[0]]
    print(f"| observation | positive / negative | {' | '.join(f'AUROC, seed {seed}' for seed in seeds)} |")
    print("|---|---|" + "---|" * len(seeds))
    for name in names:
        each = [scores[seed]["observations"][name] for seed in seeds]
        cells = [
            f"{one['auroc']:.3f} ({one['auroc_interval'][0]:.3f} to {one['auroc_interval'][1]:.3f})" for one in each
        ]
        print(f"| {name} | {each[0]['positives']} / {each[0]['negatives']} | {' | '.join(cells)} |")
    minutes = ", ".join(f"{scores[seed]['processor_seconds'] / 60:.1f}" for seed in seeds)
    print(f"\n{first['studies']} test studies of {first['patients']} patients. Processor minutes by seed: {minutes}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with annotation.json")
    parser.add_argument("--output", type=Path, default=Path("runs/classify-nih"), help="folder of all runs")
    parser.add_argument(
        "--recipe",
        default="ammrg_stage1_phantoms",
        choices=["ammrg_stage1_phantoms", "disease_aware_stage1_phantoms"],
        help="tiny model, see mambaxray recipes",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150, help="of training on the X-rays")
    parser.add_argument(
        "--phantom-steps", type=int, default=150, help="of the same on phantoms before; 0: only random weights"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = write_table(options.data, options.output / "nih.jsonl")
    names = [name for name in OBSERVATIONS if sum(split[name] for split in counts.values()) >= LEAST_POSITIVES]
    real = [
        f"data={{source: {options.output / 'nih.jsonl'}}}",
        "labels={blank: ignore, positive_weights: balanced}",
    ]
    scratch, after = {}, {}
    for seed in options.seeds:
        folder = options.output / f"seed-{seed}"
        scratch[seed] = train(options.recipe, folder / "from-scratch", seed, options.steps, *real)
        if options.phantom_steps:
            phantoms = folder / "phantoms"
            train(options.recipe, phantoms, seed, options.phantom_steps, "data.options.num_studies=1000")
            model = f"model={{checkpoint: {phantoms / 'model'}}}"
            after[seed] = train(options.recipe, folder / "after-phantoms", seed, options.steps, *real, model)
    print(f"# {options.recipe} on real X-rays\n")
    print(
        "NIH ChestX-ray8 (Wang et al., CVPR 2017), 870 frontal images of 600 patients, split by patient; labels as NIH "
        "mined them from reports. The tiny model of the recipe, at 64 px, with 14 disease queries, without "
        f"pre-trained weights; {options.steps} steps of 32 studies. In brackets: 95 % bootstrap intervals. "
        f"Observations with at least {LEAST_POSITIVES} positive studies in the whole set. For comparison: the view "
        f"alone (AP or PA) tells No Finding with an AUROC of {auroc_of_the_view(options.data):.3f}."
    )
    print(f"\n{platform.platform()}, {os.cpu_count()} cores, 1 thread, torch {torch.__version__}")
    print_table("From random weights", scratch, names)
    if after:
        print_table(f"After {options.phantom_steps} steps of the same stage on 800 phantoms", after, names)


if __name__ == "__main__":
    main()
