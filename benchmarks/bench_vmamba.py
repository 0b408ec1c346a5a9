"""Time of VMamba-Tiny beside the public implementation's algorithm.

    python benchmarks/bench_vmamba.py
    python benchmarks/bench_vmamba.py --skip
    python benchmarks/bench_vmamba.py --device cuda --dtype bfloat16 --batch-size 32 --rivals

The rivals have the same weights and outputs (checked). They compute what the authors' `SS2D` does where its CUDA kernel
is absent: channels-first, four sequences in their orders, each with its own projections and a scan of its own, in
PyTorch as transformers' Mamba has it or by mambapy (`pip install mambapy`). A training step is forward, backward and a
step of AdamW; `--skip` leaves out transformers', whose loop over 3,136 tokens takes minutes.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from measure import add_timing_options, leave_out_absent, peak_memory, print_machine, timed_in_turns, times_faster
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

from mambaxray import VMambaConfig, VMambaModel
from mambaxray.modeling_mambaxray.modeling_vmamba import VMambaMixer

FORWARD, TRAINING = "forward", "training step"
SIZES = {
    "tiny": {"depths": [2, 2, 8, 2]},
    "small": {"depths": [2, 2, 20, 2]},
    "base": {"embed_dim": 128, "depths": [2, 2, 20, 2]},
}


class PublicMixer(VMambaMixer):
    """SS2D as the public code has it, with transformers' scan, direction by direction."""

    use_mambapy = False

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As in `VMambaMixer`, without gate."""
        _, height, width, _ = hidden_states.shape
        x = F.silu(self.conv2d(self.in_proj(hidden_states))).permute(0, 3, 1, 2).contiguous()
        rows, columns = x.flatten(2), x.transpose(2, 3).flatten(2)
        sequences = torch.stack([rows, columns, rows.flip(-1), columns.flip(-1)], dim=1)
        narrow = torch.einsum("bkdl,kcd->bkcl", sequences, self.x_proj_weight)
        step, B, C = narrow.split(self.splits, dim=2)
        delta = torch.einsum("bkrl,kdr->bkdl", step.to(self.dt_proj_weight.dtype), self.dt_proj_weight)
        A, D = -torch.exp(self.A_log.float()).unflatten(0, (4, -1)), self.D.view(4, -1)
        outputs = [
            mamba_selective_scan(
                sequences[:, k],
                delta[:, k],
                A[k],
                B[:, k],
                C[:, k],
                D=D[k],
                delta_bias=self.dt_proj_bias[k],
                delta_softplus=True,
                use_mambapy=self.use_mambapy,
            )
            for k in range(4)
        ]
        rows, columns = outputs[0] + outputs[2].flip(-1), outputs[1] + outputs[3].flip(-1)
        y = rows.unflatten(-1, (height, width)) + columns.unflatten(-1, (width, height)).transpose(2, 3)
        return self.out_proj(self.norm(y.permute(0, 2, 3, 1)))


class MambapyMixer(PublicMixer):
    """The same with mambapy's scan."""

    use_mambapy = True


RIVALS = {"transformers": PublicMixer, "mambapy": MambapyMixer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rivals", nargs="*", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--skip", action="store_true", help="leave out transformers' training step")
    add_timing_options(parser, rounds=3, dtypes=("float32", "bfloat16"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    leave_out_absent(options.rivals)

    print_machine(options.device)
    print(
        f"VMamba {options.size}, {options.image_size} px, batch {options.batch_size}, {options.dtype}, "
        f"threads {options.threads}, {options.rounds} rounds, seed {options.seed}\n"
    )
    torch.manual_seed(options.seed)
    config = VMambaConfig(image_size=options.image_size, drop_path_rate=0.0, **SIZES[options.size])
    device, dtype = options.device, getattr(torch, options.dtype)
    ours = VMambaModel(config).to(device, dtype)
    pixels = torch.randn(options.batch_size, 3, options.image_size, options.image_size).to(device, dtype)
    encoders = {"ours": ours} | {name: with_mixer(ours, RIVALS[name]) for name in options.rivals}
    check_outputs(encoders, pixels)

    print("| pass | encoder | ms, least | median | times slower than ours | peak MiB |")
    print("|---|---|---|---|---|---|")
    for name in (FORWARD, TRAINING):
        works = {}
        for encoder, model in encoders.items():
            if name == FORWARD:
                works[encoder] = partial(run_forward, model, pixels)
            elif not (options.skip and encoder == "transformers"):
                works[encoder] = training_step(model, pixels)
        seconds = timed_in_turns(works, options.rounds, device)
        for encoder, times in seconds.items():
            milliseconds = sorted(1000 * s for s in times)
            memory = peak_memory(works[encoder], device)
            cells = [f"{milliseconds[0]:.0f}", f"{milliseconds[len(milliseconds) // 2]:.0f}"]
            cells += [f"{times_faster(times, seconds['ours']):.1f}", "-" if memory is None else f"{memory:.0f}"]
            print(f"| {name} | {encoder} |", " | ".join(cells), "|", flush=True)


def with_mixer(model: VMambaModel, mixer: type[VMambaMixer]) -> VMambaModel:
    """A copy of the encoder with mixers of another class and the same weights."""
    copy = VMambaModel(model.config).to(model.device, model.dtype)
    for stage, width in zip(copy.stages, model.config.stage_widths, strict=True):
        for layer in stage.layers:
            layer.mixer = mixer(model.config, width).to(model.device, model.dtype)
    copy.load_state_dict(model.state_dict())
    return copy


@torch.no_grad()
def check_outputs(encoders: dict[str, VMambaModel], pixels: Tensor) -> None:
    """Raises when an encoder computes something else than the first."""
    expected = encoders["ours"](pixels[:1]).last_hidden_state.float()
    for name, model in encoders.items():
        difference = float((model(pixels[:1]).last_hidden_state.float() - expected).abs().max())
        if difference > (1e-3 if pixels.dtype == torch.float32 else 0.1):
            raise RuntimeError(f"{name} differs from our encoder by {difference:.2g}")


@torch.no_grad()
def run_forward(model: nn.Module, pixels: Tensor) -> None:
    model(pixels)


def training_step(model: nn.Module, pixels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        model(pixels).last_hidden_state.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
