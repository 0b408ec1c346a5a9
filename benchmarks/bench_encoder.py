"""Time of MambaXray-VL's encoder, beside the same encoder with transformers' Mamba mixer, and the machine's own floor.

    python benchmarks/bench_encoder.py
    python benchmarks/bench_encoder.py --layers 12 --rivals
    python benchmarks/bench_encoder.py --device cuda --dtype bfloat16 --layers 12 --batch-size 32

The encoder is the base one (768 wide, 4 directions, 192 px). Blocks are alike, so a part of them stands for the whole:
times are for `--layers` blocks and the embeddings. A training step is forward, backward and a step of the `Trainer`'s
optimizer, fused AdamW. The rivals have the same weights and outputs (checked), but each direction's convolution,
projections, scan and gate are transformers' own, the scan in PyTorch or by mambapy (`pip install mambapy`).
Transformers' training step takes about a minute per block on a CPU core; `--skip` leaves it out.

The floor is the time in which the machine would do the encoder's matrix products, at the best rate measured here, and
move the scan's and the weights' bytes once, at the rate of a copy. The scan's own arithmetic is not in it.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from measure import OperatorCount, add_timing_options, leave_out_absent, print_machine, timed_in_turns, times_faster
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.mamba.modeling_mamba import causal_conv1d_fn, mamba_selective_scan

from mambaxray import VisionMambaConfig, VisionMambaModel, use_scan_backend
from mambaxray.modeling_mambaxray.modeling_vision_mamba import VisionMambaMixer
from mambaxray.modeling_mambaxray.ops.selective_scan import scan_backend, scan_problems

FORWARD, TRAINING = "forward", "training step"
# How many times the floor the preferred backend of a CPU may take for a training step.
FLOOR_GOAL = 1.5
# How many times faster than which rival the preferred backend of a CPU is to be.
GOALS = [
    (FORWARD, "transformers", 4),
    (FORWARD, "mambapy", 7),
    (TRAINING, "mambapy", 8),
    (TRAINING, "transformers", 50),
]


class TransformersMixer(VisionMambaMixer):
    """The same mixer out of transformers' parts, direction by direction."""

    use_mambapy = False

    def forward(self, hidden_states: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
        """As in `VisionMambaMixer`."""
        x, gate = self.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
        outputs = []
        for direction, order, inverse in zip(self.directions, orders, inverse_orders, strict=True):
            u = causal_conv1d_fn(
                x[..., order], direction.conv1d.weight.squeeze(1), direction.conv1d.bias, activation="silu"
            )
            step, B, C = direction.x_proj(u.transpose(1, 2)).split(direction.splits, dim=-1)
            y = mamba_selective_scan(
                u,
                direction.dt_proj.weight @ step.transpose(1, 2),
                -torch.exp(direction.A_log),
                B.transpose(1, 2),
                C.transpose(1, 2),
                D=direction.D,
                z=gate[..., order],
                delta_bias=direction.dt_proj.bias,
                delta_softplus=True,
                use_mambapy=self.use_mambapy,
            )
            outputs.append(y[..., inverse].transpose(1, 2))
        return self.out_proj(sum(outputs) / len(outputs))


class MambapyMixer(TransformersMixer):
    """The same with mambapy's scan."""

    use_mambapy = True


RIVALS = {"transformers": TransformersMixer, "mambapy": MambapyMixer}


def main() -> None:
    ours = [name for name, problem in scan_problems().items() if not problem and name != "reference"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=1, help="blocks of the encoder (default 1; base has 12)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=192)
    parser.add_argument("--rivals", nargs="*", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--skip", action="store_true", help="leave out transformers' training step")
    parser.add_argument("--passes", nargs="+", choices=[FORWARD, TRAINING], default=[FORWARD, TRAINING])
    add_timing_options(parser, rounds=3, dtypes=("float32", "bfloat16", "float16"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    leave_out_absent(options.rivals)
    device, dtype = options.device, getattr(torch, options.dtype)
    backends = [name for name in ours if scan_backend_runs(name, device)]

    print_machine(device)
    print(f"{options.dtype}, threads {options.threads}, {options.rounds} rounds, seed {options.seed}")
    torch.manual_seed(options.seed)
    config = VisionMambaConfig(image_size=options.image_size, num_hidden_layers=options.layers)
    model = VisionMambaModel(config).to(device, dtype)
    pixels = torch.randn(options.batch_size, 3, options.image_size, options.image_size).to(device, dtype)
    encoders = {f"ours, {name}": (model, name) for name in backends}
    encoders |= {name: (with_mixer(model, RIVALS[name]), backends[0]) for name in options.rivals}
    check_outputs(encoders, pixels)

    product_rate, copy_rate = machine_rates(device, dtype)
    print(
        f"base encoder, {options.layers} of its 12 blocks, batch {options.batch_size}, {options.image_size} px; "
        f"matrix products {product_rate / 1e9:.0f} GFLOP/s, copying {copy_rate / 1e9:.1f} GB/s\n"
    )
    print_movements(model, backends, pixels)
    print(
        "| pass | encoder | ms, least | median | times faster than", " | ".join(options.rivals), "| times the floor |"
    )
    print("|---" * (5 + len(options.rivals)) + "|")
    goals = []
    for name in options.passes:
        goals += measure(name, encoders, pixels, product_rate, copy_rate, options)
    if device == "cpu" and options.dtype == "float32" and goals:
        print("\n| goal | reached | met |\n|---|---|---|")
        for text, reached, met in goals:
            print(f"| {text} | {reached} | {'yes' if met else 'NO'} |")
        sys.exit(not all(met for *_, met in goals))


def print_movements(model: VisionMambaModel, backends: list[str], pixels: Tensor) -> None:
    """A table of what the encoder calls, copies and moves, embeddings included, over its number of blocks."""
    blocks = model.config.num_hidden_layers
    tokens = len(pixels) * model.config.num_tokens * model.config.hidden_size * pixels.dtype.itemsize
    print("| pass | encoder | operators per block | copies as large as the tokens | MB read and written per block |")
    print("|---|---|---|---|---|")
    for backend in backends:
        for name in (FORWARD, TRAINING):
            with OperatorCount() as count, use_scan_backend(backend), torch.set_grad_enabled(name == TRAINING):
                output = model(pixels).last_hidden_state
                if name == TRAINING:
                    output.float().mean().backward()
            model.zero_grad()
            copies = count.copies(tokens)
            shown = ", ".join(f"{copied} {calls}" for copied, calls in copies.items()) or "none"
            calls, moved = sum(count.calls.values()) / blocks, sum(count.bytes.values()) / blocks / 1e6
            print(f"| {name} | ours, {backend} | {calls:.0f} | {shown} | {moved:.0f} |")
    print()


def scan_backend_runs(name: str, device: str) -> bool:
    """Whether a backend scans on a device, rather than leaving it to another."""
    with use_scan_backend(name):
        return scan_backend(torch.device(device).type) == name


def with_mixer(model: VisionMambaModel, mixer: type[VisionMambaMixer]) -> VisionMambaModel:
    """A copy of the encoder with mixers of another class and the same weights."""
    copy = VisionMambaModel(model.config).to(model.device, model.dtype)
    for layer in copy.layers:
        layer.mixer = mixer(model.config).to(model.device, model.dtype)
    copy.load_state_dict(model.state_dict())
    return copy


@torch.no_grad()
def check_outputs(encoders: dict[str, tuple[VisionMambaModel, str]], pixels: Tensor) -> None:
    """Raises when an encoder computes something else than the first."""
    expected = None
    for name, (model, backend) in encoders.items():
        with use_scan_backend(backend):
            output = model(pixels[:1]).last_hidden_state.float()
        expected = output if expected is None else expected
        difference = float((output - expected).abs().max())
        if difference > (1e-3 if pixels.dtype == torch.float32 else 0.1):
            raise RuntimeError(f"{name} differs from the first encoder by {difference:.2g}")


def run_forward(model: nn.Module, backend: str, pixels: Tensor) -> None:
    with torch.no_grad(), use_scan_backend(backend):
        model(pixels)


def run_training_step(model: nn.Module, backend: str, pixels: Tensor, optimizer: torch.optim.Optimizer) -> None:
    with use_scan_backend(backend):
        loss = model(pixels).last_hidden_state.float().square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def measure(
    name: str,
    encoders: dict[str, tuple[VisionMambaModel, str]],
    pixels: Tensor,
    product_rate: float,
    copy_rate: float,
    options: argparse.Namespace,
) -> list[tuple[str, str, bool]]:
    """Prints the rows of one pass; gives each goal with what was reached and whether that is enough."""
    works: dict[str, Callable[[], None]] = {}
    for encoder, (model, backend) in encoders.items():
        if name == FORWARD:
            works[encoder] = partial(run_forward, model, backend, pixels)
        elif not (options.skip and encoder == "transformers"):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
            works[encoder] = partial(run_training_step, model, backend, pixels, optimizer)
    seconds = timed_in_turns(works, options.rounds, options.device)
    floor = floor_seconds(name, *next(iter(encoders.values())), pixels, product_rate, copy_rate)
    rivals = [rival for rival in options.rivals if rival in seconds]
    for encoder, times in seconds.items():
        milliseconds = sorted(1000 * s for s in times)
        cells = [f"{milliseconds[0]:.0f}", f"{milliseconds[len(milliseconds) // 2]:.0f}"]
        cells += [f"{times_faster(seconds[r], times):.1f}" if r in rivals else "-" for r in options.rivals]
        print(f"| {name} | {encoder} |", " | ".join(cells), f"| {milliseconds[0] / 1000 / floor:.1f} |", flush=True)
    print(f"| {name} | floor | {1000 * floor:.0f} |" + " |" * (2 + len(options.rivals)))
    first = next(iter(seconds))
    goals = []
    if name == TRAINING:
        times = min(seconds[first]) / floor
        goals.append((f"{first}, {name}: at most {FLOOR_GOAL}x the floor", f"{times:.1f}x", times <= FLOOR_GOAL))
    for goal_name, rival, least in GOALS:
        if goal_name == name and rival in rivals:
            reached = times_faster(seconds[rival], seconds[first])
            goals.append((f"{first}, {name}: {least}x {rival}", f"{reached:.1f}x", reached >= least))
    return goals


def floor_seconds(
    name: str, model: VisionMambaModel, backend: str, pixels: Tensor, product_rate: float, copy_rate: float
) -> float:
    """Least time for a pass's matrix products and for moving the scan's sequences and the weights once each."""
    with FlopCounterMode(display=False) as counter, use_scan_backend(backend):
        output = model(pixels).last_hidden_state
        if name == TRAINING:
            output.float().mean().backward()
            model.zero_grad()
    config = model.config
    tokens = pixels.shape[0] * config.num_tokens * config.num_directions * config.num_hidden_layers
    # Wide: u, delta, y; and the three and their gradients going back, where y itself is not needed.
    wide, narrow = (3, 2) if name == FORWARD else (3 + 5, 2 + 4)
    elements = tokens * (wide * config.hidden_size + narrow * config.state_size)
    # AdamW reads and writes the weight and its two averages, and reads the gradient, which was written before.
    elements += sum(x.numel() for x in model.parameters()) * (1 if name == FORWARD else 1 + 1 + 1 + 7)
    return counter.get_total_flops() / product_rate + elements * pixels.element_size() / copy_rate


def machine_rates(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Operations per second of the best matrix product, and bytes per second read and written by a copy."""
    a, b = (torch.randn(2048, 2048).to(device, dtype) for _ in range(2))
    conv = a[:, :, None, None].contiguous(memory_format=torch.channels_last)
    big = torch.zeros(64 * 2**20 // dtype.itemsize, dtype=dtype, device=device)
    copy = torch.empty_like(big)
    works: dict[str, Callable[[], object]] = {
        "matmul": lambda: a @ b,
        "linear": lambda: F.linear(a, b),
        "convolution": lambda: F.conv2d(conv, b[..., None, None]),
        "copy": lambda: copy.copy_(big),
    }
    seconds = {name: min(times) for name, times in timed_in_turns(works, 3, device).items()}
    fastest = seconds.pop("copy")
    best = min(seconds.values())
    return 2 * 2048**3 / best, 2 * big.nbytes / fastest


if __name__ == "__main__":
    main()
