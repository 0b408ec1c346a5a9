"""How fast phantoms are drawn: images per second on one core, drawing alone and with report and PNG.

OMP_NUM_THREADS=1 python benchmarks/bench_phantom.py [--size 224] [--images 60] [--rounds 7] [--seed 0]
"""

import argparse
import os
import platform
import time
from collections.abc import Callable

from mambaxray.data.phantoms import VIEWS, draw_phantom, encode_study, make_study


def rate(work: Callable[[int], object], seeds: range, rounds: int) -> tuple[float, float]:
    """Images per second, median and best of the rounds (other processes only ever slow one down)."""
    work(seeds.start)
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        for seed in seeds:
            work(seed)
        rates.append(len(seeds) / (time.perf_counter() - start))
    return sorted(rates)[len(rates) // 2], max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="image size in pixels (default 224)")
    parser.add_argument("--images", type=int, default=60, help="images per round (default 60)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (default 0)")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.images)
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}; {options.size} px, seeds {seeds.start}..{seeds.stop - 1}, "
        f"{options.rounds} rounds, one process"
    )
    print(f"{'view':8} {'what':42} {'median':>8} {'best':>8}  images/s")
    for view in VIEWS:
        tasks: dict[str, Callable[[int], object]] = {
            "a normal chest, drawn": lambda s, v=view: draw_phantom([], seed=s, view=v, image_size=options.size),
            "a random study: findings, image, report, PNG": lambda s, v=view: encode_study(
                make_study(s, image_size=options.size, views=(v,))
            ),
        }
        for name, work in tasks.items():
            median, best = rate(work, seeds, options.rounds)
            print(f"{view:8} {name:42} {median:8.1f} {best:8.1f}")


if __name__ == "__main__":
    main()
