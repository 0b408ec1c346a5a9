"""Report generation for many studies: this package's engine beside plain `generate` and the released code's way.

    python benchmarks/bench_generate.py --threads 1                                    # a small decoder, on the CPU
    python benchmarks/bench_generate.py --model 7b --device cuda --batch-size 128 --studies 512 --beams 3 --exact 100

Weights are random, but the decoder is made so that its reports have chosen lengths: each token is the embedding-wise
successor of the next one, so that the last word of the prompt counts down to the end. It computes what any decoder of
its shape computes. Lengths are log-normal with a median of 60 tokens, at most 256.

What is compared, on the same prepared studies (encoder included), one after the other in every round:

- ours: `generate_continuously`
- plain: `model.generate` in fixed batches, each going on until its longest report ends
- ours forced, released: the same two with 80 to 120 tokens for every report, repetition penalty 2 and length penalty 2,
  as the released code of R2GenGPT and MambaXray-VL generates (one fixed batch, the whole cache copied at every reorder)
- ours exact, plain exact: with `--exact N`, N tokens for every report

On one CPU thread the processor's time is taken, which other programs change less; else the wall's clock.
The first token is that of one study; a step gives all reports of a full batch one more token. Memory is the most that
was in use at once, less what was in use before.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import describe_machine, peak_memory, timed, times_faster
from transformers import LlamaConfig

from mambaxray import MambaXrayConfig, MambaXrayForConditionalGeneration, VisionMambaConfig
from mambaxray.modeling_mambaxray.generation.continuous_generation import generate_continuously
from mambaxray.modeling_mambaxray.generation.study_batch import stack_studies

# Studies of CheXpert Plus's test set, and the minutes that the papers report for it.
TEST_SET = 11562
PAPERS = "EMRRG 26.84, MambaXray-VL base 50.66, large 55.18 minutes on A800 GPUs"

EOS = 2
LONGEST = 256
PROMPT_WORDS = 60
MODELS = {
    "tiny": (
        {"hidden_size": 128, "num_hidden_layers": 4, "image_size": 128, "patch_size": 16, "state_size": 8},
        {
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "vocab_size": 1024,
        },
    ),
    "small": (
        {"hidden_size": 128, "num_hidden_layers": 4, "image_size": 192, "patch_size": 16, "state_size": 8},
        {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8},
    ),
    # MambaXray-VL: its base encoder, and a decoder with the shape of Llama-2-7B.
    "7b": ({}, {"vocab_size": 32000}),
}
RELEASED = {"min_new_tokens": 80, "max_new_tokens": 120, "repetition_penalty": 2.0, "length_penalty": 2.0}


def make_model(name: str, device: str, seed: int) -> MambaXrayForConditionalGeneration:
    """A model whose decoder answers token n with token n - 1."""
    torch.manual_seed(seed)
    vision_values, text_values = MODELS[name]
    text = LlamaConfig(**{"vocab_size": 8000, **text_values}, bos_token_id=1, eos_token_id=EOS, pad_token_id=0)
    config = MambaXrayConfig(VisionMambaConfig(**vision_values), text, image_token_id=text.vocab_size)
    with torch.device(device):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = MambaXrayForConditionalGeneration._from_config(config, dtype=dtype).eval()
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    size = text.hidden_size
    with torch.no_grad():
        words = torch.randn_like(embeddings)
        common = torch.nn.functional.normalize(torch.randn_like(words[0]), dim=0)
        # Large beside what the layers add, so that the newest token decides about the next.
        embeddings.copy_(10 * (words + size**0.5 * common))
        head.normal_(std=0.02)
        head[EOS : EOS + LONGEST] += words[EOS + 1 : EOS + LONGEST + 1] / size**0.5
        # The end is always the second choice, as beams need it to be done when the best report is.
        head[EOS] += 0.5 * common
    return model


def make_studies(model: MambaXrayForConditionalGeneration, count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Prepared studies whose prompts end with the length of their report."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (60 * torch.exp(0.5 * torch.randn(count, generator=generator))).round().clamp(8, LONGEST).long()
    side = model.config.vision_config.image_size
    studies = []
    for length in lengths.tolist():
        words = torch.randint(2 * LONGEST, model.config.text_config.vocab_size, (PROMPT_WORDS,), generator=generator)
        image = torch.full((model.config.num_image_tokens,), model.config.image_token_id)
        ids = torch.cat([torch.tensor([1]), image, words, torch.tensor([EOS + length])]).unsqueeze(0)
        studies.append(
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "pixel_values": torch.randn(1, 1, 3, side, side, generator=generator).to(model.dtype),
                "view_mask": torch.ones(1, 1, dtype=torch.bool),
            }
        )
    return studies


def clock(options: argparse.Namespace) -> Callable[[], float]:
    """What tells the time."""
    return time.process_time if options.device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


Generate = Callable[..., list[list[int]]]


def ours(model: Any, studies: list[dict], batch_size: int, **options: Any) -> list[list[int]]:
    """New tokens of each study by this package's engine."""
    reports = dict(generate_continuously(model, studies, batch_size=batch_size, do_sample=False, **options))
    return [reports[position].tolist() for position in range(len(studies))]


def plain(model: Any, studies: list[dict], batch_size: int, **options: Any) -> list[list[int]]:
    """The same by `model.generate` in fixed batches."""
    reports = []
    for start in range(0, len(studies), batch_size):
        batch = {name: value.to(model.device) for name, value in stack_studies(studies[start:][:batch_size]).items()}
        tokens = model.generate(**batch, do_sample=False, **options)[:, batch["input_ids"].shape[1] :]
        reports += [row[: row.index(EOS) + 1] if EOS in row else row for row in tokens.tolist()]
    return reports


def measure(model: Any, studies: list[dict], num_beams: int, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one number of beams."""
    settings = {"mixed": {"max_new_tokens": LONGEST}, "forced": RELEASED}
    if options.exact:
        settings["exact"] = {"min_new_tokens": options.exact, "max_new_tokens": options.exact}
    variants = {
        f"{way} {name}": (function, {**values, "num_beams": num_beams})
        for name, values in settings.items()
        for way, function in (("ours", ours), ("plain", plain))
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    reports: dict[str, list[list[int]]] = {}
    for function in (ours, plain):  # the first call of each is slower
        function(model, studies[: options.batch_size], options.batch_size, num_beams=num_beams, max_new_tokens=2)
    for _ in range(options.rounds):
        for name, (function, values) in variants.items():

            def work(name: str = name, function: Generate = function, values: dict = values) -> None:
                reports[name] = function(model, studies, options.batch_size, **values)

            seconds[name].append(timed(work, options.device, clock(options)))
    return {
        "seconds": seconds,
        "lengths": {name: [len(report) for report in found] for name, found in reports.items()},
        "equal": {
            name: sum(a == b for a, b in zip(reports[f"ours {name}"], reports[f"plain {name}"], strict=True))
            for name in settings
        },
        "latency": {way: latency(model, function, studies, num_beams, options) for way, function in WAYS.items()},
        "memory": {way: memory(model, function, studies, num_beams, options) for way, function in WAYS.items()},
    }


WAYS: dict[str, Generate] = {"ours": ours, "plain": plain}


def latency(model: Any, function: Generate, studies: list[dict], beams: int, options: argparse.Namespace) -> dict:
    """Milliseconds to the first token of one study, and of a step of a full batch."""
    batch = studies[: options.batch_size]

    def run(chosen: list[dict], tokens: int) -> float:
        values = {"min_new_tokens": tokens, "max_new_tokens": tokens, "num_beams": beams}
        return timed(lambda: function(model, chosen, options.batch_size, **values), options.device, clock(options))

    first = [run(batch[:1], 1) for _ in range(3)]
    steps = [(run(batch, 41) - run(batch, 1)) / 40 for _ in range(3)]
    return {"first": 1000 * statistics.median(first), "step": 1000 * statistics.median(steps)}


def memory(
    model: Any, function: Generate, studies: list[dict], beams: int, options: argparse.Namespace
) -> float | None:
    """MiB above the model at the peak, one full batch of 100 tokens each."""
    values = {"min_new_tokens": 100, "max_new_tokens": 100, "num_beams": beams}
    before = peak_memory(lambda: None, options.device)
    peak = peak_memory(
        lambda: function(model, studies[: options.batch_size], options.batch_size, **values), options.device
    )
    return None if peak is None or before is None else peak - before


def show(num_beams: int, result: dict[str, Any], count: int) -> None:
    """A Markdown table of one number of beams."""
    print(f"\n## {num_beams} beam{'s' if num_beams > 1 else ''}\n")
    print("| lengths | way | tokens per report, median (most) | studies/s | times plain | test set, minutes |")
    print("|---|---|---|---|---|---|")
    for name, seconds in result["seconds"].items():
        way, lengths = name.split()
        tokens = result["lengths"][name]
        median = statistics.median(seconds)
        ratio = times_faster(result["seconds"][f"plain {lengths}"], seconds)
        label = "released" if name == "plain forced" else way
        print(
            f"| {lengths} | {label} | {statistics.median(tokens):.0f} ({max(tokens)}) | {count / median:.3g} | "
            f"{ratio:.2f} | {TEST_SET * median / count / 60:.1f} |"
        )
    equal = ", ".join(f"{name} {number} of {count}" for name, number in result["equal"].items())
    print(f"\nEqual reports: {equal}.\n")
    print("| way | first token, ms | step of a batch, ms | memory above the model, MiB |")
    print("|---|---|---|---|")
    for way, times in result["latency"].items():
        peak = result["memory"][way]
        print(f"| {way} | {times['first']:.1f} | {times['step']:.2f} | {'-' if peak is None else f'{peak:.0f}'} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--studies", type=int, default=32, help="how many (default 32)")
    parser.add_argument("--batch-size", type=int, default=8, help="studies at a time (default 8)")
    parser.add_argument("--exact", type=int, default=0, help="also with exactly N tokens per report")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default 3)")
    parser.add_argument("--threads", type=int, default=0, help="torch's CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="cpu", help="cpu (float32) or cuda (bfloat16)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for every single measurement")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = make_model(options.model, options.device, options.seed)
    studies = make_studies(model, options.studies, options.seed)
    machine = describe_machine(options.device)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    encoder, decoder = (part.num_parameters() / 1e6 for part in (model.vision_encoder, model.language_model))
    print(
        f"{options.model}: encoder of {encoder:.1f} M parameters, decoder of {decoder:.1f} M, {model.dtype}, prompt of "
        f"{studies[0]['input_ids'].shape[1]} tokens, {options.studies} studies in batches of {options.batch_size}, "
        f"{options.rounds} rounds, CPU threads: {torch.get_num_threads()}\n\n"
        f"Test set: CheXpert Plus, {TEST_SET:,} studies, by extrapolation; the papers: {PAPERS}."
    )
    results = {}
    for num_beams in options.beams:
        results[num_beams] = measure(model, studies, num_beams, options)
        show(num_beams, results[num_beams], options.studies)
    if options.output:
        settings = {key: value for key, value in vars(options).items() if key != "output"}
        options.output.write_text(
            json.dumps({"machine": machine, "options": settings, "results": results}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
