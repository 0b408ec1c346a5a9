"""How fast the digests are by which unchanged weights are recognized: gigabytes per second.

python benchmarks/bench_digests.py
"""

import os
from statistics import median
from time import perf_counter

import torch

from mambaxray.modeling_mambaxray.hub.tensor_digests import tensor_digests

_REPEATS = 5


def main() -> None:
    torch.manual_seed(0)
    tensors = {f"layer.{i}": torch.randn(4096, 4096).bfloat16() for i in range(16)}
    gigabytes = sum(tensor.nbytes for tensor in tensors.values()) / 1e9
    for threads in sorted({1, os.cpu_count() or 1}):
        seconds = []
        for _ in range(_REPEATS):
            started = perf_counter()
            tensor_digests(tensors, threads)
            seconds.append(perf_counter() - started)
        rates = sorted(gigabytes / second for second in seconds)
        print(f"{threads} threads: {median(rates):.2f} GB/s ({rates[0]:.2f} to {rates[-1]:.2f}, {_REPEATS} repeats)")


if __name__ == "__main__":
    main()
