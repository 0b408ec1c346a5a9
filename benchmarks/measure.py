"""What the benchmarks share: time, memory, and what the numbers depend on."""

import argparse
import ctypes
import datetime
import gc
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.utils.import_utils import is_mambapy_available


def timed(work: Callable[[], object], device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a call takes."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = clock()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - start


def timed_in_turns(
    works: dict[str, Callable[[], object]], rounds: int, device: str = "cpu", seconds_each: float = 0.2
) -> dict[str, list[float]]:
    """Seconds per call of each work in each round, after one call of each that does not count.

    In every round each has its turn, so that a change in the machine's load meets them all; within its turn, a short
    one is called again and again for `seconds_each`. On one CPU thread the processor's time is taken, which other
    programs change less; else the wall's clock.
    """
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    calls = dict.fromkeys(works, 1)
    for name, work in works.items():
        # The first call also compiles and allocates; when it is long, what it was like without that does not matter.
        if timed(work, device, clock) < 5 * seconds_each:
            calls[name] = min(1000, max(1, round(seconds_each / max(timed(work, device, clock), 1e-6))))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            total = timed(lambda work=work, count=calls[name]: [work() for _ in range(count)], device, clock)
            seconds[name].append(total / calls[name])
    return seconds


def times_faster(slow: list[float], fast: list[float]) -> float:
    """Median over the rounds of how many times longer `slow` took than `fast` in the same round."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def peak_memory(work: Callable[[], object], device: str = "cpu") -> float | None:
    """MiB in use at the peak of a call, or None where the system does not say.

    On the CPU it is the process's resident memory, which needs Linux; on CUDA what torch has allocated.
    """
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform != "linux":
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc: gives back what earlier calls have freed
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM
    work()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class OperatorCount(TorchDispatchMode):
    """Counts what is called in a `with` block: operators that compute something, and bytes that they read and write.

    Views and questions about tensors count nothing; an operator of this package counts as one, with its inputs and
    outputs. It works on any device, also with `FakeTensorMode`.

    Attributes:
        calls: by the operator's name.
        bytes: by the operator's name, inputs and outputs together.
        largest: by the operator's name, bytes of the largest output of any call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.largest: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts one call."""
        outputs = function(*args, **(kwargs or {}))
        namespace, name = str(function).split(".")[:2]
        if function.is_view or namespace == "prim" or name.startswith(("empty", "new_empty", "_unsafe_view")):
            return outputs
        written = [x.nbytes for x in tree_leaves(outputs) if isinstance(x, torch.Tensor)]
        read = [x.nbytes for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        self.calls[name] += 1
        self.bytes[name] += sum(written) + sum(read)
        self.largest[name] = max(self.largest[name], *written, 0)
        return outputs

    def copies(self, least_bytes: int = 0) -> Counter[str]:
        """Calls of operators that only move what others computed, whose largest output has at least that many bytes."""
        return Counter({n: c for n, c in self.calls.items() if n in COPIES and self.largest[n] >= least_bytes})


COPIES = {
    "cat", "clone", "copy_", "stack", "_to_copy", "contiguous", "index", "index_select", "gather", "index_put",
    "_index_put_impl_", "index_add", "scatter_add", "take_in_orders", "constant_pad_nd", "slice_backward", "repeat",
}  # fmt: skip
"""Operators that move and arrange, and compute nothing."""


def processor_name() -> str:
    """The processor as the system calls it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def describe_machine(device: str = "cpu") -> dict[str, str | int | float]:
    """What the numbers depend on."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor_name(),
        "cores": os.cpu_count() or 0,
        "load": round(os.getloadavg()[0], 1),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def print_machine(device: str = "cpu") -> None:
    """Prints what the numbers depend on, in one line."""
    print(", ".join(f"{name} {value}" for name, value in describe_machine(device).items()))


def add_timing_options(parser: argparse.ArgumentParser, rounds: int, dtypes: tuple[str, ...]) -> None:
    """Adds what every benchmark of a module asks for: `--rounds`, `--threads`, `--device`, `--dtype` and `--seed`."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=1, help="torch's CPU threads (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--dtype", default="float32", choices=dtypes)
    parser.add_argument("--seed", type=int, default=0)


def leave_out_absent(rivals: list[str]) -> None:
    """Takes mambapy out of the rivals, and says so, where it is not installed."""
    if "mambapy" in rivals and not is_mambapy_available():
        print("mambapy is not installed and left out")
        rivals.remove("mambapy")
