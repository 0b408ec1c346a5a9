"""Speed of the report labeler and, given annotated reports, its agreement with the annotators.

    python benchmarks/bench_labeler.py
    python benchmarks/bench_labeler.py --reference ../shared/data/iu_reports/mesh_labels_dev.jsonl

Speed is measured on one core, on the annotated reports or, without any, on phantoms' reports. Each line of the
annotated file is JSON with `findings`, `impression` and `labels` (`{observation: true or false}`).
"""

import argparse
import json
import os
import platform
import random
import time
from pathlib import Path

from measure import processor_name

from mambaxray.data.phantoms import make_study
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.clinical import label_scores
from mambaxray.evaluation.labeler import CheXpertStyleLabeler, _read_sentence

ROUNDS = 5
PHANTOMS = 500
SPLIT_SEED = 7
"""Shuffles annotated reports before they are halved. docs/evaluation.md says in which half errors were looked at."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="annotated reports, JSON lines")
    reference = parser.parse_args().reference

    print(f"machine: {processor_name()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    if reference is None:
        texts = [make_study(seed, image_size=32)["report"] for seed in range(PHANTOMS)]
        print(f"reports: phantoms with seeds 0 to {PHANTOMS - 1}")
        print_speed(texts)
        return
    reports = [json.loads(line) for line in reference.read_text(encoding="utf-8").splitlines()]
    print(f"reports: {reference.name}, findings and impression")
    print_speed([_text(report) for report in reports])
    print_agreement(reports)


def print_speed(texts: list[str]) -> None:
    """Reports per second of processor time, the median of some rounds."""
    labeler = CheXpertStyleLabeler()
    rates = []
    for _ in range(ROUNDS):
        _read_sentence.cache_clear()
        start = time.process_time()
        labeler.batch(texts)
        rates.append(len(texts) / (time.process_time() - start))
    rates.sort()
    characters = sum(map(len, texts)) / len(texts)
    print(f"{len(texts)} reports of {characters:.0f} characters on average, {ROUNDS} rounds, one core")
    print(f"{rates[ROUNDS // 2]:.0f} reports/s (from {rates[0]:.0f} to {rates[-1]:.0f})\n")


def print_agreement(reports: list[dict]) -> None:
    """Presence against the annotations, uncertain as negative, over all reports and over each half."""
    random.Random(SPLIT_SEED).shuffle(reports)
    half = len(reports) // 2
    everything, first, second = (_scores(part) for part in (reports, reports[:half], reports[half:]))
    print(f"halves: shuffled with seed {SPLIT_SEED}, {half} looked at and {len(reports) - half} only scored\n")
    print("| observation | support | precision | recall | F1 | F1, half looked at | F1, half only scored |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name in OBSERVATIONS:
        if name not in reports[0]["labels"]:
            continue
        key = f"{name}_uncertain-negative"
        rows.append([everything[f"{measure}_{key}"] for measure in ("precision", "recall", "F1")])
        rows[-1] += [first[f"F1_{key}"], second[f"F1_{key}"]]
        print(f"| {name} | {everything[f'support_{key}']} | {' | '.join(f'{value:.3f}' for value in rows[-1])} |")
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    print(f"| mean | | {' | '.join(f'{value:.3f}' for value in means)} |")


def _scores(reports: list[dict]) -> dict[str, float]:
    annotated = [dict.fromkeys(OBSERVATIONS) | {k: int(v) for k, v in report["labels"].items()} for report in reports]
    return label_scores(annotated, CheXpertStyleLabeler().batch(map(_text, reports)))


def _text(report: dict) -> str:
    return f"{report['findings']} {report['impression']}"


if __name__ == "__main__":
    main()
