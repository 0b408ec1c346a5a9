"""`mambaxray demo`: from images and reports to a trained model and a page that shows what it has learned.

A tiny model is trained from scratch on the CPU: first its vision encoder learns to name the findings that a labeler
reads in the reports, then the whole model learns to write the reports. It is then tried on studies it has not seen.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import track
from transformers import LlamaConfig, Trainer, TrainingArguments, set_seed

from .configuration.configuration_mambaxray import MambaXrayConfig
from .configuration.configuration_vision_mamba import VisionMambaConfig
from .data.annotation_json import load_annotation_json
from .data.phantom import make_phantoms
from .data.schema import OBSERVATIONS, PRESENT
from .evaluation.baselines import best_constant_report, unique_ratio
from .evaluation.clinical import Labels, label_scores
from .evaluation.labeler import CheXpertStyleLabeler
from .evaluation.report_page import ScoreRow, ScoreTable, StudyResult, observation_scores, write_report_page
from .evaluation.svg_chart import Curve, Line
from .modeling_mambaxray.modeling_mambaxray import MambaXrayForConditionalGeneration
from .modeling_mambaxray.modeling_vision_mamba import VisionMambaForImageClassification
from .processing.image_processing_mambaxray import MambaXrayImageProcessor
from .processing.processing_mambaxray import MambaXrayProcessor
from .train.collator import LabelCollator, ReportCollator
from .train.tokenizer import train_report_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_F1 = "F1_micro_14_uncertain-negative"
_SHOWN_STUDIES = 12


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo's data, model and training.

    Attributes:
        num_phantoms: studies drawn when no data set is given, split into train, validation and test.
        num_test: held-out studies that are scored.
        num_validation: studies for the validation loss.
        image_size: height and width in pixels.
        vision_hidden: width of the encoder.
        vision_layers: blocks of the encoder.
        text_hidden: width of the decoder.
        text_layers: layers of the decoder.
        vocab_size: tokens of the tokenizer trained on the reports.
        batch_size: studies per step.
        warm_start_steps: steps in which the encoder alone learns to name findings.
        training_steps: steps in which the whole model learns to write reports.
        learning_rate: peak learning rate of both.
        max_report_length: tokens of the longest report.
    """

    num_phantoms: int = 5300
    num_test: int = 200
    num_validation: int = 100
    image_size: int = 128
    vision_hidden: int = 128
    vision_layers: int = 2
    text_hidden: int = 192
    text_layers: int = 3
    vocab_size: int = 800
    batch_size: int = 16
    warm_start_steps: int = 1500
    training_steps: int = 1000
    learning_rate: float = 1e-3
    max_report_length: int = 130


@dataclass(frozen=True)
class DemoScores:
    """What the demo measured on the held-out studies.

    Attributes:
        model: names and values of `label_scores` for the generated reports.
        constant: the same for the best constant report.
        unique: share of different reports among the generated ones.
        reference_unique: the same for the references.
        seconds: time for everything.
    """

    model: Mapping[str, float]
    constant: Mapping[str, float]
    unique: float
    reference_unique: float
    seconds: float


def run_demo(
    output: Path, *, data: Path | None = None, seed: int = 0, settings: DemoSettings | None = None
) -> DemoScores:
    """Trains on phantoms, or on a data set in R2Gen's format, and writes `index.html` and `model` into a folder.

    Args:
        output: folder to write into, made when absent.
        data: folder with `annotation.json` and images; phantoms when not given.
        seed: decides the phantoms, the initial weights and the order of training.
        settings: sizes; the defaults take some minutes on two cores.
    """
    settings = settings or DemoSettings()
    console = Console(stderr=True)
    started = perf_counter()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    set_seed(seed)

    console.rule("[bold]1 of 4: studies")
    studies = _phantoms(settings, seed) if data is None else load_annotation_json(data)
    train, test = studies["train"], studies["test"].select(range(min(settings.num_test, len(studies["test"]))))
    validation = studies["validation"].select(range(min(settings.num_validation, len(studies["validation"]))))
    labeler = CheXpertStyleLabeler()
    train_labels = labeler.batch(train["report"])
    console.print(f"{len(train)} studies to learn from, {len(test)} held out")

    model, processor = _make_model(settings, train["report"])
    console.rule("[bold]2 of 4: the vision encoder learns to name findings")
    _warm_start(model, processor, train, train_labels, settings, output, seed)
    console.rule("[bold]3 of 4: the model learns to write reports")
    curves = _fit(model, processor, train, validation, settings, output, seed)
    model.save_pretrained(output / "model")
    processor.save_pretrained(output / "model")

    console.rule("[bold]4 of 4: reports for studies it has not seen")
    hypotheses = generate_reports(model, processor, test, settings)
    references = [_truth(study, labeler) for study in test.remove_columns("images")]
    candidates = dict(zip(train["report"], train_labels, strict=True))
    constant, _ = best_constant_report(candidates, references)
    scores = DemoScores(
        model=label_scores(references, labeler.batch(hypotheses)),
        constant=label_scores(references, [labeler(constant)] * len(references)),
        unique=unique_ratio(hypotheses),
        reference_unique=unique_ratio(test["report"]),
        seconds=perf_counter() - started,
    )
    page = _write_page(output / "index.html", test, hypotheses, scores, curves, data, seed, settings)
    _tell(console, scores, page, output / "model")
    return scores


def _phantoms(settings: DemoSettings, seed: int) -> "DatasetDict":
    held_out = {"validation": settings.num_validation, "test": settings.num_test}
    shares = {name: count / settings.num_phantoms for name, count in held_out.items()}
    shares = {"train": 1 - sum(shares.values()), **shares}
    return make_phantoms(
        settings.num_phantoms, seed=seed, image_size=settings.image_size, splits=shares, num_proc=_processes()
    )


def _processes() -> int:
    return max(1, torch.get_num_threads())


def _make_model(
    settings: DemoSettings, reports: Sequence[str]
) -> tuple[MambaXrayForConditionalGeneration, MambaXrayProcessor]:
    vision_config = VisionMambaConfig(
        hidden_size=settings.vision_hidden,
        num_hidden_layers=settings.vision_layers,
        image_size=settings.image_size,
        state_size=8,
        # The usual 0.02 suits widths near 1,000; in a narrow model it leaves the blocks next to silent for a long time.
        initializer_range=settings.vision_hidden**-0.5,
        num_labels=len(OBSERVATIONS),
        problem_type="multi_label_classification",
    )
    # The prompt is part of what the tokenizer learns, or its rare words would be spelled letter by letter.
    instruction = "Describe the findings and give an impression."
    tokenizer = train_report_tokenizer([*reports, *[instruction] * len(reports)], settings.vocab_size)
    size = {"height": settings.image_size, "width": settings.image_size}
    processor = MambaXrayProcessor(
        MambaXrayImageProcessor(size=size, resample=3),
        tokenizer,
        num_image_tokens=vision_config.num_tokens,
        instruction=instruction,
        prompt_template="{image} {instruction}",
    )
    text_config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.text_hidden,
        intermediate_size=settings.text_hidden * 8 // 3,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.text_hidden // 32,
        max_position_embeddings=1024,
        initializer_range=settings.text_hidden**-0.5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = MambaXrayConfig(vision_config, text_config, image_token_id=processor.image_token_id)
    return MambaXrayForConditionalGeneration(config), processor


def _arguments(output: Path, steps: int, settings: DemoSettings, seed: int, **more: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output / "training"),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=0.05,
        adam_beta2=0.98,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 10),
        logging_steps=max(1, steps // 20),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        seed=seed,
        **more,
    )


def _warm_start(
    model: MambaXrayForConditionalGeneration,
    processor: MambaXrayProcessor,
    train: "Dataset",
    labels: Sequence[Labels],
    settings: DemoSettings,
    output: Path,
    seed: int,
) -> None:
    """Trains the encoder to name the findings that the reports state, and puts it back into the model."""
    classifier = VisionMambaForImageClassification(model.config.vision_config)
    present = [[float(study[name] == PRESENT) for name in OBSERVATIONS] for study in labels]
    trainer = Trainer(
        model=classifier,
        args=_arguments(output, settings.warm_start_steps, settings, seed),
        train_dataset=train.select_columns("images").add_column("targets", present),
        data_collator=LabelCollator(processor.image_processor),
    )
    trainer.train()
    model.vision_encoder.load_state_dict(classifier.vision_mamba.state_dict())


def _fit(
    model: MambaXrayForConditionalGeneration,
    processor: MambaXrayProcessor,
    train: "Dataset",
    validation: "Dataset",
    settings: DemoSettings,
    output: Path,
    seed: int,
) -> list[Curve]:
    """Trains the whole model to write the reports; returns its loss curves."""
    trainer = Trainer(
        model=model,
        args=_arguments(
            output,
            settings.training_steps,
            settings,
            seed,
            eval_strategy="steps",
            eval_steps=max(1, settings.training_steps // 8),
            per_device_eval_batch_size=settings.batch_size,
        ),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=ReportCollator(processor, settings.max_report_length),
    )
    trainer.train()
    lines = []
    for name, key in (("training", "loss"), ("validation", "eval_loss")):
        points = [(entry["step"], entry[key]) for entry in trainer.state.log_history if key in entry]
        lines.append(Line(name, [x for x, _ in points], [y for _, y in points]))
    return [Curve("Loss while learning to write reports", "step", "cross-entropy per token", lines)]


def generate_reports(
    model: MambaXrayForConditionalGeneration,
    processor: MambaXrayProcessor,
    studies: "Dataset",
    settings: DemoSettings,
) -> list[str]:
    """A report for each study, written greedily."""
    model.eval()
    reports = []
    starts = range(0, len(studies), settings.batch_size)
    for start in track(starts, "Writing reports", console=Console(stderr=True)):
        batch = studies[start : start + settings.batch_size]
        inputs = processor(images=batch["images"]).to(model.device)
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=settings.max_report_length, do_sample=False)
        prompt_length = inputs["input_ids"].shape[1]
        reports += processor.post_process_image_text_to_text(tokens, prompt_length=prompt_length)
    return reports


def _truth(study: Mapping[str, Any], labeler: CheXpertStyleLabeler) -> Labels:
    """A study's own labels where the data set has them (phantoms), else those that its report states."""
    labels = study["labels"]
    return labels if any(value is not None for value in labels.values()) else labeler(study["report"])


def _write_page(
    path: Path,
    test: "Dataset",
    hypotheses: Sequence[str],
    scores: DemoScores,
    curves: Sequence[Curve],
    data: Path | None,
    seed: int,
    settings: DemoSettings,
) -> Path:
    shown = [
        StudyResult(study["study_id"], study["images"], study["views"], study["report"], hypothesis)
        for study, hypothesis in zip(test.select(range(min(_SHOWN_STUDIES, len(test)))), hypotheses, strict=False)
    ]
    explanations = {
        _F1: "F1 over all (study, observation) pairs of the 14 observations",
        "precision_micro_14_uncertain-negative": "stated findings that are there",
        "recall_micro_14_uncertain-negative": "findings that are stated",
        "F1_macro_14_uncertain-negative": "mean of the observations' F1",
        "F1_micro_5_uncertain-negative": "F1 over CheXpert's five main observations",
    }
    rows = [
        ScoreRow(name, (scores.model[name], scores.constant[name]), explanation)
        for name, explanation in explanations.items()
    ]
    rows.append(
        ScoreRow(
            "unique reports",
            (scores.unique, 1 / len(hypotheses)),
            f"share of different reports; {scores.reference_unique:.2f} among the true ones",
        )
    )
    source = "phantoms, drawn chest X-rays with known findings" if data is None else f"the studies of {data}"
    return write_report_page(
        path,
        title="mambaxray demo",
        summary=(
            f"A tiny model, trained from scratch in minutes on {source}, writes reports for {len(hypotheses)} studies "
            f"that it has not seen. {len(shown)} of them are shown."
        ),
        studies=shown,
        scores=ScoreTable(("model", "best constant report"), rows),
        observations=observation_scores(scores.model),
        curves=curves,
        notes=(
            f"seed {seed}",
            f"{settings.warm_start_steps} + {settings.training_steps} steps of {settings.batch_size} studies",
            f"{scores.seconds / 60:.1f} minutes in all",
            "reports written greedily",
        ),
    )


def _tell(console: Console, scores: DemoScores, page: Path, model: Path) -> None:
    console.print(
        f"\nlabel F1 (micro, 14 observations): {scores.model[_F1]:.3f}, best constant report {scores.constant[_F1]:.3f}"
        f"\nunique reports: {scores.unique:.2f} (references {scores.reference_unique:.2f})"
        f"\nfinished in {scores.seconds / 60:.1f} minutes; the page: {page}"
        "\n\nA report for your own X-ray (the model knows nothing but what it was just shown; not a medical device):",
        highlight=False,
    )
    console.print(f"mambaxray generate YOUR_XRAY.png --model {model}", style="bold", highlight=False, soft_wrap=True)
