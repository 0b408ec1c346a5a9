"""Stage 1: pre-training of a vision encoder on images alone, by next clusters or by a masked autoencoder."""

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForPreTraining,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    ViTMAEForPreTraining,
)

from ..data.image_folder import load_images
from ..data.studies import first_studies
from ..processing.image_processing_mambaxray import MambaXrayImageProcessor
from .collator import ImageCollator
from .patch_prediction_callback import PatchPredictionCallback
from .recipe_pretrain import ImageDataSection, PretrainerSection, PretrainRecipe
from .recipe_text import RecipeError
from .stage_parts import load_splits, named_part
from .weight_decay import SelectiveDecayTrainer


def make_trainer(recipe: PretrainRecipe, arguments: TrainingArguments, output: Path) -> Trainer:
    """The trainer of a pre-training recipe, ready to train.

    Args:
        recipe: what to train on what.
        arguments: the Trainer's.
        output: the run's folder; drawings of the predictions go into its `pictures`.
    """
    train, validation = _load_data(recipe)
    model = _make_model(recipe.model)
    if isinstance(model, ViTMAEForPreTraining):
        _keep_names(model)
    side = model.config.image_size
    image_processor = MambaXrayImageProcessor(size={"height": side, "width": side})
    collator = ImageCollator(image_processor)
    callbacks = []
    if recipe.picture_every is not None:
        rows = list(islice(train if validation is None else validation, recipe.picture_images))
        pixel_values = collator(rows)["pixel_values"][: recipe.picture_images]
        callbacks.append(PatchPredictionCallback(pixel_values, recipe.picture_every, output))
    if isinstance(model, ViTMAEForPreTraining) and arguments.label_names is None:
        # The Trainer reports the evaluation loss of such a model only where it finds labels.
        arguments.label_names = ["pixel_values"]
    return SelectiveDecayTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collator,
        processing_class=image_processor,
        callbacks=callbacks,
    )


def _load_data(recipe: PretrainRecipe) -> tuple[Any, Any]:
    data = recipe.data
    if not data.folders:
        return load_splits(data)
    rows = load_images(data.folders, data.streaming)
    if data.streaming:
        if recipe.training.get("max_steps", -1) < 1:
            raise RecipeError("a stream has no length: give training.max_steps")
        _refuse_options(data)
        if data.max_train is not None:
            rows = rows.take(data.max_train)
        # Within a window that memory holds easily, since a stream can't be shuffled whole.
        return rows.shuffle(seed=recipe.seed, buffer_size=1000), None
    _refuse_options(data)
    if not data.validation_share:
        return first_studies(rows, data.max_train), None
    split = rows.train_test_split(data.validation_share, seed=recipe.seed)
    return first_studies(split["train"], data.max_train), first_studies(split["test"], data.max_validation)


def _refuse_options(data: ImageDataSection) -> None:
    if data.options:
        raise RecipeError("data.options are for data.source; with data.folders give data.options={}")


def _make_model(section: PretrainerSection) -> PreTrainedModel:
    if section.checkpoint is not None:
        with named_part("model.checkpoint", section.checkpoint):
            return AutoModelForPreTraining.from_pretrained(section.checkpoint)
    try:
        return AutoModelForPreTraining.from_config(AutoConfig.for_model(**section.config or {}))
    except ValueError as error:
        raise RecipeError(f"model.config: {error}") from error


def _keep_names(model: PreTrainedModel) -> None:
    """Lets a model of transformers save its weights under the names of its own modules. By the names of the released
    files, which are the default for some, the Trainer does not find them in a checkpoint (5.24)."""
    model.save_pretrained = partial(model.save_pretrained, save_original_format=False)


__all__ = ["make_trainer"]
