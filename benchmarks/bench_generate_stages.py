"""Speed and memory of report generation by stage: preprocessing, encoder, prefill and decoding.

    python benchmarks/bench_generate_stages.py [--batch-size 4] [--new-tokens 64] [--output results.json]

Two models with random weights are measured, each in a process of its own: `tiny` (the model of `make demo`) and
`base` (MambaXray-VL's base encoder at 192 px with a small Llama). What each stage does, once per repeat:

- preprocessing: PNG files (phantoms, 8-bit grey, 1024 x 1024 px) to normalized `pixel_values`
- encoder: `encode_views`, pixel values to visual tokens
- prefill: one forward over the whole prompt with its image embeddings, next-token logits and cache
- decoding: greedy `generate` of exactly `--new-tokens` tokens less the prefill of the same repeat, since the prefill
  gives the first token; a step gives every report of the batch one more token

Memory is the most that was in use at once (CPU: the process's resident memory, its peak reset before each stage, which
needs Linux; CUDA: what torch allocated), in calls of their own after the timed ones. "Before" is the process with
libraries and model, before any stage; libraries that a first call loads count as above it.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from measure import describe_machine, peak_memory, timed
from PIL import Image
from transformers import LlamaConfig

from mambaxray import (
    MambaXrayConfig,
    MambaXrayForConditionalGeneration,
    MambaXrayImageProcessor,
    MambaXrayProcessor,
    VisionMambaConfig,
)
from mambaxray.data.phantoms import draw_phantom, make_study
from mambaxray.modeling_mambaxray.ops.selective_scan import scan_backend
from mambaxray.train.tokenizer import train_report_tokenizer

PICTURE_SIZE = 1024
MODELS = {
    "tiny": (
        {"hidden_size": 128, "num_hidden_layers": 4, "image_size": 128, "patch_size": 16, "state_size": 8},
        {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 6},
    ),
    "base": (
        {},  # the defaults
        {
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "vocab_size": 32000,
        },
    ),
}


def make_model(name: str, seed: int) -> tuple[MambaXrayForConditionalGeneration, MambaXrayProcessor]:
    """A model with random weights, and its processor with a tokenizer trained on reports of phantoms."""
    vision_values, text_values = MODELS[name]
    vision = VisionMambaConfig(**vision_values)
    reports = [make_study(number, image_size=32)["report"] for number in range(200)]
    size = {"height": vision.image_size, "width": vision.image_size}
    processor = MambaXrayProcessor(
        MambaXrayImageProcessor(size=size), train_report_tokenizer(reports), num_image_tokens=vision.num_tokens
    )
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        **{"vocab_size": len(tokenizer), **text_values},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    config = MambaXrayConfig(vision, text, image_token_id=processor.image_token_id)
    return MambaXrayForConditionalGeneration(config).eval(), processor


def draw_pictures(folder: Path, count: int, seed: int) -> list[Path]:
    """PNG files of frontal phantoms."""
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(draw_phantom([], seed=seed + number, image_size=PICTURE_SIZE)).save(path)
    return paths


@torch.inference_mode()
def measure_model(name: str, pictures: list[Path], options: argparse.Namespace) -> dict:
    """Seconds per batch of every stage and repeat, peak memory in MiB, and the model's sizes."""
    if options.threads:
        torch.set_num_threads(options.threads)
    model, processor = make_model(name, options.seed)
    model.to(options.device)
    memory_before = peak_memory(lambda: None, options.device)
    inputs = processor(images=pictures).to(options.device)
    prompt = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    pixel_values, view_mask = inputs["pixel_values"], inputs["pixel_attention_mask"]
    features = {"image": model.get_image_features(pixel_values, view_mask)}
    forced = {"min_new_tokens": options.new_tokens, "max_new_tokens": options.new_tokens, "do_sample": False}

    def generate() -> None:
        tokens = model.generate(**prompt, mm_encoder_outputs=features, **forced)
        if tokens.shape[1] != prompt["input_ids"].shape[1] + options.new_tokens:
            raise RuntimeError(f"generate returned {tuple(tokens.shape)}, not {options.new_tokens} new tokens")

    stages: dict[str, Callable[[], object]] = {
        "preprocessing": lambda: processor.image_processor(pictures),
        "encoder": lambda: model.encode_views(pixel_values, view_mask),
        "prefill": lambda: model(**prompt, mm_encoder_outputs=features, use_cache=True, logits_to_keep=1),
        "generate": generate,
    }
    for work in stages.values():  # the first call of each is slower
        work()
    seconds: dict[str, list[float]] = {stage: [] for stage in stages}
    for _ in range(options.repeats):
        for stage, work in stages.items():
            seconds[stage].append(timed(work, options.device))
    generation = zip(seconds.pop("generate"), seconds["prefill"], strict=True)
    seconds["decoding"] = [generated - prefilled for generated, prefilled in generation]
    memory = {stage: peak_memory(work, options.device) for stage, work in stages.items()}
    memory["decoding"] = memory.pop("generate")
    return {
        "image_size": model.config.vision_config.image_size,
        "prompt_tokens": prompt["input_ids"].shape[1],
        "image_tokens": model.config.num_image_tokens,
        "encoder_parameters": model.vision_encoder.num_parameters(),
        "decoder_parameters": model.language_model.num_parameters(),
        "threads": torch.get_num_threads(),
        "scan_backend": scan_backend(),
        "memory_before": memory_before,
        "memory": memory,
        "seconds": seconds,
    }


def print_model(name: str, result: dict, batch_size: int, new_tokens: int) -> None:
    """A Markdown table of one model."""
    encoder, decoder = (result[f"{part}_parameters"] / 1e6 for part in ("encoder", "decoder"))
    before = result["memory_before"]
    print(
        f"\n## {name}\n\n"
        f"Encoder of {encoder:.1f} M parameters at {result['image_size']} px, decoder of {decoder:.1f} M, "
        f"prompt of {result['prompt_tokens']} tokens ({result['image_tokens']} of them the image), "
        f"scan backend {result['scan_backend']}, CPU threads: {result['threads']}, "
        f"memory before: {mebibytes(before)} MiB.\n"
    )
    print("| stage | ms per batch, median (min to max) | images/s, median (min to max) | peak MiB | above before |")
    print("|---|---|---|---|---|")
    for stage, seconds in result["seconds"].items():
        peak = result["memory"][stage]
        above = None if peak is None else peak - before
        times, rates = spread([1000 * s for s in seconds]), spread([batch_size / s for s in seconds])
        print(f"| {stage} | {times} | {rates} | {mebibytes(peak)} | {mebibytes(above)} |")
    steps = new_tokens - 1
    decoding = result["seconds"]["decoding"]
    per_step, tokens = spread([1000 * s / steps for s in decoding]), spread([batch_size * steps / s for s in decoding])
    print(f"\nDecoding: {per_step} ms per step (one token of each report), {tokens} tokens/s over the batch.")


def mebibytes(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def spread(values: list[float]) -> str:
    """Median and range, in three digits."""

    def digits(value: float) -> str:
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

    return f"{digits(statistics.median(values))} ({digits(min(values))} to {digits(max(values))})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which (default: both)")
    parser.add_argument("--batch-size", type=int, default=4, help="studies at a time, one view each (default 4)")
    parser.add_argument("--new-tokens", type=int, default=64, help="length of every report, 2 or more (default 64)")
    parser.add_argument("--repeats", type=int, default=7, help="repeats after one to warm up (default 7)")
    parser.add_argument("--threads", type=int, default=0, help="torch's CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures (default 0)")
    parser.add_argument("--output", type=Path, help="JSON file for every single measurement")
    options = parser.parse_args()
    if options.new_tokens < 2 or options.batch_size < 1 or options.repeats < 1:
        parser.error("--new-tokens must be 2 or more, --batch-size and --repeats 1 or more")

    machine = describe_machine(options.device)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results = {}
    print(
        f"float32, batch of {options.batch_size}, {options.new_tokens} new tokens, {options.repeats} repeats, "
        f"PNG files of {PICTURE_SIZE} x {PICTURE_SIZE} px, seed {options.seed}"
    )
    with tempfile.TemporaryDirectory() as folder:
        pictures = draw_pictures(Path(folder), options.batch_size, options.seed)
        for name in options.models:
            # A process of its own, so that one model's memory is not the other's.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                results[name] = pool.submit(measure_model, name, pictures, options).result()
            print_model(name, results[name], options.batch_size, options.new_tokens)
    if options.output:
        settings = {key: value for key, value in vars(options).items() if key != "output"}
        options.output.write_text(
            json.dumps({"machine": machine, "options": settings, "results": results}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
