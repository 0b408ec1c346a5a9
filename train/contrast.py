"""Stage 2: contrastive learning of X-rays and reports."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoProcessor, Trainer, TrainingArguments, VisionTextDualEncoderProcessor

from ..evaluation.retrieval import compute_retrieval_metrics
from ..modeling_mambaxray.modeling_mambaxray_dual_encoder import MambaXrayDualEncoder
from ..processing.image_processing_mambaxray import MambaXrayImageProcessor
from .collator import ContrastiveCollator
from .recipe_contrast import ContrastRecipe, DualEncoderSection
from .recipe_text import RecipeError
from .stage_parts import freeze, limit_length, load_splits, make_text_encoder, make_vision_encoder, named_part
from .weight_decay import SelectiveDecayTrainer


def make_trainer(recipe: ContrastRecipe, arguments: TrainingArguments, output: Path) -> Trainer:
    """The trainer of a contrastive recipe, ready to train. Evaluation reports the recall of retrieval.

    Args:
        recipe: what to train on what.
        arguments: the Trainer's.
        output: the run's folder.
    """
    train, validation = load_splits(recipe.data)
    if min(len(train), arguments.train_batch_size * arguments.world_size) < 2:
        raise RecipeError(
            "a step compares the studies of its batch with each other, so it needs two or more: there are "
            f"{len(train)} training studies, and training.per_device_train_batch_size is {arguments.train_batch_size}"
        )
    model, processor = make_dual_encoder(recipe.model, train["report"])
    freeze(model, recipe.model.freeze)
    return SelectiveDecayTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=ContrastiveCollator(
            processor.image_processor, processor.tokenizer, recipe.model.max_report_length
        ),
        processing_class=processor,
        compute_metrics=compute_retrieval_metrics,
    )


def make_dual_encoder(
    section: DualEncoderSection, reports: Sequence[str]
) -> tuple[MambaXrayDualEncoder, VisionTextDualEncoderProcessor]:
    """The model that a recipe describes, and its processor.

    Args:
        section: the recipe's `model`.
        reports: training reports, for the tokenizer of a new text encoder.
    """
    if section.checkpoint is not None:
        with named_part("model.checkpoint", section.checkpoint):
            model = MambaXrayDualEncoder.from_pretrained(section.checkpoint)
            return model, AutoProcessor.from_pretrained(section.checkpoint)
    vision = make_vision_encoder(section.vision_encoder, section.image_size)
    text, tokenizer = make_text_encoder(section.text_encoder, reports, section.vocab_size)
    with named_part("model.text_encoder", section.text_encoder):
        model = MambaXrayDualEncoder.from_vision_text_pretrained(vision, text, projection_dim=section.projection_dim)
    limit_length(tokenizer, model.config.text_config)
    side = vision.config.image_size
    image_processor = MambaXrayImageProcessor(size={"height": side, "width": side})
    return model, VisionTextDualEncoderProcessor(image_processor, tokenizer)


__all__ = ["make_dual_encoder", "make_trainer"]
