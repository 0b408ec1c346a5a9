"""Time of recalling from AM-MRG's memories, beside the vision encoder's forward pass in the same run.

    python benchmarks/bench_hopfield.py
    python benchmarks/bench_hopfield.py --encoder large

Two associations of the paper's sizes (6 heads of 1,024, values of 768) recall for 14 queries each from 6,943 visual
and 6,000 report memories of width 768, kept standardized as an `AMMRGForConditionalGeneration` keeps them. The rival
projects every memory at every step, as the released code does. The goal is at most 15 % of a base encoder (12 blocks,
192 px) at batch 8, and at most 4 % of a large one (24 blocks, 224 px). A third row is the recall of a training step,
with its backward pass.
"""

import argparse
import sys

import torch
from measure import add_timing_options, peak_memory, print_machine, timed_in_turns, times_faster
from torch import Tensor
from torch.nn import functional as F

from mambaxray import VisionMambaConfig, VisionMambaModel
from mambaxray.modeling_mambaxray.layers.hopfield import HopfieldAssociation

# Blocks, width, image size, and the share of its time that the recall may take.
ENCODERS = {"base": (12, 768, 192, 0.15), "large": (24, 1024, 224, 0.04)}
BANKS = {"visual": 6943, "report": 6000}
WIDTH, QUERIES = 768, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--encoder", choices=ENCODERS, default="base")
    parser.add_argument("--memory-width", type=int, default=WIDTH, help="4096 for reports encoded by a language model")
    parser.add_argument("--update-steps", type=int, default=0)
    parser.add_argument("--skip", action="store_true", help="leave out the rival")
    add_timing_options(parser, rounds=3, dtypes=("float32", "bfloat16"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device, dtype = options.device, getattr(torch, options.dtype)

    print_machine(device)
    print(
        f"batch {options.batch_size}, memories {BANKS} of width {options.memory_width}, "
        f"{options.update_steps} updates, {options.dtype}, threads {options.threads}, "
        f"{options.rounds} rounds, seed {options.seed}\n"
    )
    blocks, width, size, goal = ENCODERS[options.encoder]
    config = VisionMambaConfig(hidden_size=width, num_hidden_layers=blocks, image_size=size)
    encoder = VisionMambaModel(config).to(device, dtype).eval()
    pixels = torch.randn(options.batch_size, 3, size, size).to(device, dtype)
    states = torch.randn(options.batch_size, QUERIES, WIDTH).to(device, dtype)
    banks = [torch.randn(count, options.memory_width).to(device, dtype) for count in BANKS.values()]
    associations = [
        HopfieldAssociation(
            WIDTH,
            options.memory_width,
            num_heads=6,
            head_size=1024,
            value_size=768,
            beta=4.0,
            update_steps=options.update_steps,
        ).to(device, dtype)
        for _ in BANKS
    ]
    if not options.skip:
        check_outputs(associations, states, banks, options.update_steps)
    kept = [association.standardized(bank) for association, bank in zip(associations, banks, strict=True)]
    print(f"the kept memories take {sum(bank.nbytes for bank in kept) / 2**20:.0f} MiB\n")

    def recall() -> list[Tensor]:
        pairs = zip(associations, kept, strict=True)
        return [association(states, bank, are_standardized=True)[0] for association, bank in pairs]

    def training_step() -> None:
        for recalled in recall():
            recalled.sum().backward()

    def recall_projecting() -> None:
        for association, bank in zip(associations, banks, strict=True):
            recall_by_projecting(association, states, bank, options.update_steps)

    encoding = f"{options.encoder} encoder, {size} px"
    works = {
        encoding: torch.no_grad()(lambda: encoder(pixels)),
        "recall": torch.no_grad()(recall),
        "recall, training step": training_step,
    }
    if not options.skip:
        works["recall, memories projected"] = torch.no_grad()(recall_projecting)
    seconds = timed_in_turns(works, options.rounds, device)
    print("| work | ms, least | median | share of the encoder | peak MiB |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        milliseconds = sorted(1000 * s for s in times)
        share = times_faster(times, seconds[encoding])
        memory = peak_memory(works[name], device)
        cells = [f"{milliseconds[0]:.0f}", f"{milliseconds[len(milliseconds) // 2]:.0f}", f"{100 * share:.1f} %"]
        print(f"| {name} |", " | ".join(cells), f"| {'-' if memory is None else f'{memory:.0f}'} |", flush=True)
    reached = times_faster(seconds["recall"], seconds[encoding])
    print(f"\n| goal | reached | met |\n|---|---|---|\n| {100 * goal:.0f} % | {100 * reached:.1f} % |", end="")
    print(f" {'yes' if reached <= goal else 'NO'} |")
    sys.exit(reached > goal)


def recall_by_projecting(module: HopfieldAssociation, states: Tensor, memories: Tensor, update_steps: int) -> Tensor:
    """The same with keys and values of every memory."""
    q = module.q_proj(module.state_norm(states))
    k, v = module.k_proj(module.key_norm(memories)), module.v_proj(module.value_norm(memories))
    q, k, v = (x.unflatten(-1, (module.num_heads, -1)).transpose(-2, -3) for x in (q, k, v))
    k, v = (x.expand(len(states), *x.shape) for x in (k, v))
    for _ in range(update_steps):
        q = F.scaled_dot_product_attention(q, k, k, scale=module.beta)
    recalled = F.scaled_dot_product_attention(q, k, v, scale=module.beta)
    return module.out_proj(recalled.transpose(1, 2).flatten(2))


@torch.no_grad()
def check_outputs(
    associations: list[HopfieldAssociation], states: Tensor, banks: list[Tensor], update_steps: int
) -> None:
    """Raises when the two ways recall something else."""
    for association, bank in zip(associations, banks, strict=True):
        ours, rival = association(states, bank)[0], recall_by_projecting(association, states, bank, update_steps)
        difference = float((ours - rival).abs().max() / rival.abs().max())
        if difference > (1e-3 if states.dtype == torch.float32 else 0.1):
            raise RuntimeError(f"the two ways differ by {difference:.2g}")


if __name__ == "__main__":
    main()
