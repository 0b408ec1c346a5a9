"""What each branch of bidirectional learning costs in training, and that it costs nothing when reports are written.

OMP_NUM_THREADS=1 python benchmarks/bench_bidirectional.py [--batch 2] [--rounds 5]

Measured on a small model whose image embeddings are as many as the paper's (196 of 224 x 224 pixels), around a frozen
language model: the time of a training step (forward, backward, AdamW), its floating-point operations, and the memory
that it takes beyond the model, each beside vision-to-text alone. Then a report written by the model as it is saved for
use, by the one with its training parts, and by vision-to-text alone. Counted, without weights: the parameters at the
paper's sizes.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from measure import peak_memory, print_machine, timed_in_turns
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, LlamaConfig, ViTMAEConfig

from mambaxray import BidirectionalConfig, BidirectionalForConditionalGeneration

V2T = {"text_to_vision": 0.0, "reconstruction": 0.0}
ROWS: dict[str, dict[str, Any]] = {
    "V2T": {"loss_weights": V2T},
    "+CLIP": {"loss_weights": V2T | {"contrastive": 1.0}},
    "+T2V": {"loss_weights": {"reconstruction": 0.0}},
    "+T2V, queries": {"loss_weights": {"reconstruction": 0.0}, "text_to_vision_mode": "queries"},
    "+T2V+REC": {},
}
CHECKPOINTED = " (checkpointed)"
PROMPT, REPORT = 24, 60


def config(vision: dict[str, int], text: dict[str, int], encoder: dict[str, int], **options: Any) -> Any:
    return BidirectionalConfig(
        ViTMAEConfig(**vision), LlamaConfig(**text), text_encoder_config=BertConfig(**encoder), **options
    )


def small(**options: Any) -> BidirectionalForConditionalGeneration:
    wide = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    decoder = {f"decoder_{name}": size for name, size in wide.items()} | {"decoder_num_hidden_layers": 2}
    text = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = BidirectionalForConditionalGeneration(
        config(wide | decoder, text | {"vocab_size": 2000}, wide | {"vocab_size": 2000}, image_token_id=2000, **options)
    )
    model.freeze_language_model()
    return model


def inputs(batch: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(3, 2000, (batch, PROMPT + 196 + REPORT))
    tokens[:, PROMPT // 2 : PROMPT // 2 + 196] = 2000
    labels = tokens.clone()
    labels[:, :-REPORT] = -100
    prompt = torch.randint(3, 2000, (1, PROMPT)).expand(batch, -1).clone()
    prompt[:, PROMPT // 2] = 2000
    return {
        "pixel_values": torch.randn(batch, 3, 224, 224),
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": labels,
        "report_input_ids": torch.randint(3, 2000, (batch, 1, REPORT + 12)),
        "report_word_ids": tokens[:, -REPORT:],
        "vision_prompt_ids": prompt,
    }


def training_step(name: str, options: dict[str, Any], batch: int) -> Callable[[], None]:
    model = small(**options).train()
    if name.endswith(CHECKPOINTED):
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)
    given = inputs(batch)

    def step() -> None:
        model(**given).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def operations(step: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def print_training(batch: int, rounds: int) -> None:
    ways = dict(ROWS) | {f"{name}{CHECKPOINTED}": ROWS[name] for name in ("V2T", "+T2V+REC")}
    steps = {name: training_step(name, options, batch) for name, options in ways.items()}
    seconds = timed_in_turns(steps, rounds)
    print(f"\nA training step of {batch} images; x is times V2T.\n")
    print("| row | time | GFLOP | memory beyond the model, MiB |\n|---|---:|---:|---:|")
    base_operations, base_memory = None, None
    for name, step in steps.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["V2T"], strict=True))
        lowest, highest = (f(a / b for a, b in zip(seconds[name], seconds["V2T"], strict=True)) for f in (min, max))
        counted, before, peak = operations(step), peak_memory(lambda: None), peak_memory(step)
        memory = float("nan") if peak is None or before is None else peak - before
        base_operations, base_memory = base_operations or counted, base_memory or memory
        print(
            f"| {name} | x {ratio:.2f} ({lowest:.2f} to {highest:.2f}) "
            f"| {counted:.1f} (x {counted / base_operations:.2f}) | {memory:.0f} (x {memory / base_memory:.2f}) |",
            flush=True,
        )


def print_inference(rounds: int) -> None:
    given = {name: value for name, value in inputs(1).items() if name in ("pixel_values", "input_ids")}
    given["input_ids"] = given["input_ids"][:, :-REPORT]
    options = {"max_new_tokens": 20, "min_new_tokens": 20, "num_beams": 3}
    whole = small().eval()
    models = {"V2T": small(loss_weights=V2T).eval(), "with training parts": whole}
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        models["as saved"] = BidirectionalForConditionalGeneration.from_pretrained(folder).eval()
    works = {name: lambda model=model: model.generate(**given, **options) for name, model in models.items()}
    same = torch.equal(works["as saved"](), works["with training parts"]())
    seconds = timed_in_turns(works, rounds)
    print(f"\nA report of 20 tokens with 3 beams; the saved model writes the same as the whole one: {same}.\n")
    print("| model | time | parameters | modules | GFLOP |\n|---|---:|---:|---:|---:|")
    for name, model in models.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds["V2T"], strict=True)]
        ratio = f"x {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(
            f"| {name} | {ratio} | {model.num_parameters():,} | {len(list(model.modules()))} | "
            f"{operations(works[name]):.3f} |"
        )


def print_papers_sizes() -> None:
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    with torch.device("meta"):
        model = BidirectionalForConditionalGeneration(config(large, {}, {"vocab_size": 30524, "type_vocab_size": 1}))
    print("\nParameters at the paper's sizes (ViT-MAE large, Llama-2-7B, the text part of BLIP base):\n")
    print("| part | parameters | in the saved model |\n|---|---:|---|")
    for name, part in model.named_children():
        count = sum(weight.numel() for weight in part.parameters())
        if count:
            where = "no" if name in model.training_only_parts else "yes"
            print(f"| {name} | {count:,} | {'by reference' if name == 'language_model' else where} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_machine()
    print_training(arguments.batch, arguments.rounds)
    print_inference(arguments.rounds)
    print_papers_sizes()


if __name__ == "__main__":
    main()
