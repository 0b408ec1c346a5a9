"""Time and memory of the selective scan per backend, beside transformers' own path and mambapy.

    python benchmarks/bench_scan.py
    python benchmarks/bench_scan.py --scans torch native --sizes 4x32x65x128x8
    python benchmarks/bench_scan.py --device cuda --dtype bfloat16

A size is directions x batch x length x channels x state. All scans take turns in every round, and ratios are medians
over the rounds of the times in one round: so a change in the machine's load meets all of them. On one CPU thread the
processor's time is taken. transformers' path and mambapy (`pip install mambapy`) are called as transformers' Mamba does
without CUDA kernels, once per direction, on inputs laid out as it has them.

On one CPU thread in float32, times are also given as multiples of the machine's floor: the exponentials and fused
multiply-adds that the scan can't do without, each at the best rate that this machine reaches in a core's cache in the
same run. What the operations of the `torch` scan cost by themselves is printed, and the goals of the package are
checked at the end: multiples of the floor, and memory; with AVX-512, for which they were set, times faster than the
rivals besides. The exit code is 1 when one is missed.
"""

import argparse
import math
import sys
from collections.abc import Callable
from functools import partial

import torch
from measure import add_timing_options, leave_out_absent, peak_memory, print_machine, timed_in_turns, times_faster
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

from mambaxray import use_scan_backend
from mambaxray.modeling_mambaxray.ops.selective_scan import scan_problems, selective_scan

Scan = Callable[..., Tensor]

SIZES = ["1x8x145x768x16", "4x8x145x768x16", "1x2x1025x768x16", "1x1x4097x768x16"]
RIVALS = ("transformers", "mambapy")
FORWARD, BOTH = "forward", "forward + backward"
# How many times the floor a scan may take, on one thread.
FLOOR_GOALS = {("native", FORWARD): 1.5, ("native", BOTH): 2.0, ("torch", FORWARD): 2.5, ("torch", BOTH): 3.5}
# Exponentials and fused multiply-adds (or products) per step, channel and state. Forward: step A, v B, the recurrence,
# the sum under C. Backward: all of it again but that sum, the gradient of C, the adjoint, its decay, and the gradients
# of B, of v, of the exponent, of the step and of A.
OPERATIONS = {FORWARD: (1, 4), BOTH: (2, 4 + 3 + 8)}
# How many times faster than which rival, on one thread of a processor with AVX-512.
SPEED_GOALS = [
    ("1x8x145x768x16", FORWARD, "torch", "transformers", 10),
    ("1x2x1025x768x16", FORWARD, "torch", "transformers", 15),
    ("1x1x4097x768x16", FORWARD, "torch", "transformers", 15),
    ("1x8x145x768x16", BOTH, "torch", "mambapy", 25),
    ("1x1x4097x768x16", BOTH, "torch", "mambapy", 50),
    ("1x8x145x768x16", FORWARD, "native", "transformers", 30),
    ("1x8x145x768x16", BOTH, "native", "mambapy", 70),
]
# MiB beside the inputs: a multiple of the output, and a constant.
MEMORY_GOALS = {FORWARD: (1, 16), BOTH: (5, 24)}


def main() -> None:
    available = [name for name, problem in scan_problems().items() if not problem and name != "reference"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", nargs="+", default=[*available, *RIVALS], choices=[*available, "reference", *RIVALS])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="directions x batch x length x channels x state")
    parser.add_argument("--passes", nargs="+", default=[FORWARD, BOTH], choices=[FORWARD, BOTH])
    add_timing_options(parser, rounds=5, dtypes=("float32", "bfloat16", "float16"))
    parser.add_argument("--all-rivals", action="store_true", help="time transformers' backward pass too, which is slow")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    leave_out_absent(options.scans)

    print_machine(options.device)
    print(f"{options.dtype}, threads {options.threads}, {options.rounds} rounds, seed {options.seed}\n")
    print(
        "| size | pass | scan | ms, least | median | times faster than",
        " | ".join(RIVALS),
        "| times the floor | MiB beside the inputs |",
    )
    print("|---" * (7 + len(RIVALS)) + "|")
    goals = []
    on_one_thread = options.device == "cpu" and options.threads == 1 and options.dtype == "float32"
    for size in options.sizes:
        for name in options.passes:
            floor = floor_seconds(size, name) if on_one_thread else None
            goals += measure(size, name, options, floor)
    if on_one_thread:
        print("\nns per state and channel of the operations of `torch`, forward:", operation_costs())
        print("\n| goal | reached | met |\n|---|---|---|")
        for text, reached, met in goals:
            print(f"| {text} | {reached} | {'yes' if met else 'NO'} |")
        sys.exit(not all(met for *_, met in goals))


def measure(size: str, name: str, options: argparse.Namespace, floor: float | None) -> list[tuple[str, str, bool]]:
    """Prints the rows of one size and pass; gives each goal with what was reached and whether that is enough."""
    dtype = getattr(torch, options.dtype)
    inputs = make_inputs(*parse(size), options.device, dtype, options.seed)
    run = forward if name == FORWARD else forward_and_backward
    # transformers' backward pass is quadratic in the length: seconds where the others take milliseconds.
    left_out = {"transformers"} if name == BOTH and not options.all_rivals else set()
    works = {scan: partial(run, scan, inputs) for scan in options.scans if scan not in left_out}
    seconds = timed_in_turns(works, options.rounds, options.device)
    output_size = inputs[0].nbytes / 2**20
    goals = []
    for scan, work in works.items():
        ratios = {rival: times_faster(seconds[rival], seconds[scan]) for rival in RIVALS if rival in seconds}
        before, peak = peak_memory(lambda: None, options.device), peak_memory(work, options.device)
        memory = None if before is None or peak is None else peak - before
        milliseconds = sorted(1000 * s for s in seconds[scan])
        cells = [f"{milliseconds[0]:.2f}", f"{milliseconds[len(milliseconds) // 2]:.2f}"]
        cells += [f"{ratios[rival]:.1f}" if rival in ratios else "-" for rival in RIVALS]
        cells.append("-" if floor is None else f"{min(seconds[scan]) / floor:.2f}")
        cells.append("-" if memory is None else f"{memory:.0f} ({memory / output_size:.1f} outputs)")
        print(f"| {size} | {name} | {scan} |", " | ".join(cells), "|", flush=True)
        if floor is not None and (most := FLOOR_GOALS.get((scan, name))) is not None:
            times = min(seconds[scan]) / floor
            goals.append((f"{scan}, {name}, {size}: at most {most}x the floor", f"{times:.2f}x", times <= most))
        for goal_size, goal_name, goal_scan, rival, least in SPEED_GOALS if has_avx512() else ():
            if (goal_size, goal_name, goal_scan) == (size, name, scan) and rival in ratios:
                text = f"{scan}, {name}, {size}: {least}x {rival}"
                goals.append((text, f"{ratios[rival]:.1f}x", ratios[rival] >= least))
        if memory is not None and scan not in RIVALS:
            outputs, more = MEMORY_GOALS[name]
            most = outputs * output_size + more
            text = f"{scan}, {name}, {size}: at most {outputs} x output + {more} MiB = {most:.0f} MiB"
            goals.append((text, f"{memory:.0f} MiB", memory <= most))
    return goals


def floor_seconds(size: str, name: str) -> float:
    """Least time of a scan's exponentials and multiply-adds on one thread of this machine; also printed."""
    exponential, multiply_add = machine_rates()
    exponentials, multiply_adds = OPERATIONS[name]
    seconds = math.prod(parse(size)) * (exponentials * exponential + multiply_adds * multiply_add)
    rates = f"{1e9 * exponential:.3f} ns an exponential, {1e9 * multiply_add:.4f} a multiply-add"
    print(f"| {size} | {name} | floor: {rates} | {1000 * seconds:.2f} | |" + " |" * len(RIVALS) + " 1 | |")
    return seconds


def machine_rates() -> tuple[float, float]:
    """Seconds of an exponential and of a fused multiply-add, one thread, at the best rate of this machine now."""
    x, out = torch.linspace(-20, 0, 4096), torch.empty(4096)
    a = torch.rand(512, 512)
    works: dict[str, Callable[[], object]] = {
        "exp2": lambda: torch.exp2(x, out=out),
        "product": lambda: a @ a,
    }
    if not scan_problems()["native"]:
        works["compiled exp2"] = partial(compiled_exponentials(), x.numpy(), out.numpy())
    seconds = {work: min(times) for work, times in timed_in_turns(works, 5).items()}
    product = seconds.pop("product") / 512**3
    # The compiled one is called for many rows at once, since a call takes about as long as a row.
    per_row = [seconds["exp2"]] + [seconds[n] / ROWS for n in seconds if n == "compiled exp2"]
    return min(per_row) / x.numel(), product


ROWS = 64


def compiled_exponentials() -> Callable[..., None]:
    """A compiled loop over the exponential of the `native` scan: `ROWS` times the same row, which lies in a cache."""
    from numba import njit

    from mambaxray.modeling_mambaxray.ops.compiled_vectors import LANES, OPTIONS, load, store
    from mambaxray.modeling_mambaxray.ops.selective_scan_kernels import exp2

    rows = ROWS

    @njit(**OPTIONS)
    def run(x, out):
        for _ in range(rows):
            for i in range(0, x.shape[0], LANES):
                store(out, i, exp2(load(x, i)))

    return run


def has_avx512() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def parse(size: str) -> tuple[int, ...]:
    """Directions, batch, length, channels and state."""
    return tuple(int(part) for part in size.split("x"))


def operation_costs() -> str:
    """Nanoseconds per state and channel of each operation of the `torch` scan's forward pass, in a core's cache."""
    steps, samples, state, channels = 8, 4, 16, 768
    decays, states = (torch.rand(steps, samples, state, channels) for _ in range(2))
    step, rate, weights = torch.rand(steps, samples, 1, channels), torch.rand(state, channels), torch.rand(32, 1, state)
    first = torch.rand(samples, state, channels)

    def recurrence() -> None:
        h = first
        for decay_t, state_t in zip(decays, states, strict=True):
            h = state_t.addcmul_(decay_t, h)

    works = {
        "product": lambda: torch.mul(step, rate, out=decays),
        "exp": lambda: torch.exp(decays, out=states),
        "recurrence": recurrence,
        "sum over the state": lambda: torch.bmm(weights, states.view(32, state, channels)),
    }
    seconds = timed_in_turns(works, rounds=5)
    costs = {name: 1e9 * min(values) / decays.numel() for name, values in seconds.items()}
    total = costs["product"] + sum(costs.values())  # there are two products
    return ", ".join(f"{name} {cost:.2f}" for name, cost in costs.items()) + f"; with a second product {total:.2f}"


def make_inputs(
    directions: int,
    batch: int,
    length: int,
    channels: int,
    state: int,
    device: str,
    dtype: torch.dtype,
    seed: int,
) -> list[Tensor]:
    """Inputs of `selective_scan` with steps and decays as at the start of a training."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    decay = -torch.arange(1.0, state + 1).expand(directions, channels, state).clone()
    u, delta = (normal(directions, batch, length, channels).to(dtype) for _ in range(2))
    B, C = (normal(directions, batch, length, state).to(dtype) for _ in range(2))
    inputs = [u, delta, decay, B, C, torch.ones(directions, channels), normal(directions, channels) - 4]
    return [x.to(device).requires_grad_() for x in inputs]


def scan_like_transformers(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, use_mambapy: bool
) -> Tensor:
    """The scan in transformers' Mamba, for each direction."""
    outputs = [
        mamba_selective_scan(
            u_k.transpose(1, 2),
            delta_k.transpose(1, 2),
            A_k,
            B_k.transpose(1, 2),
            C_k.transpose(1, 2),
            D=D_k,
            delta_bias=bias_k,
            delta_softplus=True,
            use_mambapy=use_mambapy,
        ).transpose(1, 2)
        for u_k, delta_k, A_k, B_k, C_k, D_k, bias_k in zip(u, delta, A, B, C, D, delta_bias, strict=True)
    ]
    return torch.stack(outputs)


def scan(name: str, inputs: list[Tensor]) -> Tensor:
    """The output of one scan by name."""
    if name in RIVALS:
        return scan_like_transformers(*inputs, use_mambapy=name == "mambapy")
    with use_scan_backend(name):
        return selective_scan(*inputs)


def forward(name: str, inputs: list[Tensor]) -> None:
    with torch.no_grad():
        scan(name, inputs)


def forward_and_backward(name: str, inputs: list[Tensor]) -> None:
    y = scan(name, inputs)
    torch.autograd.grad(y, inputs, torch.ones_like(y))


if __name__ == "__main__":
    main()
