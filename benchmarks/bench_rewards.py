"""Speed of the rewards that are read from the text, on one core.

    python benchmarks/bench_rewards.py

As in training: reports that differ, several for each reference, in batches. Every round reads everything anew. Reports
are those of phantoms; each group's are of other phantoms than its reference.
"""

import os
import platform
import time

from measure import processor_name

from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.labeler import _read_sentence
from mambaxray.train.rewards import MODEL_REWARDS, REWARDS, RewardContext, make_rewards

ROUNDS, STUDIES, GROUP, BATCH = 5, 100, 8, 64


def main() -> None:
    print(f"machine: {processor_name()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    texts = [make_study(seed, image_size=32)["report"] for seed in range(STUDIES * (GROUP + 1))]
    references = [text for text in texts[:STUDIES] for _ in range(GROUP)]
    reports = texts[STUDIES:]
    print(f"{len(reports)} phantom reports, {GROUP} per reference, batches of {BATCH}, {ROUNDS} rounds, one core\n")
    print("| reward | reports/s, median | lowest | highest |")
    print("|---|---|---|---|")
    by_rule = [name for name in REWARDS if name not in MODEL_REWARDS]
    for names in (*([name] for name in by_rule), by_rule):
        rates = sorted(rate(names, reports, references) for _ in range(ROUNDS))
        title = names[0] if len(names) == 1 else "all of them together"
        print(f"| {title} | {rates[ROUNDS // 2]:,.0f} | {rates[0]:,.0f} | {rates[-1]:,.0f} |")


def rate(names: list[str], reports: list[str], references: list[str]) -> float:
    """Reports per second of processor time."""
    _read_sentence.cache_clear()
    rewards = make_rewards(names, RewardContext(references=references[::GROUP]))
    start = time.process_time()
    for begin in range(0, len(reports), BATCH):
        part = slice(begin, begin + BATCH)
        for reward in rewards:
            reward(completions=reports[part], report=references[part])
    return len(reports) / (time.process_time() - start)


if __name__ == "__main__":
    main()
