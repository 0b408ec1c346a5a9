"""Time of the selective scan per backend, and its ratio to the first backend named.

    python benchmarks/bench_scan.py
    python benchmarks/bench_scan.py --backends torch native --sizes 4x32x65x128x8 --repeats 21

A size is directions x batch x length x channels x state. The backends take turns in every round, so that a change in
the machine's load meets them all. On one thread the processor's time is taken, which other programs hardly change; on
more, the wall's clock, which is to be trusted on an idle machine only.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mambaxray.modeling_mambaxray.ops.selective_scan import BACKENDS, selective_scan

SIZES = ["1x8x145x768x16", "4x32x65x128x8", "4x16x65x96x4", "4x8x145x768x16"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["torch", "native"], choices=list(BACKENDS))
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="directions x batch x length x channels x state")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    print(f"machine: {_processor()}, {os.cpu_count()} cores")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, float32, seed {args.seed}")
    print(f"medians of {args.repeats} interleaved runs in ms (times faster than {args.backends[0]})")
    print("| threads | size | pass |", " | ".join(args.backends), "|")
    print("|---" * (3 + len(args.backends)) + "|")
    for threads in args.threads:
        torch.set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter
        for size in args.sizes:
            inputs = make_inputs(*(int(part) for part in size.split("x")), seed=args.seed)
            for name, run in (("forward", forward), ("forward + backward", forward_and_backward)):
                medians = measure(run, inputs, args.backends, args.repeats, clock)
                row = " | ".join(f"{median:8.2f} ({medians[0] / median:.2f}x)" for median in medians)
                print(f"| {threads} | {size} | {name} | {row} |", flush=True)


def make_inputs(directions: int, batch: int, length: int, channels: int, state: int, *, seed: int) -> list[Tensor]:
    """Inputs of `selective_scan` with steps and decays as at the start of a training."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    decay = -torch.arange(1.0, state + 1).expand(directions, channels, state).clone()
    inputs = [
        normal(directions, batch, length, channels),
        normal(directions, batch, length, channels),
        decay,
        normal(directions, batch, length, state),
        normal(directions, batch, length, state),
        torch.ones(directions, channels),
        normal(directions, channels) - 4,
    ]
    return [x.requires_grad_() for x in inputs]


def forward(inputs: list[Tensor]) -> None:
    with torch.no_grad():
        selective_scan(*inputs)


def forward_and_backward(inputs: list[Tensor]) -> None:
    y = selective_scan(*inputs)
    torch.autograd.grad(y, inputs, torch.ones_like(y))


def measure(
    run: Callable[[list[Tensor]], None],
    inputs: list[Tensor],
    backends: list[str],
    repeats: int,
    clock: Callable[[], float],
) -> list[float]:
    """Median milliseconds of each backend, after one round that is not counted."""
    times: list[list[float]] = [[] for _ in backends]
    for _ in range(repeats + 1):
        for backend, taken in zip(backends, times, strict=True):
            os.environ["MAMBAXRAY_SCAN"] = backend
            start = clock()
            run(inputs)
            taken.append(1000 * (clock() - start))
    return [statistics.median(taken[1:]) for taken in times]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
