"""All that a GPU has to show, in one run of less than 8 minutes, each part beside its goal.

    python benchmarks/gpu_all.py                              # writes benchmarks/results/gpu_<date>_<device>.md
    python benchmarks/gpu_all.py --device cpu --small         # the same on small sizes, to see that it runs
    python benchmarks/gpu_all.py --sections correctness scan

Goals are those of one H100. A section that fails says so in the report, and the others go on; one that would not fit in
the rest of `--seconds` is left out. The exit code is 1 when something failed or a goal was missed; in the small form,
which has no goals for speed, when something failed.

- correctness: output and every gradient of every scan that runs here, and of the whole block, against float64
- streams: memory that the streams of prompts and of steps use without waiting for each other, by PyTorch's sanitizer
- scan: time and memory, beside mamba-ssm in our layout and in its own, where it is installed
- encoder: MambaXray-VL's base encoder in bfloat16, batch 64, plain and compiled
- reports: a decoder of Llama-2-7B's shape with random weights, 3 beams, 100 tokens; the wall time of a step beside that
  of its kernels; prompts computed beside the steps of others, and between them; equality with plain `generate`, in
  float32 with a small decoder, and in bfloat16 with the large one
- quantised: the same decoder in 8 and 4 bit, by bitsandbytes and torchao, where they are installed
"""

import argparse
import datetime
import gc
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import bench_generate
import bench_scan
import torch
from measure import OperatorCount, describe_machine, peak_memory, timed, timed_in_turns
from torch import Tensor, nn

from mambaxray import VisionMambaConfig, VisionMambaModel, use_scan_backend
from mambaxray.modeling_mambaxray.generation import continuous_generation, step_graphs
from mambaxray.modeling_mambaxray.ops.scan_backends import LONG
from mambaxray.modeling_mambaxray.ops.selective_scan import scan_backend, scan_problems, selective_scan
from mambaxray.modeling_mambaxray.ops.selective_scan_reference import selective_scan_reference

RESULTS = Path(__file__).parent / "results"
TEST_SET = bench_generate.TEST_SET


@dataclass
class Sizes:
    """What is measured; the defaults are for a GPU with 80 GB."""

    correctness: tuple[str, ...] = (
        "4x2x145x768x16",
        "1x2x1025x200x16",
        "2x1x70x1024x8",
        "1x1x4097x64x16",
        "2x2x1x40x16",
    )
    scan: tuple[str, ...] = ("4x32x145x768x16", "4x128x145x768x16", "1x8x4097x768x16")
    encoder: dict[str, Any] = field(default_factory=dict)
    encoder_batch: int = 64
    decoder: str = "7b"
    studies: tuple[int, ...] = (128, 32)
    tokens: int = 100
    exact_studies: int = 24
    rounds: int = 3


SMALL = Sizes(
    correctness=("2x1x20x40x4", "1x1x1x5x16"),
    scan=("1x1x33x32x4",),
    encoder={"hidden_size": 32, "num_hidden_layers": 1, "image_size": 32, "state_size": 4},
    encoder_batch=2,
    decoder="tiny",
    studies=(4, 2),
    tokens=5,
    exact_studies=2,
    rounds=1,
)


@dataclass
class Goal:
    """What is wanted, what was reached, and whether that is enough (None where the small form does not ask)."""

    text: str
    reached: str
    met: bool | None


class Report:
    """The Markdown that is printed as it comes and written at the end."""

    def __init__(self, options: argparse.Namespace):
        self.device: str = options.device
        self.sizes = SMALL if options.small else Sizes()
        self.small: bool = options.small
        self.lines: list[str] = []
        self.goals: list[Goal] = []
        self.failures: list[str] = []

    def say(self, *lines: str) -> None:
        """Adds lines."""
        self.lines += lines
        print(*lines, sep="\n", flush=True)

    def table(self, *names: str) -> None:
        """Begins a table with these columns."""
        self.say("", f"| {' | '.join(names)} |", "|---" * len(names) + "|")

    def row(self, *cells: object) -> None:
        """Adds a row."""
        self.say(f"| {' | '.join(str(cell) for cell in cells)} |")

    def goal(
        self, text: str, reached: float, most: float, unit: str, *, least: bool = False, small: bool = False
    ) -> None:
        """Notes a goal: at most (at least) so much. Goals of speed don't count in the small form."""
        met = (reached >= most if least else reached <= most) if small or not self.small else None
        wanted = f"{text}: {'at least' if least else 'at most'} {most:g} {unit}".rstrip()
        self.goals.append(Goal(wanted, f"{reached:.3g}", met))


def on_gpu(report: Report) -> bool:
    return report.device.startswith("cuda")


def scans_here(report: Report) -> list[str]:
    """Scans that run on the device, the preferred one first; those in PyTorch last."""
    names = [name for name, problem in scan_problems().items() if not problem and name != "reference"]
    kind = torch.device(report.device).type
    found = []
    for name in names:
        with use_scan_backend(name):
            if scan_backend(kind) == name:
                found.append(name)
    return sorted(found, key=lambda name: ["triton", "native", "mamba_ssm", "torch"].index(name))


def correctness(report: Report) -> None:
    """Relative differences, by norm, from the float64 reference."""
    report.say(f"Scans that run here: {', '.join(scans_here(report))}.")
    for name, problem in scan_problems().items():
        if problem:
            report.say(f"- `{name}` is off: {problem}")
    report.table("scan", "size", "dtype", "output", "worst gradient", "of")
    worst = {torch.float32: 0.0, torch.bfloat16: 0.0}
    for size in report.sizes.correctness:
        for dtype in worst:
            inputs = bench_scan.make_inputs(*bench_scan.parse(size), report.device, dtype, 0)
            weights = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0])
            exact = [x.detach().double().requires_grad_() for x in inputs]
            expected = results(selective_scan_reference, exact, weights.double())
            for name in scans_here(report):
                with use_scan_backend(name):
                    actual = results(selective_scan, inputs, weights)
                errors = [relative(a, e) for a, e in zip(actual, expected, strict=True)]
                names = ("u", "delta", "A", "B", "C", "D", "bias")
                index = max(range(1, len(errors)), key=errors.__getitem__)
                kind = str(dtype).removeprefix("torch.")
                report.row(name, size, kind, f"{errors[0]:.1e}", f"{errors[index]:.1e}", names[index - 1])
                worst[dtype] = max(worst[dtype], *errors)
    report.goal("scan, float32, relative error of output and gradients", worst[torch.float32], 1e-5, "", small=True)
    report.goal("scan, bfloat16, the same", worst[torch.bfloat16], 2e-2, "", small=True)
    difference = block_difference(report)
    report.say(
        "", f"One block and its gradients, float32, against PyTorch in float64: {difference:.1e} (relative, worst)."
    )
    report.goal("a block of the encoder, float32, relative error", difference, 1e-4, "", small=True)


def results(scan: Callable[..., Tensor], inputs: list[Tensor], weights: Tensor) -> list[Tensor]:
    y = scan(*inputs)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), inputs)]


def relative(actual: Tensor, expected: Tensor) -> float:
    """Of the difference's norm to the expected one; the difference itself where zeros are expected."""
    difference, norm = (actual.double() - expected).norm(), expected.norm()
    return float(difference / norm) if norm else float(difference)


def block_difference(report: Report) -> float:
    torch.manual_seed(0)
    config = VisionMambaConfig(**{**report.sizes.encoder, "num_hidden_layers": 1})
    model = VisionMambaModel(config).to(report.device)
    images = torch.randn(2, 3, config.image_size, config.image_size, device=report.device)
    found = []
    for backend, dtype in ((scans_here(report)[0], torch.float32), ("torch", torch.float64)):
        model.to(dtype).zero_grad()
        with use_scan_backend(backend):
            output = model(images.to(dtype)).last_hidden_state
        (output * torch.linspace(-1, 1, output.shape[-1], device=output.device)).sum().backward()
        found.append([output.detach(), *(p.grad.clone() for p in model.parameters())])
    return max(relative(a, e) for a, e in zip(found[0], found[1], strict=True))


def streams(report: Report) -> None:
    """Looks for memory that the streams of prompts and of steps use without waiting for each other."""
    if not on_gpu(report):
        report.say("PyTorch's sanitizer of streams needs a GPU.")
        return
    call = f"import gpu_all; gpu_all.generate_on_two_streams({report.device!r})"
    done = subprocess.run(
        [sys.executable, "-c", call],
        cwd=Path(__file__).parent,
        env={**os.environ, "TORCH_CUDA_SANITIZER": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if done.returncode and "CUDASanitizerErrors" not in done.stderr:
        raise RuntimeError(f"generation under the sanitizer failed: {done.stderr.strip().splitlines()[-1]}")
    found = done.stderr.count("CSAN detected a possible data race")
    report.say(
        f"PyTorch's sanitizer of streams, prompts beside steps, no graphs: {found or 'no'} unordered uses of memory."
    )
    if found:
        report.say("```", *done.stderr.strip().splitlines()[-60:], "```")
    report.goal("uses of one memory by two streams that don't wait for each other", found, 0, "", small=True)


def generate_on_two_streams(device: str) -> None:
    """Generates with a small decoder, more studies than at a time, every step launched kernel by kernel.

    Raises:
        RuntimeError: no prompt was computed on a second stream.
    """
    model = bench_generate.make_model("tiny", device, 0)
    if continuous_generation.side_stream_for(model) is None:
        raise RuntimeError(f"there is no second stream on {device}")
    studies = bench_generate.make_studies(model, 8, 0)
    # What a graph replays no sanitizer sees.
    with mock.patch.object(step_graphs, "_CALLS_BEFORE", sys.maxsize):
        for beams in (1, 3):
            bench_generate.ours(model, studies, 4, num_beams=beams, max_new_tokens=12)


def scan(report: Report) -> None:
    """Times of one scan."""
    report.table("size", "dtype", "scan", "forward, ms", "forward + backward, ms", "MiB kept and used")
    reached: dict[tuple[str, str, str], tuple[float, float]] = {}
    for size in report.sizes.scan:
        for dtype in (torch.bfloat16, torch.float32):
            inputs = bench_scan.make_inputs(*bench_scan.parse(size), report.device, dtype, 0)
            names = [name for name in scans_here(report) if name != "torch" or not on_gpu(report)]
            forward: dict[str, Callable[[], object]] = {n: partial(bench_scan.forward, n, inputs) for n in names}
            both: dict[str, Callable[[], object]] = {
                n: partial(bench_scan.forward_and_backward, n, inputs) for n in names
            }
            if on_gpu(report) and not scan_problems()["mamba_ssm"]:
                own = own_layout(inputs)
                forward["mamba-ssm, its own layout"] = partial(own, False)
                both["mamba-ssm, its own layout"] = partial(own, True)
            times = [timed_in_turns(works, report.sizes.rounds, report.device) for works in (forward, both)]
            kind = str(dtype).removeprefix("torch.")
            for name in forward:
                reached[size, kind, name] = f, b = tuple(1000 * statistics.median(t[name]) for t in times)
                report.row(size, kind, name, f"{f:.3f}", f"{b:.3f}", extra_memory(both[name], report))
    if (times := reached.get(("4x32x145x768x16", "bfloat16", "triton"))) is not None:
        report.goal("scan 4x32x145x768x16 bfloat16, forward", times[0], 0.20, "ms")
        report.goal("the same, forward + backward", times[1], 1.2, "ms")
        exact = reached["4x32x145x768x16", "float32", "triton"]
        report.goal("bfloat16 over float32, forward", times[0] / exact[0], 1.05, "times")
        long = reached["1x8x4097x768x16", "bfloat16", "triton"]
        rival = reached.get(("1x8x4097x768x16", "bfloat16", "mamba-ssm, its own layout"), (1.09, 5.0))
        report.goal("scan 1x8x4097x768x16 bfloat16, forward, over mamba-ssm's own", long[0] / rival[0], 1, "times")
        report.goal("the same, forward + backward", long[1] / rival[1], 1, "times")
        report.say("", f"From {LONG} steps on mamba_ssm is preferred where installed; see `accelerated_scans.py`.")


def own_layout(inputs: list[Tensor]) -> Callable[[bool], None]:
    """mamba-ssm's kernel on inputs that lie as it wants them."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, A, B, C, D, bias = (x.detach() for x in inputs)
    rows = [x.permute(1, 0, 3, 2).flatten(1, 2).contiguous().requires_grad_() for x in (u, delta)]
    weights = [x.permute(1, 0, 3, 2).contiguous().requires_grad_() for x in (B, C)]
    A, D, bias = A.flatten(0, 1), D.flatten(), bias.flatten()
    gradient = torch.ones_like(rows[0])

    def work(backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            y = selective_scan_fn(*rows, A, *weights, D, delta_bias=bias, delta_softplus=True)
            if backward:
                torch.autograd.grad(y, [*rows, *weights], gradient)

    return work


def extra_memory(work: Callable[[], object], report: Report) -> str:
    before, peak = peak_memory(lambda: None, report.device), peak_memory(work, report.device)
    return "-" if before is None or peak is None else f"{peak - before:.0f}"


def encoder(report: Report) -> None:
    """Images per second of the base encoder."""
    sizes = report.sizes
    torch.manual_seed(0)
    config = VisionMambaConfig(**sizes.encoder)
    dtype = torch.bfloat16 if on_gpu(report) else torch.float32
    model = VisionMambaModel(config).to(report.device, dtype)
    for layer in model.layers:
        for direction in layer.mixer.directions:
            direction.dt_proj.float()
    images = torch.randn(sizes.encoder_batch, 3, config.image_size, config.image_size).to(report.device, dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=on_gpu(report))

    def forward(network: nn.Module, backend: str) -> None:
        with torch.no_grad(), use_scan_backend(backend):
            network(images)

    def step(network: nn.Module, backend: str) -> None:
        with use_scan_backend(backend):
            network(images).last_hidden_state.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    networks: dict[str, tuple[nn.Module, str]] = {
        name: (model, name) for name in scans_here(report) if name != "torch" or not on_gpu(report)
    }
    first = next(iter(networks))
    compiler = "inductor" if on_gpu(report) else "aot_eager"
    networks[f"{first}, compiled"] = (torch.compile(model, fullgraph=True, backend=compiler), first)
    report.table("encoder", "forward, images/s", "training step, images/s", "peak of a step, MiB")
    for name, (network, backend) in networks.items():
        rates = []
        for work in (partial(forward, network, backend), partial(step, network, backend)):
            seconds = timed_in_turns({"": work}, sizes.rounds, report.device)[""]
            rates.append(sizes.encoder_batch / statistics.median(seconds))
        peak = peak_memory(partial(step, network, backend), report.device)
        report.row(name, f"{rates[0]:.0f}", f"{rates[1]:.0f}", "-" if peak is None else f"{peak:.0f}")
        if name.startswith("triton"):
            report.goal(f"base encoder, bfloat16, batch 64, {name}: forward", rates[0], 4500, "images/s", least=True)
            report.goal(f"the same, {name}: training step", rates[1], 1200, "images/s", least=True)
    with OperatorCount() as count:
        step(model, first)
    blocks = config.num_hidden_layers
    report.say(
        "",
        f"A training step of `{first}` calls {sum(count.calls.values()) / blocks:.0f} operators a block, which read "
        f"and write {sum(count.bytes.values()) / blocks / 1e6:.0f} MB; copies as large as the tokens: "
        f"{dict(count.copies(images.shape[0] * config.num_tokens * config.hidden_size * dtype.itemsize)) or 'none'}.",
    )


def reports(report: Report) -> None:
    """Reports of a large decoder, by extrapolation to the test set."""
    sizes = report.sizes
    equal_in_float32(report)
    model = bench_generate.make_model(sizes.decoder, report.device, 0)
    most = max(sizes.studies)
    studies = bench_generate.make_studies(model, most + most // 2, 0)
    exact = {"min_new_tokens": sizes.tokens, "max_new_tokens": sizes.tokens, "num_beams": 3}
    decoder = model.language_model.num_parameters() / 1e9
    report.say(
        "",
        f"Decoder of {decoder:.3g} G parameters, {model.dtype}, prompt of {studies[0]['input_ids'].shape[1]} tokens, 3 "
        f"beams, {sizes.tokens} tokens. The papers, on A800s: {bench_generate.PAPERS}.",
    )
    report.table(
        "studies at a time", "seconds", f"minutes for {TEST_SET:,} studies", "peak, MiB", "step, ms", "its kernels, ms"
    )
    goals = {128: 5.0, 32: 12.0}
    for batch in sizes.studies:
        run = partial(bench_generate.ours, model, studies[:batch], batch)
        run(**{**exact, "min_new_tokens": 8, "max_new_tokens": 8})  # warms up
        seconds = timed(lambda run=run: run(**exact), report.device)
        short = timed(lambda run=run: run(**{**exact, "min_new_tokens": 1, "max_new_tokens": 1}), report.device)
        wall = 1000 * (seconds - short) / (sizes.tokens - 1)
        peak = peak_memory(lambda run=run: run(**{**exact, "min_new_tokens": 8, "max_new_tokens": 8}), report.device)
        kernels = kernel_milliseconds(run, exact) if on_gpu(report) else None
        minutes = TEST_SET * seconds / batch / 60
        report.row(
            batch, f"{seconds:.2f}", f"{minutes:.1f}", "-" if peak is None else f"{peak:.0f}", f"{wall:.1f}",
            "-" if kernels is None else f"{kernels:.1f}",
        )  # fmt: skip
        if batch in goals:
            report.goal(f"reports, {batch} at a time", minutes, goals[batch], "minutes")
        if kernels is not None and batch == most:
            report.goal("a step's wall time over its kernels' time", wall / kernels, 1.15, "times")
    prompts_beside_steps(report, model, studies, most)
    few = min(sizes.studies)
    mine, plain = (
        function(model, studies[:few], few, **exact) for function in (bench_generate.ours, bench_generate.plain)
    )
    differing = sum(a != b for a, b in zip(mine, plain, strict=True))
    report.say("", f"In {model.dtype}, {differing} of {few} reports differ from plain `generate`'s.")
    if differing:
        report.say(
            "There, beams are rows of their own, and products of other shapes round otherwise. That decides between "
            "words that are equally probable in this precision, of which random weights have many."
        )


def prompts_beside_steps(report: Report, model: nn.Module, studies: list[dict[str, Tensor]], batch: int) -> None:
    """Times reports of mixed lengths, with the prompts of those that follow on a second stream and on the same one."""
    report.say("", f"{len(studies)} studies, {batch} at a time, reports of mixed lengths:")
    report.table("prompts of those that follow", "seconds", "peak, MiB")
    run = partial(bench_generate.ours, model, studies, batch, num_beams=3, max_new_tokens=2 * report.sizes.tokens)
    run(max_new_tokens=8)  # warms up
    between = mock.patch.object(continuous_generation, "side_stream_for", return_value=None)
    seconds: dict[str, float] = {}
    for way, where in (("beside steps", nullcontext()), ("between steps", between)):
        with where:
            peak = peak_memory(lambda way=way: seconds.update({way: timed(run, report.device)}), report.device)
        report.row(way, f"{seconds[way]:.2f}", "-" if peak is None else f"{peak:.0f}")
    if not on_gpu(report):
        report.say("", "On a CPU both are the same: prompts are computed between steps.")
    ratio = seconds["beside steps"] / seconds["between steps"]
    report.goal("reports of mixed lengths, prompts beside steps over between them", ratio, 1, "times")


def kernel_milliseconds(run: Callable[..., object], exact: dict[str, int]) -> float:
    """What the kernels of a step take, by the profiler: of 40 tokens less those of 20."""
    from torch.profiler import ProfilerActivity, profile

    def total(tokens: int) -> float:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run(**{**exact, "min_new_tokens": tokens, "max_new_tokens": tokens})
            torch.cuda.synchronize()
        return sum(event.self_device_time_total for event in profiler.key_averages()) / 1000

    return (total(40) - total(20)) / 20


def equal_in_float32(report: Report) -> None:
    """Counts reports that differ from plain generate's, with a small decoder."""
    model = bench_generate.make_model("tiny", report.device, 0).float()
    studies = bench_generate.make_studies(model, report.sizes.exact_studies, 0)
    studies = [{**study, "pixel_values": study["pixel_values"].float()} for study in studies]
    differing = 0
    for beams in (1, 3):
        found = (
            function(model, studies, 8, num_beams=beams, max_new_tokens=2 * report.sizes.tokens)
            for function in (bench_generate.ours, bench_generate.plain)
        )
        differing += sum(a != b for a, b in zip(*found, strict=True))
    total = 2 * len(studies)
    report.say(f"In float32, {total - differing} of {total} reports of a small decoder equal plain `generate`'s.")
    report.goal("reports in float32 that differ from plain generate's", differing, 0, "", small=True)


def quantised(report: Report) -> None:
    """Speed and memory of the decoder in 8 and 4 bit, by every library that is installed here."""
    report.table(
        "decoder", "studies at a time", f"minutes for {TEST_SET:,} studies", "weights and all, MiB at the peak"
    )
    batch, exact = min(report.sizes.studies), {"min_new_tokens": 24, "max_new_tokens": 24, "num_beams": 3}
    absent = []
    for name, quantise in QUANTISED.items():
        model = bench_generate.make_model(report.sizes.decoder, report.device, 0)
        try:
            if quantise is not None:
                quantise(model.language_model.model.layers, report.device)
        except (ImportError, NotImplementedError) as error:
            absent.append(f"{name}: {error}.")
            continue
        studies = bench_generate.make_studies(model, batch, 0)
        run = partial(bench_generate.ours, model, studies, batch, **exact)
        run()
        seconds = timed(run, report.device)
        peak = peak_memory(run, report.device)
        report.row(name, f"{batch} (24 tokens)", f"{TEST_SET * seconds / batch / 60:.1f}", f"{peak or 0:.0f}")
        del model, run
        release()
    report.say("", *absent)


def quantise_by_bitsandbytes(layers: nn.Module, device: str, bits: int) -> None:
    """Puts bitsandbytes' linear layers in the place of a decoder's."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt, Params4bit

    if not device.startswith("cuda"):
        raise NotImplementedError("needs a GPU")
    for parent in [*layers.modules()]:
        for name, child in parent.named_children():
            if type(child) is not nn.Linear:
                continue
            has_bias = child.bias is not None
            if bits == 8:
                new = Linear8bitLt(child.in_features, child.out_features, has_bias, has_fp16_weights=False)
                new.load_state_dict(child.state_dict())
            else:
                new = Linear4bit(child.in_features, child.out_features, has_bias, compute_dtype=torch.bfloat16)
                new.weight = Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                new.bias = child.bias
            setattr(parent, name, new.to(device))


def quantise_by_torchao(layers: nn.Module, device: str, bits: int) -> None:
    """Replaces the weights of a decoder's linear layers with torchao's, activations as they are."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    if bits == 4 and not device.startswith("cuda"):
        raise NotImplementedError("needs a GPU")
    quantize_(layers, Int8WeightOnlyConfig() if bits == 8 else Int4WeightOnlyConfig())


QUANTISED: dict[str, Callable[[nn.Module, str], None] | None] = {
    "not quantised": None,
    "bitsandbytes, 8 bit": partial(quantise_by_bitsandbytes, bits=8),
    "bitsandbytes, 4 bit": partial(quantise_by_bitsandbytes, bits=4),
    "torchao, 8 bit": partial(quantise_by_torchao, bits=8),
    "torchao, 4 bit": partial(quantise_by_torchao, bits=4),
}
"""What is done to the decoder's layers, by name."""


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# With the seconds that each needs on an H100, roughly; generous, as kernels are compiled on the way.
SECTIONS: dict[str, tuple[Callable[[Report], None], int]] = {
    "correctness": (correctness, 100),
    "streams": (streams, 40),
    "scan": (scan, 60),
    "encoder": (encoder, 90),
    "reports": (reports, 150),
    "quantised": (quantised, 90),
}


@contextmanager
def failures_noted(report: Report, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever fails, the other sections go on
        report.failures.append(name)
        report.say("", f"**Failed**: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        traceback.print_exc()


def main(arguments: list[str] | None = None) -> int:
    """Runs the sections; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes; goals of speed don't count")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument(
        "--seconds", type=float, default=460, help="leave out sections that would not fit (default 460)"
    )
    parser.add_argument(
        "--output", type=Path, help=f"file for the report (default {RESULTS.name}/gpu_<date>_<device>.md)"
    )
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU; `--device cpu --small` shows that everything runs")
    begin = time.monotonic()
    report = Report(options)
    machine = describe_machine(options.device)
    title = f"# {'Small form on ' if options.small else ''}{machine['device']}, {machine['date']}"
    report.say(title, "", ", ".join(f"{name} {value}" for name, value in machine.items()))
    for name in options.sections:
        work, needed = SECTIONS[name]
        left = options.seconds - (time.monotonic() - begin)
        report.say("", f"## {name.capitalize()}", "")
        if not options.small and left < needed:
            report.say(f"Left out: {left:.0f} seconds are left, it needs some {needed}.")
            report.failures.append(name)
            continue
        started = time.monotonic()
        with failures_noted(report, name):
            work(report)
        release()
        report.say("", f"({time.monotonic() - started:.0f} s)")
    goals = ["", "## Goals", "", "| goal | reached | met |", "|---|---|---|"]
    words = {True: "yes", False: "**no**", None: "not asked of this size"}
    goals += [f"| {goal.text} | {goal.reached} | {words[goal.met]} |" for goal in report.goals]
    if report.failures:
        goals += ["", f"Failed or left out: {', '.join(report.failures)}."]
    print(*goals, sep="\n")
    name = re.sub(r"\W+", "-", str(machine["device"])) if on_gpu(report) else f"cpu-{platform.machine()}"
    output = options.output or RESULTS / f"gpu_{datetime.date.today().isoformat()}_{name}.md"
    text = "\n".join([*report.lines[:3], *goals, *report.lines[3:]])
    output.write_text(text + "\n", encoding="utf-8")
    print(f"\nwritten: {output}")
    return int(bool(report.failures) or any(goal.met is False for goal in report.goals))


if __name__ == "__main__":
    sys.exit(main())
