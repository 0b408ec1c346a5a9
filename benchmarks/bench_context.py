"""What a prior study is worth, and what it costs: change statements on phantoms with a history.

For each seed two decoders learn the same impressions of phantoms whose patients have two studies: one that never sees
a prior ("before"), and one that is shown the prior's images and report, each left out at random ("after"). Both then
write about studies that they have not seen. Counted is how often a change that is there (new, improved, unchanged,
worse, resolved) is stated rightly, and how many reports compare although no prior was given.

The vision encoder is trained once, to see findings on other phantoms, and is frozen. Everything is small: it says what
the inputs are worth to a model that can use them, and nothing about real X-rays.

    OMP_NUM_THREADS=1 python benchmarks/bench_context.py --output runs/context
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import print_machine, timed_in_turns, times_faster
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from mambaxray import VisionMambaConfig, VisionMambaModel, build_generator, make_phantoms
from mambaxray.data.phantoms import CHANGES, make_mapped_phantoms, sample_history
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.data.sections import ask_for_section
from mambaxray.evaluation.labeler import CheXpertStyleLabeler
from mambaxray.modeling_mambaxray.modeling_finding_maps import FindingMapModel
from mambaxray.processing.image_processing_mambaxray import MambaXrayImageProcessor
from mambaxray.train.finding_maps import FindingMapCollator
from mambaxray.train.tokenizer import train_report_tokenizer
from mambaxray.train.varied_studies import VariedStudies

SIZE, PATCH, WIDTH = 64, 16, 64
PARTS = ("prior_images", "prior_report")
INSTRUCTION = "Give an impression."
CONTEXTS: dict[str, tuple[str, ...]] = {"before": (), "after": PARTS}
"""What each model's prompts say."""
_MARKER = "shown"
"""Stands for prior images in a prompt, where their visual tokens are at hand."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the encoder and each seed's numbers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=[*CONTEXTS], default=[*CONTEXTS])
    parser.add_argument("--patients", type=int, default=1400, help="to learn from")
    parser.add_argument("--test-patients", type=int, default=150)
    parser.add_argument("--encoder-steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.15)
    parser.add_argument("--tables", nargs="+", choices=("cost", "changes"), default=["cost", "changes"])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    print_machine()
    if "cost" in options.tables:
        print_cost()
    if "changes" in options.tables:
        print_changes(options)


def print_changes(options: argparse.Namespace) -> None:
    """Trains and counts what is not in the output folder yet, and prints all of it."""
    data: Encoded | None = None
    results = []
    for seed in options.seeds:
        result = {}
        for model in options.models:
            file = options.output / f"seed-{seed}-{model}.json"
            if not file.is_file():
                data = data or prepare(options)
                file.write_text(json.dumps(run(seed, model, data, options), indent=1))
            result[model] = json.loads(file.read_text())
        results.append(result)
    if options.models == [*CONTEXTS]:
        print_results(results, options)


# ---------------------------------------------------------------------------------------- the data, seen once


class Encoded:
    """Phantoms with a history, and what the frozen encoder sees in each."""

    def __init__(self, splits: dict[str, list[dict[str, Any]]], tokens: dict[str, torch.Tensor]):
        self.splits, self.tokens = splits, tokens

    @classmethod
    def of(cls, model: Any, processor: Any, splits: Mapping[str, Any]) -> "Encoded":
        self = cls({}, {})
        for name, studies in splits.items():
            # Without the transform that would draw in every prior's images.
            rows = list(ask_for_section(studies.with_format(None), "impression"))
            reports = {row["study_id"]: row["report"] for row in rows}
            self.splits[name] = []
            for start in range(0, len(rows), 32):
                part = rows[start : start + 32]
                images = processor.image_processor([row["images"] for row in part], return_tensors="pt")
                with torch.no_grad():
                    tokens = model.encode_views(**images)
                for row, seen in zip(part, tokens, strict=True):
                    self.tokens[row["study_id"]] = seen
                    kept = {key: row[key] for key in ("study_id", "patient_id", "report", "prior")}
                    shown = [_MARKER] if row["prior"] else []
                    self.splits[name].append(
                        {**kept, "prior_images": shown, "prior_report": reports.get(row["prior"], "")}
                    )
        return self


def prepare(options: argparse.Namespace) -> Encoded:
    """The studies, from the output folder when they are there."""
    file = options.output / "studies.pt"
    if file.is_file():
        return Encoded(**torch.load(file, weights_only=True))
    total = options.patients + options.test_patients
    splits = make_phantoms(
        2 * total,
        seed=1,
        image_size=SIZE,
        history=True,
        splits={"train": options.patients / total, "test": options.test_patients / total},
    )
    encoder = trained_encoder(options)
    model, processor = make_model(encoder, list(splits["train"]["impression"]), ())
    data = Encoded.of(model.eval(), processor, splits)
    torch.save({"splits": data.splits, "tokens": data.tokens}, file)
    return data


def trained_encoder(options: argparse.Namespace) -> VisionMambaModel:
    """An encoder that has learned to see findings where they are, from the output folder when it is there."""
    folder = options.output / "encoder"
    if not (folder / "config.json").is_file():
        set_seed(0)
        config = VisionMambaConfig(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            image_size=SIZE,
            patch_size=PATCH,
            patch_embedding="convolutional",
            state_size=4,
            initializer_range=WIDTH**-0.5,
        )
        seeing = FindingMapModel(VisionMambaModel(config))
        mapped = make_mapped_phantoms(1500, seed=7, image_size=SIZE, grid_size=SIZE // PATCH)
        collate = FindingMapCollator(MambaXrayImageProcessor(size={"height": SIZE, "width": SIZE}))
        _train(seeing, DataLoader(mapped, 8, shuffle=True, collate_fn=collate, drop_last=True), options.encoder_steps)
        seeing.encoder.save_pretrained(folder)
    return VisionMambaModel.from_pretrained(folder).eval()


def make_model(encoder: VisionMambaModel, reports: Sequence[str], context: Sequence[str]) -> tuple[Any, Any]:
    said = [f"{INSTRUCTION} Prior image: Prior report:"] * len(reports)
    tokenizer = train_report_tokenizer([*reports, *said], 500)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    decoder = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=96**-0.5,
        tie_word_embeddings=True,
        **ids,
    )
    model, processor = build_generator(
        encoder,
        LlamaForCausalLM(decoder),
        tokenizer,
        instruction=INSTRUCTION,
        prompt_template="{image} {instruction}",
        processor_kwargs={"context": context, "max_prior_report_length": 60},
    )
    model.freeze_part("vision_encoder")
    return model, processor


# ---------------------------------------------------------------------------------------- learning and writing


class Collator:
    """Batches of studies whose images were encoded before."""

    def __init__(self, processor: Any, tokens: Mapping[str, torch.Tensor], with_reports: bool):
        self._processor, self._tokens, self._with_reports = processor, tokens, with_reports

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = self._processor(
            text=[self._processor.prompt_for(row) for row in rows],
            reports=[row["report"] for row in rows] if self._with_reports else None,
            return_tensors="pt",
        )
        batch["visual_tokens"] = torch.stack([self._tokens[row["study_id"]] for row in rows])
        shown = [bool("prior_images" in self._processor.context and row.get("prior_images")) for row in rows]
        if any(shown):
            nothing = torch.zeros_like(batch["visual_tokens"][0])
            batch["prior_visual_tokens"] = torch.stack(
                [self._tokens[row["prior"]] if has else nothing for row, has in zip(rows, shown, strict=True)]
            )
            batch["prior_view_mask"] = torch.tensor(shown)[:, None]
        return dict(batch)


def _train(model: Any, batches: Any, steps: int, peak: float = 3e-3) -> float:
    """AdamW with warm-up and cosine decay; returns the mean loss of the last tenth."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.1)
    model.train()
    losses: list[float] = []
    epoch = 0
    while len(losses) < steps:
        if isinstance(batches.dataset, VariedStudies):
            batches.dataset.epoch = epoch
        for batch in batches:
            output = model(**batch)
            loss = output["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if len(losses) % 100 == 0:
                print(f"  step {len(losses)}: loss {statistics.mean(losses[-100:]):.3f}", flush=True)
            if len(losses) == steps:
                break
        epoch += 1
    model.eval()
    return statistics.mean(losses[-max(1, steps // 10) :])


def show_findings(model: Any, data: Encoded) -> None:
    """Lets the first rows of the projection say which observations a token shows, as the demo does, so that the decoder
    has the findings before its eyes from the start: a read-out of tokens, learned from the training studies' labels."""
    rows = data.splits["train"]
    tokens = torch.stack([data.tokens[row["study_id"]] for row in rows])
    labels = torch.zeros(len(rows), len(OBSERVATIONS))
    for row, label in zip(rows, labels, strict=True):
        history = sample_history(int(row["patient_id"].rpartition("-")[2]))
        for finding in history.visits[bool(row["prior"])]:
            label[OBSERVATIONS.index(finding.observation)] = 1
    read_out = torch.nn.Linear(tokens.shape[-1], len(OBSERVATIONS))
    optimizer = torch.optim.AdamW(read_out.parameters(), lr=0.02)
    for _ in range(400):
        chosen = torch.randint(len(rows), (256,))
        logits = read_out(tokens[chosen]).amax(dim=1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"  read-out of findings: loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        nothing = read_out(tokens[:200]).flatten(0, 1).median(dim=0).values
        model.projector.weight[: len(OBSERVATIONS)] = read_out.weight
        model.projector.bias[: len(OBSERVATIONS)] = read_out.bias - nothing


def run(seed: int, name: str, data: Encoded, options: argparse.Namespace) -> dict[str, Any]:
    """A model of a seed, trained and counted."""
    context = CONTEXTS[name]
    first = [row for row in data.splits["test"] if not row["prior"]]
    later = [row for row in data.splits["test"] if row["prior"]]
    conditions = {
        "first": first,
        "later, prior withheld": [{**r, "prior_images": [], "prior_report": ""} for r in later],
    }
    if context:
        conditions["later, prior given"] = later
        conditions["later, report only"] = [{**row, "prior_images": []} for row in later]
        conditions["later, images only"] = [{**row, "prior_report": ""} for row in later]
    started = time.process_time()
    set_seed(seed)
    model, processor = make_model(trained_encoder(options), [row["report"] for row in data.splits["train"]], context)
    show_findings(model, data)
    studies = VariedStudies(data.splits["train"], context=context, dropout=options.dropout, seed=seed)
    collate = Collator(processor, data.tokens, True)
    print(f"seed {seed}, {name}", flush=True)
    results: dict[str, Any] = {
        "loss": _train(model, DataLoader(studies, options.batch_size, True, collate_fn=collate), options.steps)
    }
    for condition, rows in conditions.items():
        results[condition] = count(write(model, processor, rows, data), rows)
    results["cpu minutes"] = (time.process_time() - started) / 60
    return results


@torch.no_grad()
def write(model: Any, processor: Any, rows: Sequence[Mapping[str, Any]], data: Encoded) -> list[str]:
    collate = Collator(processor, data.tokens, False)
    reports = []
    for start in range(0, len(rows), 50):
        batch = collate(rows[start : start + 50])
        tokens = model.generate(**batch, max_new_tokens=60, do_sample=False)
        reports += processor.post_process_image_text_to_text(tokens, prompt_length=batch["input_ids"].shape[1])
    return reports


def stated_changes(report: str, labeler: CheXpertStyleLabeler) -> dict[str, set[str]]:
    """What a report says of the change of each observation."""
    changes: dict[str, set[str]] = {}
    for mention in labeler.read(report).mentions:
        for detail in mention.details:
            if detail.change:
                changes.setdefault(mention.observation, set()).add(detail.change)
    return changes


def count(reports: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many changes are there, are stated, and are stated rightly; how many reports compare."""
    labeler = CheXpertStyleLabeler()
    true: dict[str, int] = dict.fromkeys(CHANGES, 0)
    right: dict[str, int] = dict.fromkeys(CHANGES, 0)
    stated = named = comparing = 0
    for report, row in zip(reports, rows, strict=True):
        said = stated_changes(report, labeler)
        comparing += bool(said)
        stated += sum(len(each) for each in said.values())
        if not row["prior"]:
            continue
        for observation, change in sample_history(int(row["patient_id"].rpartition("-")[2])).changes.items():
            true[change] += 1
            named += observation in said
            right[change] += said.get(observation) == {change}
    return {
        "reports": len(reports),
        "comparing": comparing,
        "true": true,
        "named": named,
        "stated": stated,
        "right": right,
        "example": reports[0],
    }


# ---------------------------------------------------------------------------------------- tables


def print_results(results: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    rows = [
        ("never saw a prior", "before", "later, prior withheld"),
        ("prior in training, withheld", "after", "later, prior withheld"),
        ("prior in training, images only", "after", "later, images only"),
        ("prior in training, report only", "after", "later, report only"),
        ("prior in training, given", "after", "later, prior given"),
    ]
    patients = results[0]["after"]["first"]["reports"]
    print(f"\n{len(results)} seeds, {patients} held-out patients, {options.steps} steps\n")
    print("| follow-up studies | changes stated rightly | of those stated | reports that compare |")
    print("|---|---:|---:|---:|")
    for name, model, condition in rows:
        found = [result[model][condition] for result in results]
        recall = [sum(each["right"].values()) / sum(each["true"].values()) for each in found]
        precision = [sum(each["right"].values()) / max(1, each["stated"]) for each in found]
        comparing = [each["comparing"] / each["reports"] for each in found]
        print(f"| {name} | {_spread(recall)} | {_spread(precision)} | {_spread(comparing)} |")
    print("\n| change, prior given | there are | stated rightly | never saw a prior |")
    print("|---|---:|---:|---:|")
    for change in CHANGES:
        shares = [
            [each["right"][change] / each["true"][change] for each in (r[m][c] for r in results)]
            for m, c in (("after", "later, prior given"), ("before", "later, prior withheld"))
        ]
        there = results[0]["after"]["later, prior given"]["true"][change]
        print(f"| {change} | {there} | {_spread(shares[0])} | {_spread(shares[1])} |")
    print("\n| no prior given | before | after |")
    print("|---|---:|---:|")
    for name, condition in (("first studies", "first"), ("follow-ups, prior withheld", "later, prior withheld")):
        shares = [
            [each["comparing"] / each["reports"] for each in (result[model][condition] for result in results)]
            for model in ("before", "after")
        ]
        print(f"| {name}: reports that compare | {_spread(shares[0])} | {_spread(shares[1])} |")
    for model in ("before", "after"):
        minutes = [result[model]["cpu minutes"] for result in results]
        losses = [result[model]["loss"] for result in results]
        print(f"\n{model}: training loss {_spread(losses)}, {_spread(minutes)} minutes of one core")


def _spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def print_cost() -> None:
    """Time of the prompt's pass and of a training step, with and without a prior, images through the encoder."""
    set_seed(0)
    config = VisionMambaConfig(hidden_size=128, num_hidden_layers=4, image_size=128, patch_size=16, state_size=4)
    rows = list(make_phantoms(8, seed=3, image_size=128, history=True, splits={"train": 1.0})["train"])
    later = [row for row in rows if row["prior"]]
    tokenizer = train_report_tokenizer([*(row["report"] for row in rows), f"{INSTRUCTION} Prior image: report:"], 600)
    decoder = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8
    )
    model, processor = build_generator(
        VisionMambaModel(config),
        LlamaForCausalLM(decoder),
        tokenizer,
        instruction=INSTRUCTION,
        processor_kwargs={"context": PARTS},
    )
    kinds = {
        "no prior": ("prior_images", "prior_report"),
        "prior report": ("prior_images",),
        "prior images": ("prior_report",),
        "both": (),
    }
    batches = {
        name: [{key: value for key, value in row.items() if key not in left_out} for row in later]
        for name, left_out in kinds.items()
    }
    prompts = {name: processor.prepare_studies(studies) for name, studies in batches.items()}
    training = {name: processor.prepare_studies(studies, with_reports=True) for name, studies in batches.items()}

    def prefill(name: str) -> None:
        with torch.no_grad():
            model.eval()(**prompts[name], use_cache=True, logits_to_keep=1)

    def step(name: str) -> None:
        model.train()(**training[name]).loss.backward()
        model.zero_grad()

    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(
        f"\n{len(later)} studies of one view, {model.config.num_image_tokens} image tokens, {size:.1f} M parameters\n"
    )
    print("| prompt | tokens | prefill | training step |")
    print("|---|---:|---:|---:|")
    times = [timed_in_turns({name: partial(work, name) for name in kinds}, 3) for work in (prefill, step)]
    for name in kinds:
        length = prompts[name]["attention_mask"].sum(dim=1).float().mean().item()
        ratios = (times_faster(of_kind[name], of_kind["no prior"]) for of_kind in times)
        print(f"| {name} | {length:.0f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


if __name__ == "__main__":
    main()
