"""What AM-MRG's memories do on phantoms: none, visual, report, both, and what a leak or noise does in their place.

    mambaxray classify --recipe ammrg_stage1_phantoms --output runs/stage1 ...
    mambaxray memory build --model runs/stage1/model --dataset phantoms ... --report-encoder ENCODER --output memories
    python benchmarks/ammrg_memories.py --stage1 runs/stage1/model --memories memories --report-encoder ENCODER

A tiny language model learns from scratch below the frozen encoder and the fixed queries of stage 1, for as many steps
in each setting and from the same seed. Compared is the loss on the test split: the mean negative log-likelihood of its
reports' tokens. In `report, of the test split` the report memory holds the reports that are scored, as that of the
released code does; in `noise` both memories are random vectors, with as many parameters as `both`.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from measure import print_machine
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mambaxray import build_generator, make_phantoms
from mambaxray.evaluation.labeler_sentences import sentences_of
from mambaxray.modeling_mambaxray.layers.report_encoder import ReportEncoder
from mambaxray.modeling_mambaxray.layers.study_memory import StudyMemory
from mambaxray.modeling_mambaxray.layers.unattributed_memory import UnattributedMemory
from mambaxray.modeling_mambaxray.modeling_ammrg import AMMRGForConditionalGeneration
from mambaxray.modeling_mambaxray.modeling_encoded_studies import EncodedStudyModel
from mambaxray.train.frozen_encoder import EncodedStudyCollator
from mambaxray.train.tokenizer import train_report_tokenizer

SETTINGS = {
    "none": (),
    "visual": ("visual",),
    "report": ("report",),
    "both": ("visual", "report"),
    "noise": ("visual", "report"),
    "report, of the test split": ("report",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage1", required=True, help="folder of the classifier")
    parser.add_argument("--memories", required=True, help="folder with visual and report")
    parser.add_argument("--report-encoder", required=True, help="what the report memory was built with")
    parser.add_argument("--num-studies", type=int, default=1500, help="as for stage 1 and the memories")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print_machine("cpu")
    print(f"{vars(options)}\n")

    splits = make_phantoms(options.num_studies, image_size=options.image_size)
    stage1 = AutoModel.from_pretrained(options.stage1).eval()
    memories = {name: StudyMemory.from_pretrained(f"{options.memories}/{name}") for name in ("visual", "report")}
    leak = encode_reports(options.report_encoder, list(splits["test"]["report"]))
    banks: dict[str, dict[str, Any]] = {
        name: {memory: memories[memory] for memory in kinds} for name, kinds in SETTINGS.items()
    }
    torch.manual_seed(0)
    banks["noise"] = {
        name: UnattributedMemory(torch.randn_like(memory.vectors["values"]), "random numbers")
        for name, memory in memories.items()
    }
    banks["report, of the test split"] = {"report": UnattributedMemory(leak, "the test split")}
    tokenizer = train_report_tokenizer(list(splits["train"]["report"]), 600)
    studies = None
    losses: dict[str, list[float]] = {name: [] for name in SETTINGS}
    trained, seconds = {}, dict.fromkeys(SETTINGS, 0.0)
    for seed in range(options.seeds):
        for name in SETTINGS:
            start = time.perf_counter()
            model, processor = make_model(stage1, tokenizer, banks[name], seed)
            studies = studies or {split: encoded(model, processor, splits[split]) for split in ("train", "test")}
            trained[name] = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
            collator = EncodedStudyCollator(processor, max_report_length=80)
            train(EncodedStudyModel(model), collator, studies["train"], options.steps, options.batch_size, seed)
            losses[name].append(evaluate(EncodedStudyModel(model), collator, studies["test"]))
            seconds[name] += time.perf_counter() - start
            print(f"seed {seed}, {name}: {losses[name][-1]:.4f}", flush=True)

    print(
        "\n| memories | trained parameters | test loss, mean of the seeds | each seed | less than none, each seed | s |"
    )
    print("|---|---|---|---|---|---|")
    for name, found in losses.items():
        less = [none - own for none, own in zip(losses["none"], found, strict=True)]
        cells = [f"{trained[name]:,}", f"{statistics.mean(found):.4f}", ", ".join(f"{loss:.4f}" for loss in found)]
        print(f"| {name} |", " | ".join([*cells, ", ".join(f"{d:+.4f}" for d in less), f"{seconds[name]:.0f}"]), "|")


def make_model(stage1: Any, tokenizer: Any, memories: dict[str, Any], seed: int) -> tuple[Any, Any]:
    """AM-MRG below a fresh tiny language model; encoder and queries are those of stage 1 and stay as they are."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.1, tie_word_embeddings=True, **sizes)
    widths = {f"{name}_memory_size": None for name in ("visual", "report")}
    widths |= AMMRGForConditionalGeneration.fields_from_memories(memories)
    model, processor = build_generator(
        stage1.get_encoder("image"),
        LlamaForCausalLM(config),
        tokenizer,
        system="ammrg",
        instruction="Describe.",
        prompt_template="{image} {instruction}",
        hopfield_heads=2,
        hopfield_head_size=32,
        hopfield_value_size=32,
        **AMMRGForConditionalGeneration.fields_from_stage1(stage1),
        **widths,
    )
    model.start_from_stage1(stage1)
    model.freeze_part("vision_encoder")
    if all(isinstance(memory, StudyMemory) for memory in memories.values()):
        model.set_memories(memories)
    else:
        model.set_unattributed_memories(memories)
    return model, processor


def encode_reports(name_or_path: str, reports: list[str]) -> Tensor:
    """As the report memory's rows: sentences one by one, their `cls`, the mean over a report."""
    encoder = ReportEncoder.from_pretrained(name_or_path, pooling="cls", unit="sentence", frozen=True)
    return encoder.encode(reports, AutoTokenizer.from_pretrained(name_or_path), split=sentences_of)


@torch.no_grad()
def encoded(model: Any, processor: Any, studies: Any) -> list[dict[str, Any]]:
    """Each study's report and visual tokens."""
    model.eval()
    rows = []
    for start in range(0, len(studies), 32):
        batch = studies[start : start + 32]
        tokens = model.encode_views(**processor.image_processor(batch["images"], return_tensors="pt"))
        rows += [{"report": r, "visual_tokens": t} for r, t in zip(batch["report"], tokens, strict=True)]
    return rows


def train(model: Any, collator: Any, studies: list[Any], steps: int, batch_size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(studies), (batch_size,), generator=generator).tolist()
        model(**collator([studies[index] for index in chosen]))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


@torch.no_grad()
def evaluate(model: Any, collator: Any, studies: list[Any]) -> float:
    model.eval()
    total = count = 0.0
    for start in range(0, len(studies), 32):
        batch = collator(studies[start : start + 32])
        tokens = int((batch["labels"][:, 1:] != -100).sum())
        total, count = total + tokens * float(model(**batch)["loss"]), count + tokens
    return total / count


if __name__ == "__main__":
    main()
