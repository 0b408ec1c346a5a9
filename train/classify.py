"""Stage 1 of AM-MRG and of the disease-aware dual-stage system: a vision encoder and disease queries learn from labels.

Beside the model the run's folder gets the AUROC and F1 of each observation, on the validation and the test split.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..configuration.families import families_of_stage
from ..data.label_policy import LabelPolicy, has_labels
from ..data.schema import OBSERVATIONS
from ..data.whole_file import write_whole
from ..evaluation.classification import best_thresholds, classification_metrics, classification_scores, sigmoid
from ..evaluation.labeler import CheXpertStyleLabeler
from ..processing.image_processing_mambaxray import MambaXrayImageProcessor
from .collator import ClassificationCollator
from .named_losses import NamedLossTrainer
from .recipe_classify import ClassifierSection, ClassifyRecipe, LabelsSection
from .recipe_text import RecipeError
from .run_folder import CLASSIFICATION_FILES
from .stage_parts import (
    check_system,
    freeze,
    limit_length,
    load_all_splits,
    make_text_encoder,
    make_vision_encoder,
    named_part,
    replace_column,
)

logger = logging.getLogger(__name__)


def make_trainer(recipe: ClassifyRecipe, arguments: TrainingArguments, output: Path) -> Trainer:
    """The trainer of a classification recipe, ready to train. Evaluation reports the mean AUROC and F1.

    Args:
        recipe: what to train on what.
        arguments: the Trainer's.
        output: the run's folder; the scores of each observation go there at the end.

    Raises:
        RecipeError: the data have no labels, or no reports for a system that learns from them.
    """
    policy = LabelPolicy(recipe.labels.uncertain, recipe.labels.blank)  # type: ignore[arg-type]  # the recipe checks it
    splits = labelled_splits(load_all_splits(recipe.data), recipe.labels)
    train = splits["train"]
    targets = label_targets(train, policy)
    if np.isnan(targets).all():
        raise RecipeError("no training study has a label that counts; see labels.uncertain, labels.blank and the data")
    model, processor = make_classifier(recipe.model, train["report"])
    if recipe.labels.positive_weights == "balanced":
        model.config.positive_weights = balanced_weights(targets)
    freeze(model, recipe.model.freeze)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None and (without := sum(not report.strip() for report in train["report"])):
        raise RecipeError(
            f"{without} of {len(train)} training studies have no report, which {model.config.model_type} learns from; "
            "choose a section that they have, or a system that learns from labels alone"
        )
    image_processor = getattr(processor, "image_processor", processor)
    trainer = NamedLossTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=splits.get("validation"),
        data_collator=ClassificationCollator(image_processor, tokenizer, recipe.model.max_report_length, policy),
        processing_class=processor,
        compute_metrics=classification_metrics,
    )
    scored: dict[str, Any] = {name: splits[name] for name in ("validation", "test") if name in splits}
    trainer.add_callback(ScoresAtTheEnd(trainer, scored, policy, recipe.seed, output))
    return trainer


def make_classifier(section: ClassifierSection, reports: Sequence[str]) -> tuple[PreTrainedModel, Any]:
    """The model that a recipe describes, and its processor, or its image processor where it takes no reports.

    Args:
        section: the recipe's `model`.
        reports: training reports, for the tokenizer of a new text encoder.

    Raises:
        RecipeError: the parts do not fit the system.
    """
    if section.checkpoint is not None:
        return _whole_classifier(section.checkpoint)
    family = check_system("classify", section.system, section.options)
    takes_reports = "text_config" in family.config_class.sub_configs
    if takes_reports != (section.text_encoder is not None):
        needed = "needs model.text_encoder" if takes_reports else "takes no reports: leave model.text_encoder out"
        raise RecipeError(f"{section.system} {needed}")
    vision = make_vision_encoder(section.vision_encoder, section.image_size)
    side = vision.config.image_size
    image_processor = MambaXrayImageProcessor(size={"height": side, "width": side})
    try:
        if takes_reports:
            text, tokenizer = make_text_encoder(section.text_encoder, reports, section.vocab_size)
            with named_part("model.text_encoder", section.text_encoder):
                model = family.model_class.from_vision_text_pretrained(vision, text, **section.options)
            limit_length(tokenizer, model.config.text_config)
            processor = family.processor_class(image_processor, tokenizer)
        else:
            model, processor = family.model_class.from_vision_pretrained(vision, **section.options), image_processor
    except (TypeError, ValueError) as error:
        raise RecipeError(f"model.options: {error}") from error
    if section.qformer is not None:
        with named_part("model.qformer", section.qformer):
            try:
                model.disease_queries.load_qformer(section.qformer)
            except ValueError as error:
                raise RecipeError(f"model.qformer: {error}") from error
    return model, processor


def _whole_classifier(checkpoint: str) -> tuple[PreTrainedModel, Any]:
    """A model of this stage and its processor from one folder."""
    with named_part("model.checkpoint", checkpoint):
        family = families_of_stage("classify").get(AutoConfig.from_pretrained(checkpoint).model_type)
        if family is None:
            raise RecipeError(f"model.checkpoint={checkpoint} is no model of this stage")
        processor_class = AutoImageProcessor if family.processor is None else AutoProcessor
        return AutoModel.from_pretrained(checkpoint), processor_class.from_pretrained(checkpoint)


def labelled_splits(splits: Mapping[str, Dataset], section: LabelsSection) -> dict[str, Dataset]:
    """The splits, with what the recipe says about studies without any label.

    Raises:
        RecipeError: there are such studies, and the recipe refuses them.
    """
    labelled = dict(splits)
    for name, studies in splits.items():
        labels = list(studies["labels"])
        without = [number for number, values in enumerate(labels) if not has_labels(values)]
        if not without:
            continue
        if section.unlabelled == "refuse":
            raise RecipeError(
                f"{len(without)} of {len(studies)} {name} studies have no label at all. labels.unlabelled=read reads "
                "labels from their reports, labels.unlabelled=ignore goes on without"
            )
        if section.unlabelled == "read":
            reports = studies["report"]
            read = CheXpertStyleLabeler().batch([reports[number] for number in without])
            for number, values in zip(without, read, strict=True):
                labels[number] = values
            labelled[name] = replace_column(studies, "labels", labels)
            logger.info("%s: labels of %d studies are read from their reports", name, len(without))
    return labelled


def label_targets(studies: Dataset, policy: LabelPolicy) -> NDArray[np.float64]:
    """What a policy makes of the labels of studies: `(studies, 14)`, NaN left out."""
    return np.array([policy.targets(labels) for labels in studies["labels"]]).reshape(-1, len(OBSERVATIONS))


def balanced_weights(targets: NDArray[np.float64]) -> list[float]:
    """For each observation the number of negative labels divided by that of positive ones, 1 where either is missing.

    Args:
        targets: `(studies, observations)`: 1 positive, 0 negative, NaN left out.
    """
    positives, negatives = (targets == 1).sum(axis=0), (targets == 0).sum(axis=0)
    pairs = zip(positives.tolist(), negatives.tolist(), strict=True)
    return [negative / positive if positive and negative else 1.0 for positive, negative in pairs]


class ScoresAtTheEnd(TrainerCallback):
    """Writes the scores of each observation into a run's folder when training ends, as JSON and as a table.

    Args:
        trainer: whose model is scored.
        splits: on which studies, by name. Where there is a validation split, the test split is scored a second time,
            with the thresholds that are best on the validation split.
        policy: what uncertain and blank labels are.
        seed: of the bootstrap samples.
        folder: the run's.
    """

    def __init__(
        self, trainer: Trainer, splits: Mapping[str, Dataset], policy: LabelPolicy, seed: int, folder: Path
    ) -> None:
        self._trainer, self._splits, self._policy, self._seed, self._folder = trainer, splits, policy, seed, folder

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        tables, thresholds = {}, None
        for name, studies in self._splits.items():
            if not len(studies):
                continue
            predictions = self._trainer.predict(studies).predictions  # in every process
            probabilities, targets = sigmoid(predictions), label_targets(studies, self._policy)
            options: dict[str, Any] = {"patients": studies["patient_id"], "seed": self._seed}
            tables[name] = classification_scores(probabilities, targets, **options)
            if name == "validation":
                thresholds = best_thresholds(probabilities, targets)
            elif thresholds is not None:
                tables[f"{name}, thresholds of validation"] = classification_scores(
                    probabilities, targets, thresholds=thresholds, **options
                )
        if not state.is_world_process_zero:
            return
        json_file, table_file = (self._folder / name for name in CLASSIFICATION_FILES)
        policy = f"Uncertain labels: {self._policy.uncertain}. Blank labels: {self._policy.blank}."
        values = {
            "labels": {"uncertain": self._policy.uncertain, "blank": self._policy.blank},
            "splits": {name: scores.to_dict() for name, scores in tables.items()},
        }
        write_whole(json_file, json.dumps(values, indent=1))
        text = "\n".join(f"## {name}\n\n{scores.to_markdown()}" for name, scores in tables.items())
        write_whole(table_file, f"# Observations\n\n{policy}\n\n{text}")


__all__ = [
    "ScoresAtTheEnd",
    "balanced_weights",
    "label_targets",
    "labelled_splits",
    "make_classifier",
    "make_trainer",
]
