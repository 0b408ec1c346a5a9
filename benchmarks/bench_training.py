"""Memory and time of a training step for the base and large encoders, and by arithmetic on one 80 GB GPU.

OMP_NUM_THREADS=1 python benchmarks/bench_training.py [--batch 2] [--steps 3] [--stages pretrain contrast finetune]

Measured: each stage with its published encoder and a text model of BERT-base's size (stage 2) or a Llama-style one
with 4 layers of width 1,024 (stage 3), frozen, in a process of its own. Computed: stage 3 below Llama-2-7B.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import BertConfig, LlamaConfig

from mambaxray import (
    MambaXrayConfig,
    MambaXrayDualEncoder,
    MambaXrayForConditionalGeneration,
    MambaXrayForPreTraining,
    MambaXrayPreTrainingConfig,
    VisionMambaConfig,
)
from mambaxray.modeling_mambaxray.modeling_vision_mamba import VisionMambaModel

SIZES = {"base": {"hidden_size": 768, "num_hidden_layers": 12}, "large": {"hidden_size": 1024, "num_hidden_layers": 24}}
PROMPT, REPORT = 40, 100
_GB = 2**30


def pretrain(size: dict[str, int], batch: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    model = MambaXrayForPreTraining(MambaXrayPreTrainingConfig(**size, image_size=192))
    return model, {"pixel_values": torch.randn(batch, 3, 192, 192)}


def contrast(size: dict[str, int], batch: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    vision, text = VisionMambaConfig(**size, image_size=224), BertConfig()
    from mambaxray.configuration.configuration_mambaxray_dual_encoder import MambaXrayDualEncoderConfig

    model = MambaXrayDualEncoder(MambaXrayDualEncoderConfig(vision, text, projection_dim=2048))
    ids = torch.randint(5, 20000, (batch, 128))
    return model, {"pixel_values": torch.randn(batch, 3, 224, 224), "input_ids": ids}


def finetune(size: dict[str, int], batch: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    vision = VisionMambaConfig(**size, image_size=224)
    text = LlamaConfig(hidden_size=1024, intermediate_size=2752, num_hidden_layers=4, num_attention_heads=16)
    config = MambaXrayConfig(vision, text)
    model = MambaXrayForConditionalGeneration(config)
    model.freeze_language_model()
    ids = torch.randint(3, 32000, (batch, PROMPT + config.num_image_tokens + REPORT))
    ids[:, 1 : 1 + config.num_image_tokens] = config.image_token_id
    labels = ids.clone()
    labels[:, :-REPORT] = -100
    return model, {"pixel_values": torch.randn(batch, 3, 224, 224), "input_ids": ids, "labels": labels}


STAGES: dict[str, Callable[..., tuple[torch.nn.Module, dict[str, Any]]]] = {
    "pretrain": pretrain,
    "contrast": contrast,
    "finetune": finetune,
}


def measure(stage: str, size: str, batch: int, steps: int, answer: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, inputs = STAGES[stage](SIZES[size], batch)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    times = []
    for _ in range(steps + 1):
        start = time.process_time()
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GB
    answer.put((sum(p.numel() for p in trained), sum(p.numel() for p in model.parameters()), peak, min(times[1:])))


def encoder_parameters(size: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in VisionMambaModel(VisionMambaConfig(**SIZES[size], image_size=224)).parameters())


def one_gpu(size: str, batch: int, layers: int = 32, width: int = 4096, feed_forward: int = 11008) -> dict[str, float]:
    """GiB for fine-tuning below a frozen Llama-2-7B in bfloat16: weights, optimizer, what the backward pass needs."""
    encoder, language_model = encoder_parameters(size), 6.74e9
    projection = SIZES[size]["hidden_size"] * width
    trained = encoder + projection
    tokens = batch * (PROMPT + 197 + REPORT)
    # A frozen layer keeps for the gradient of its input, per token in bfloat16: both norms' inputs, q, k, v and the
    # attention's output, gate and up projections with their product.
    per_layer = tokens * 2 * (2 * width + 4 * width + 3 * feed_forward)
    vision, depth = SIZES[size]["hidden_size"], SIZES[size]["num_hidden_layers"]
    # A vision layer keeps about 40 values per token and channel: four directions of convolution, dt, scan and gate.
    per_vision_layer = batch * 197 * vision * 40 * 2
    return {
        "language model": language_model * 2 / _GB,
        "trained weights, gradients, AdamW": trained * 16 / _GB,
        "activations, language model": per_layer * layers / _GB,
        "activations, encoder": per_vision_layer * depth / _GB,
        "logits and loss": tokens * 32000 * 4 * 3 / _GB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="measured steps; the fastest counts")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, one thread, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, float32, batch {options.batch}\n"
    )
    print("| stage | encoder | trained / all parameters (M) | peak memory (GiB) | processor s per step |")
    print("|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for stage in options.stages:
        for size in options.sizes:
            answer = context.Queue()
            process = context.Process(target=measure, args=(stage, size, options.batch, options.steps, answer))
            process.start()
            trained, total, peak, seconds = answer.get()
            process.join()
            row = f"| {stage} | {size} | {trained / 1e6:.1f} / {total / 1e6:.1f} | {peak:.1f} | {seconds:.1f} |"
            print(row, flush=True)
    print("\nOne 80 GB GPU, stage 3 below a frozen Llama-2-7B in bfloat16, batch 6, by arithmetic (GiB):")
    for size in options.sizes:
        parts = one_gpu(size, 6)
        listed = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
        print(f"  {size}: {sum(parts.values()):.0f} in all ({listed})")


if __name__ == "__main__":
    main()
