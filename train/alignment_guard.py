"""What alignment has done to a report generator: the same reports scored before and after, and how far it has moved.

A reward is easily served by reports that nobody wants: all alike, cut short, drawn out, or made of sentences that say
nothing. So every run writes the reports of the validation studies with the model that it started from and with the one
that it ends with, and puts side by side all metrics with paired intervals, the share of different reports, their
length, the share of sentences that can't be checked, and the KL divergence from the start.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..data.whole_file import write_whole
from ..evaluation.checkable import uncheckable_share
from ..evaluation.comparison import compare_reports
from ..evaluation.evaluate_model import generate_predictions
from ..evaluation.honesty import honesty_checks
from ..evaluation.report_writing import in_main_process
from ..evaluation.score_tables import LOWER_IS_BETTER
from ..evaluation.study_report import StudyReport
from ..evaluation.trainer_metrics import TRAINING_SCORES
from .alignment_result import GUARD_FILE
from .recipe_align import AlignRecipe

GUARD_SCORES = (*TRAINING_SCORES, "located")
"""Scores before and after, unless the recipe names others."""
_CHECKS = ("unique_ratio", "repetition", "truncated_share", "empty_share")


class AlignmentGuard(TrainerCallback):
    """Writes and scores reports before training and after it.

    Args:
        recipe: names the metrics and how reports are written.
        model, processor: the report generator at the start; of the model only its name is kept.
        studies: the validation studies; None where there are none, and then nothing is done.
        folder: gets `before.jsonl`, `after.jsonl` and `alignment.json`.
        batch_size: studies in work at a time.
    """

    def __init__(
        self,
        recipe: AlignRecipe,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        studies: Dataset | None,
        folder: Path,
        batch_size: int,
    ):
        self.start = model.name_or_path
        self.processor = processor
        self.studies = studies
        self.folder = folder
        self.batch_size = batch_size
        self.metrics = list(GUARD_SCORES if recipe.metrics is None else recipe.metrics)
        length = {name: value for name, value in recipe.generation.items() if name == "max_new_tokens"}
        self.generation = length | {"do_sample": False} | recipe.evaluation
        self._before: list[str] = []

    def before(self, model: PreTrainedModel) -> None:
        """Writes the reports of the start."""
        if self.studies is not None:
            self._before = [each.report or "" for each in self._reports(model, self.studies, "before")]

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.studies is None:
            return control
        model = kwargs["model"]
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        after = self._reports(model, self.studies, "after")
        written = [each.report or "" for each in after]
        was_training = model.training
        divergence = kl_to_start(model.eval(), self.start, self.processor, self.studies, written, self.batch_size)
        model.train(was_training)
        result = in_main_process(lambda: self._compare(after, written) | divergence)
        if PartialState().is_main_process:
            write_whole(self.folder / GUARD_FILE, json.dumps(result, indent=1))
        return control

    def _reports(self, model: PreTrainedModel, studies: Dataset, name: str) -> list[StudyReport]:
        file = self.folder / f"{name}.jsonl"
        if PartialState().is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
        PartialState().wait_for_everyone()
        options = {"batch_size": self.batch_size, **self.generation}
        return generate_predictions(model, self.processor, studies, output=file, **options)

    def _compare(self, after: Sequence[StudyReport], written: Sequence[str]) -> dict[str, Any]:
        references = [each.reference or "" for each in after]
        compared = compare_reports(
            references,
            written,
            self._before,
            metrics=self.metrics,
            patients=[each.patient_id or each.study_id for each in after],
        )
        scores = {
            name: {
                "before": compared["second"][name],
                "after": value,
                "difference": compared["differences"][name],
                "interval": list(compared["intervals"][name]),
                "is_worse": is_worse(name, compared["intervals"][name]),
            }
            for name, value in compared["first"].items()
        }
        checks = {name: honesty_checks(references, texts) for name, texts in self._texts(written).items()}
        words = {
            name: sum(len(text.split()) for text in texts) / len(texts)
            for name, texts in (self._texts(written) | {"reference": references}).items()
        }
        silent = {
            name: uncheckable_share(texts) for name, texts in (self._texts(written) | {"reference": references}).items()
        }
        return {
            "studies": len(after),
            "scores": scores,
            "checks": {
                name: {each: checks[each][name] for each in checks}
                | {"reference": checks["after"][f"reference_{name}"]}
                for name in _CHECKS
            }
            | {"words_per_report": words, "uncheckable_share": silent},
            "signature": compared["signature"],
            "unavailable": compared["unavailable"],
        }

    def _texts(self, after: Sequence[str]) -> dict[str, Sequence[str]]:
        return {"before": self._before, "after": after}


def is_worse(name: str, interval: Sequence[float]) -> bool:
    """Whether the interval of a score's difference, after minus before, lies wholly on the worse side."""
    return interval[0] > 0 if name in LOWER_IS_BETTER else interval[1] < 0


@torch.no_grad()
def kl_to_start(
    model: PreTrainedModel,
    start: str,
    processor: ProcessorMixin,
    studies: Dataset,
    reports: Sequence[str],
    batch_size: int,
) -> dict[str, float]:
    """Kullback-Leibler divergence of a model from its start, over the vocabulary at every token of its own reports.

    Args:
        model: the report generator, in evaluation mode.
        start: folder or Hub name of the model that it was.
        processor: of both.
        studies: of the package's schema.
        reports: what `model` wrote for them.
        batch_size: studies at a time.

    Returns:
        `kl_per_token` and `kl_per_report`, in nats: means over tokens and over reports.
    """
    reference = AutoModelForImageTextToText.from_pretrained(start).to(model.device).eval()
    if (remembered := vars(model).get("encode_images")) is not None:
        # The same frozen encoder, whose answers are known.
        vars(reference)["encode_images"] = remembered
    total, tokens = 0.0, 0
    for begin in range(0, len(reports), batch_size):
        rows = [studies[place] for place in range(begin, min(begin + batch_size, len(reports)))]
        rows = [row | {"report": report} for row, report in zip(rows, reports[begin:], strict=False)]
        batch = processor.prepare_studies(rows, with_reports=True).to(model.device)
        is_report = batch.pop("labels")[:, 1:] != -100
        new, old = (each(**batch).logits[:, :-1][is_report].float().log_softmax(dim=-1) for each in (model, reference))
        total += (new.exp() * (new - old)).sum().item()
        tokens += int(is_report.sum())
    return {"kl_per_token": total / max(tokens, 1), "kl_per_report": total / len(reports)}


__all__ = ["GUARD_SCORES", "AlignmentGuard", "is_worse", "kl_to_start"]
