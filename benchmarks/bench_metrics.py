"""Time of every metric on as many pairs as MIMIC-CXR's test set has studies of, beside pycocoevalcap's in one run.

    python benchmarks/bench_metrics.py
    python benchmarks/bench_metrics.py --reports path/to/annotation.json --meteor

Reports are drawn at random from R2Gen's annotation file, or are phantoms' reports. Seconds of processor time, one core.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.caption_metrics import bleu_tables, cider_tables, rouge_l_table
from mambaxray.evaluation.comparison import compare_reports
from mambaxray.evaluation.meteor import meteor_tables
from mambaxray.evaluation.ngram_counts import NgramCounts
from mambaxray.evaluation.scoring import evaluate_reports
from mambaxray.evaluation.statistics import bootstrap_intervals

PAIRS = 11_562
WITHOUT_METEOR = ["BLEU", "ROUGE_L", "CIDEr", "clinical"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, help="annotation.json with the reports to draw from")
    parser.add_argument("--meteor", action="store_true", help="time METEOR too (minutes; needs Java)")
    arguments = parser.parse_args()
    pool = _pool(arguments.reports)
    generator = random.Random(0)
    references, hypotheses, others = ([generator.choice(pool) for _ in range(PAIRS)] for _ in range(3))
    words = sum(len(text.split()) for text in references) / PAIRS
    print(f"{PAIRS} pairs of {len(pool)} different reports, {words:.0f} words on average, {os.cpu_count()} cores\n")

    gts, res = ({number: [text] for number, text in enumerate(texts)} for texts in (references, hypotheses))
    counts, counting = timed(lambda: NgramCounts(references, [hypotheses]))
    print("| metric | pycocoevalcap | mambaxray | ratio |\n|---|---|---|---|")
    for name, theirs, ours in (
        ("BLEU-1 to 4", lambda: Bleu(4).compute_score(gts, res, verbose=0), lambda: bleu_tables(counts)),
        ("ROUGE-L", lambda: Rouge().compute_score(gts, res), lambda: [rouge_l_table(references, hypotheses)]),
        ("CIDEr", lambda: Cider().compute_score(gts, res), lambda: cider_tables(counts)),
    ):
        (score, _), slow = timed(theirs)
        (table,), fast = timed(ours)
        np.testing.assert_allclose([*table.scores().values()], score, atol=1e-9)
        fast += 0 if name == "ROUGE-L" else counting
        print(f"| {name} | {slow:.2f} s | {fast:.2f} s | {slow / fast:.0f} |", flush=True)
    print(f"(BLEU and CIDEr each with the {counting:.2f} s of counting n-grams, which they share)\n")

    tables = [*bleu_tables(counts), *cider_tables(counts)]
    _, seconds = timed(lambda: bootstrap_intervals(tables, np.arange(PAIRS)))
    print(f"1,000 resamples of BLEU and CIDEr: {seconds:.2f} s")
    training = generator.choices(pool, k=2 * PAIRS)
    run = lambda: evaluate_reports(references, hypotheses, metrics=WITHOUT_METEOR, training_reports=training)  # noqa: E731
    print(f"evaluate_reports without METEOR, with baselines and intervals: {timed(run)[1]:.1f} s")
    run = lambda: compare_reports(references, hypotheses, others, metrics=WITHOUT_METEOR)  # noqa: E731
    print(f"compare_reports without METEOR, all clinical scores: {timed(run)[1]:.1f} s")
    if arguments.meteor:
        start = time.perf_counter()
        meteor_tables(references, [hypotheses])
        print(f"METEOR: {time.perf_counter() - start:.0f} s of wall-clock")


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` returns, and its seconds of processor time."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def _pool(annotation: Path | None) -> list[str]:
    if annotation is None:
        return [make_study(seed, image_size=32)["report"] for seed in range(2000)]
    studies = json.loads(annotation.read_text(encoding="utf-8"))
    return sorted({study["report"] for split in studies.values() for study in split})


if __name__ == "__main__":
    main()
