"""`mambaxray demo`: from images and reports to a trained model and a page that shows what it has learned.

A tiny model is trained from scratch on the CPU, in the order of the papers: first its vision encoder learns to see, on
phantoms with maps of their findings; then its decoder learns to write reports for what the encoder sees. The model is
then tried on studies it has not seen.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from datasets import load_from_disk
from rich.console import Console
from rich.progress import Progress
from torch import distributed, nn
from transformers import (
    AutoProcessor,
    LlamaConfig,
    Trainer,
    TrainingArguments,
    set_seed,
)

from .configuration.configuration_mambaxray import MambaXrayConfig
from .configuration.configuration_vision_mamba import VisionMambaConfig
from .data.annotation_json import load_annotation_json
from .data.output_lock import locked_output
from .data.phantoms import make_mapped_phantoms, make_phantoms
from .data.studies import first_studies
from .data.whole_file import write_whole
from .evaluation.baselines import best_constant_report
from .evaluation.clinical import Labels, label_scores
from .evaluation.evaluate_model import generate_predictions
from .evaluation.honesty import unique_ratio
from .evaluation.labeler import CheXpertStyleLabeler
from .evaluation.pages.charts import Curve, Line
from .evaluation.pages.report_page import write_report_page
from .evaluation.pages.scores import ScoreRow, ScoreTable, observation_scores
from .evaluation.study_report import StudyReport
from .modeling_mambaxray.modeling_encoded_studies import EncodedStudyModel
from .modeling_mambaxray.modeling_finding_maps import FindingMapModel
from .modeling_mambaxray.modeling_mambaxray import MambaXrayForConditionalGeneration
from .processing.image_processing_mambaxray import MambaXrayImageProcessor
from .processing.processing_mambaxray import MambaXrayProcessor
from .train.collator import ReportCollator
from .train.finding_maps import FindingMapCollator
from .train.frozen_encoder import EncodedStudies, EncodedStudyCollator, encode_studies
from .train.processes import run_in_processes
from .train.tokenizer import train_report_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_SPLITS = ("train", "validation")
_PAGE, _MODEL = "index.html", "model"
# Of the demo alone: what it works with, and the mark by which it knows a folder for its own.
_WORK, _TRAINING, _MARK = ".mambaxray_demo", "training", "made_by_the_demo"
_F1 = "F1_micro_14_uncertain-negative"
_SHOWN_STUDIES = 12
# Enough for the median answer of their patches.
_READ_OUT_IMAGES = 200
_MAX_PROCESSES = 4


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo's data, model and training.

    Attributes:
        num_studies: phantoms to learn from when no data set is given.
        num_validation: studies for the validation loss.
        num_test: held-out studies that are scored.
        num_mapped: phantoms with finding maps for the encoder's warm start.
        image_size: height and width in pixels.
        patch_size: side of a patch in pixels.
        vision_hidden: width of the encoder.
        vision_layers: blocks of the encoder.
        text_hidden: width of the decoder.
        text_layers: layers of the decoder.
        vocab_size: tokens of the tokenizer trained on the reports.
        vision_batch_size: images per step while the encoder learns to see findings, over all processes.
        vision_steps: steps in which it does.
        vision_learning_rate: peak learning rate of that.
        batch_size: studies per step while the model learns to write reports, over all processes.
        training_steps: steps in which it does.
        learning_rate: peak learning rate of that.
        max_report_length: tokens of the longest report.
    """

    num_studies: int = 4000
    num_validation: int = 96
    num_test: int = 200
    num_mapped: int = 5500
    image_size: int = 128
    patch_size: int = 16
    vision_hidden: int = 128
    vision_layers: int = 2
    text_hidden: int = 128
    text_layers: int = 3
    vocab_size: int = 800
    vision_batch_size: int = 8
    vision_steps: int = 2200
    vision_learning_rate: float = 2e-3
    batch_size: int = 16
    training_steps: int = 900
    learning_rate: float = 3e-3
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

    Raises:
        FileExistsError: the folder holds a page or a model that no demo has made.
        OutputInUseError: another process runs a demo in this folder.
    """
    settings = settings or DemoSettings()
    console = Console(stderr=True)
    started = perf_counter()
    output = Path(output)
    with locked_output(output, is_folder=True):
        _check_free(output)
        return _run_demo(output, data, seed, settings, console, started)


def _check_free(output: Path) -> None:
    """Refuses a folder with something in it that the demo would overwrite.

    Raises:
        FileExistsError: there is something, and it is of no earlier demo.
    """
    if (output / _WORK / _MARK).is_file():
        return
    if taken := next((name for name in (_PAGE, _MODEL, _WORK) if (output / name).exists()), None):
        raise FileExistsError(f"{output / taken} exists and was not made by the demo: choose another folder (--output)")


def _run_demo(
    output: Path, data: Path | None, seed: int, settings: DemoSettings, console: Console, started: float
) -> DemoScores:
    quieten_libraries()
    set_seed(seed)

    console.rule("[bold]1 of 4: studies")
    studies = _phantoms(settings, seed) if data is None else load_annotation_json(data)
    # What makes the folder the demo's, now that nothing is in the way.
    write_whole(output / _WORK / _MARK, "The page and the model beside this folder were made by mambaxray demo.\n")
    train, test = studies["train"], first_studies(studies["test"], settings.num_test)
    labeler = CheXpertStyleLabeler()
    train_labels = labeler.batch(train["report"])
    model, processor = _make_model(settings, train["report"])
    console.print(f"{len(train)} studies to learn from, {len(test)} held out")

    # Training happens in processes of its own, which read from here.
    work = output / _WORK / _TRAINING
    if work.exists():  # of a demo that was killed
        shutil.rmtree(work)
    train.save_to_disk(work / "train")
    first_studies(studies["validation"], settings.num_validation).save_to_disk(work / "validation")
    _mapped_phantoms(settings, seed).save_to_disk(work / "mapped")
    model.save_pretrained(output / _MODEL)
    processor.save_pretrained(output / _MODEL)
    processes = 1 if torch.cuda.is_available() else min(_processes(), _MAX_PROCESSES)
    run_in_processes(_train, (output, settings, seed, data is None), processes)
    model = MambaXrayForConditionalGeneration.from_pretrained(output / _MODEL)
    curves = _read_curves(work / "history.json")
    shutil.rmtree(work)

    console.rule("[bold]4 of 4: reports for studies it has not seen")
    hypotheses = _write_reports(model, processor, test, settings)
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
    page = _write_page(output / _PAGE, test, hypotheses, scores, curves, data, seed, settings)
    _summarize(console, scores, page, output / _MODEL)
    return scores


def quieten_libraries() -> None:
    """Leaves progress bars and results on the screen, not every library's remarks."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _phantoms(settings: DemoSettings, seed: int) -> "DatasetDict":
    counts = {"train": settings.num_studies, "validation": settings.num_validation, "test": settings.num_test}
    total = sum(counts.values())
    return make_phantoms(
        total,
        seed=seed,
        image_size=settings.image_size,
        splits={name: count / total for name, count in counts.items()},
        num_proc=_processes(),
    )


def _mapped_phantoms(settings: DemoSettings, seed: int) -> "Dataset":
    return make_mapped_phantoms(
        settings.num_mapped,
        seed=seed,
        image_size=settings.image_size,
        grid_size=settings.image_size // settings.patch_size,
        num_proc=_processes(),
    )


def _processes() -> int:
    return max(1, torch.get_num_threads())


def _make_model(
    settings: DemoSettings, reports: Sequence[str]
) -> tuple[MambaXrayForConditionalGeneration, MambaXrayProcessor]:
    vision_config = VisionMambaConfig(
        hidden_size=settings.vision_hidden,
        num_hidden_layers=settings.vision_layers,
        intermediate_size=_feed_forward_width(settings.vision_hidden),
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        # Made for learning from few images: fine lines are seen after some thousand, not some hundred thousand.
        patch_embedding="convolutional",
        state_size=4,
        # The usual 0.02 suits widths near 1,000; in a narrow model it leaves the blocks next to silent for a long time.
        initializer_range=settings.vision_hidden**-0.5,
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
        intermediate_size=_feed_forward_width(settings.text_hidden),
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


def _feed_forward_width(hidden: int) -> int:
    """The usual 8/3 of the width, rounded to whole SIMD registers: matrix products of odd widths are a third slower."""
    return round(hidden / 6) * 16


def _arguments(
    output: Path, steps: int, batch_size: int, learning_rate: float, seed: int, **more: Any
) -> TrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(output / _WORK / _TRAINING),
        max_steps=steps,
        per_device_train_batch_size=max(1, batch_size // processes),
        per_device_eval_batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.05,
        adam_beta2=0.98,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 10),
        logging_steps=max(1, steps // 20),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and processes > 1 else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not on_cpu,
        seed=seed,
        **more,
    )


def _train(output: Path, settings: DemoSettings, seed: int, on_phantoms: bool) -> None:
    """All that the training processes do, each of them."""
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    console = Console(stderr=True, quiet=rank > 0)
    console.rule("[bold]2 of 4: the vision encoder learns to see findings")
    _learn_to_see(output, settings, seed)
    _wait_for_all()
    console.rule("[bold]3 of 4: the model learns to write reports for images")
    if not on_phantoms:
        _learn_to_report(output, settings, seed)
        return
    # The encoder knows its task by now, so it looks at every study once.
    _look_once(output, settings, seed, rank, processes)
    _wait_for_all()
    _learn_to_report_from_tokens(output, settings, seed, processes)


def _wait_for_all() -> None:
    """Waits until every training process is here, and has written what the others read."""
    if distributed.is_initialized():
        distributed.barrier()


def _load(output: Path, seed: int) -> tuple[MambaXrayForConditionalGeneration, MambaXrayProcessor]:
    """What a training process starts from."""
    quieten_libraries()
    set_seed(seed)
    model = MambaXrayForConditionalGeneration.from_pretrained(output / _MODEL)
    return model, AutoProcessor.from_pretrained(output / _MODEL)


def _learn_to_see(output: Path, settings: DemoSettings, seed: int) -> None:
    """Trains the encoder of the model in `output` to see findings, and writes the model back.

    What was learned to read findings out of tokens becomes the first rows of the projection, so that the decoder has
    them before its eyes from the start. Its answer to a patch that shows nothing, far below zero, becomes zero: the
    layer norm behind would else make all patches look alike.
    """
    model, processor = _load(output, seed)
    seeing = FindingMapModel(model.vision_encoder)
    mapped = load_from_disk(output / _WORK / _TRAINING / "mapped")
    collator = FindingMapCollator(processor.image_processor)
    trainer = Trainer(
        model=seeing,
        args=_arguments(output, settings.vision_steps, settings.vision_batch_size, settings.vision_learning_rate, seed),
        train_dataset=mapped,
        data_collator=collator,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        read_out = seeing.classifier
        seeing.eval()
        with torch.no_grad():
            some = mapped.select(range(min(len(mapped), _READ_OUT_IMAGES)))
            nothing = seeing(**collator(list(some)))["logits"].flatten(0, 1).median(dim=0).values
            model.projector.weight[: read_out.out_features] = read_out.weight
            model.projector.bias[: read_out.out_features] = read_out.bias - nothing
        model.save_pretrained(output / _MODEL)


def _look_once(output: Path, settings: DemoSettings, seed: int, rank: int, processes: int) -> None:
    """Writes down what the encoder sees in the studies of this process's share."""
    model, processor = _load(output, seed)
    for split in _SPLITS:
        studies = load_from_disk(output / _WORK / _TRAINING / split).shard(processes, rank, contiguous=True)
        encode_studies(model, processor, studies, _tokens_file(output, split, rank), batch_size=settings.batch_size)


def _tokens_file(output: Path, split: str, part: int) -> Path:
    return output / _WORK / _TRAINING / f"{split}-tokens-{part}.npy"


def _learn_to_report_from_tokens(output: Path, settings: DemoSettings, seed: int, parts: int) -> None:
    """Trains all but the encoder of the model in `output` to write reports for what the encoder has seen."""
    model, processor = _load(output, seed)
    model.vision_encoder.requires_grad_(False)
    studies = []
    for split in _SPLITS:
        reports = load_from_disk(output / _WORK / _TRAINING / split)["report"]
        studies.append(EncodedStudies(reports, [_tokens_file(output, split, part) for part in range(parts)]))
    collator = EncodedStudyCollator(processor, settings.max_report_length)
    _train_reports(EncodedStudyModel(model), model, collator, studies, output, settings, seed)


def _learn_to_report(output: Path, settings: DemoSettings, seed: int) -> None:
    """Trains the whole model in `output` to write reports for images."""
    model, processor = _load(output, seed)
    studies = [load_from_disk(output / _WORK / _TRAINING / split) for split in _SPLITS]
    # Smaller steps: larger ones make an encoder that learns along forget what it knows.
    settings = replace(settings, learning_rate=settings.learning_rate / 3)
    _train_reports(model, model, ReportCollator(processor, settings.max_report_length), studies, output, settings, seed)


def _train_reports(
    trained: nn.Module,
    model: MambaXrayForConditionalGeneration,
    collator: Callable[..., Any],
    studies: Sequence[Any],
    output: Path,
    settings: DemoSettings,
    seed: int,
) -> None:
    """Trains `trained`, which holds `model`, on training and validation studies; writes model and history back."""
    train, validation = studies
    steps = settings.training_steps
    trainer = Trainer(
        model=trained,
        args=_arguments(
            output,
            steps,
            settings.batch_size,
            settings.learning_rate,
            seed,
            eval_strategy="steps",
            eval_steps=max(1, steps // 8),
        ),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collator,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        model.save_pretrained(output / _MODEL)
        (output / _WORK / _TRAINING / "history.json").write_text(json.dumps(trainer.state.log_history))


def _read_curves(file: Path) -> list[Curve]:
    history = json.loads(file.read_text())
    lines = []
    for name, key in (("training", "loss"), ("validation", "eval_loss")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        lines.append(Line(name, [x for x, _ in points], [y for _, y in points]))
    return [Curve("Loss while learning to write reports", "step", "cross-entropy per token", lines)]


def _write_reports(
    model: MambaXrayForConditionalGeneration, processor: MambaXrayProcessor, studies: "Dataset", settings: DemoSettings
) -> list[str]:
    """A report for each study, written greedily."""
    with Progress(console=Console(stderr=True)) as screen:
        task = screen.add_task("Writing reports")
        predictions = generate_predictions(
            model,
            processor,
            studies,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_report_length,
            do_sample=False,
            progress=lambda done, total: screen.update(task, completed=done, total=total),
        )
    return [prediction.report or "" for prediction in predictions]


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
        StudyReport(
            study["study_id"], study["images"], views=study["views"], report=hypothesis, reference=study["report"]
        )
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
            f"{settings.vision_steps} steps of {settings.vision_batch_size} images (encoder) and "
            f"{settings.training_steps} steps of {settings.batch_size} studies (reports)",
            f"{scores.seconds / 60:.1f} minutes in all",
            "reports written greedily",
        ),
    )


def _summarize(console: Console, scores: DemoScores, page: Path, model: Path) -> None:
    console.print(
        f"\nlabel F1 (micro, 14 observations): {scores.model[_F1]:.3f}, best constant report {scores.constant[_F1]:.3f}"
        f"\nunique reports: {scores.unique:.2f} (references {scores.reference_unique:.2f})"
        f"\nfinished in {scores.seconds / 60:.1f} minutes; the page: {page}"
        "\n\nA report for your own X-ray (the model knows nothing but what it was just shown; not a medical device):",
        highlight=False,
    )
    console.print(f"mambaxray generate YOUR_XRAY.png --model {model}", style="bold", highlight=False, soft_wrap=True)
