"""Recipes of stage 3: a report generator learns to write reports."""

from typing import Any

from pydantic import Field

from .recipe_base import Recipe, check_checkpoint, check_parts
from .recipe_sections import Section, refuse_unknown
from .recipe_text import RecipeError


class GeneratorSection(Section):
    """The report generator that is trained.

    Attributes:
        checkpoint: folder or Hub name of a whole report generator to continue from; excludes the encoder and the
            language model.
        system: which report generator is put together: `mambaxray`, `emrrg`, `ammrg` or another family's name.
        options: fields of its configuration, such as `hybrid_layers` of `emrrg`.
        parts: further pre-trained parts that the system takes, by name: folders or Hub names, such as the
            `text_encoder` of `bidirectional_rrg`.
        stage1: folder or Hub name of the model that an earlier stage of the same system left, such as a `classify`
            run's, for systems that start from one (`start_from_stage1`).
        memories: folders of `StudyMemory` artefacts by the names that the system has for them (`memory_names`). Each
            row must be of the training split of `data`, by study and by patient.
        vision_encoder: folder or Hub name of a pre-trained vision encoder (a model that has one, such as that of
            stage 2, counts too), or the configuration of a new one, with its `model_type`; that of `stage1` when null.
        language_model: folder or Hub name of a causal language model, or the configuration of a new one, with its
            `model_type`. The vocabulary and its special tokens come from the tokenizer.
        language_model_revision: branch, tag or commit of the language model on the Hub.
        language_model_dtype: dtype of the pre-trained language model, such as `bfloat16`; its own when null.
        quantization: `4bit` or `8bit` for a pre-trained language model in bitsandbytes' formats; null for none.
        freeze: parts that are not trained, such as `language_model` and `vision_encoder`.
        save_language_model: save the language model's weights even where they were not trained. Else the saved model
            refers to where they came from.
        save_training_parts: save the parts that only training needs with the model, too, and not in checkpoints alone.
        lora: arguments of peft's `LoraConfig`, for adapters on the language model; null for none. `target_modules`
            names modules within the language model.
        vision_lora: arguments of `apply_efficient_tuning` (`features`, `rank`, `scale`, `dropout`), for adapters on a
            vision Mamba, which is then not trained itself; null for none.
        vocab_size: size of the tokenizer that is trained on the reports, for a new language model.
        instruction: what the prompt asks for; the papers' words when null.
        prompt_template: the prompt with `{image}` and `{instruction}`; the papers' when null.
        processor: options of the system's own processor, such as `max_exemplar_tokens` of `disease_aware`.
        image_size: side of the image in pixels; the encoder's own when null.
        crop_from: resize images to this many pixels on the shorter edge, and cut a square of `image_size` out of the
            middle; null to stretch whole images to the square.
        random_crop: cut at random places in training, by the seed; needs `crop_from`.
        max_report_length: longest report in tokens in training; longer ones are cut. No limit when null.
    """

    checkpoint: str | None = None
    system: str = "mambaxray"
    options: dict[str, Any] = Field(default_factory=dict)
    parts: dict[str, str] = Field(default_factory=dict)
    stage1: str | None = None
    memories: dict[str, str] = Field(default_factory=dict)
    vision_encoder: str | dict[str, Any] | None = None
    language_model: str | dict[str, Any] | None = None
    language_model_revision: str | None = None
    language_model_dtype: str | None = None
    quantization: str | None = None
    freeze: list[str] = Field(default_factory=list)
    save_language_model: bool = False
    save_training_parts: bool = False
    lora: dict[str, Any] | None = None
    vision_lora: dict[str, Any] | None = None
    vocab_size: int = 1000
    instruction: str | None = None
    prompt_template: str | None = None
    processor: dict[str, Any] = Field(default_factory=dict)
    image_size: int | None = None
    crop_from: int | None = None
    random_crop: bool = False
    max_report_length: int | None = None

    def model_post_init(self, context: Any) -> None:
        check_parts(self, *(() if self.stage1 is not None else ("vision_encoder",)), "language_model")
        check_checkpoint(
            self,
            "system",
            "options",
            "parts",
            "stage1",
            "language_model_revision",
            "language_model_dtype",
            "vocab_size",
            "image_size",
            "crop_from",
        )
        if self.random_crop and self.crop_from is None and self.checkpoint is None:
            raise RecipeError("model.random_crop needs model.crop_from")
        for name in ("language_model_revision", "language_model_dtype"):
            if getattr(self, name) is not None and not isinstance(self.language_model, str):
                raise RecipeError(f"model.{name} needs a pre-trained model.language_model")
        if self.quantization not in (None, "4bit", "8bit"):
            raise RecipeError(f"model.quantization must be 4bit, 8bit or null, got {self.quantization!r}")
        if self.quantization is not None and not isinstance(self.language_model, str):
            raise RecipeError("model.quantization needs a pre-trained model.language_model")


class ContextSection(Section):
    """What a prompt says of a study's clinical context.

    Attributes:
        parts: of `indication`, `technique`, `comparison`, `prior_images` and `prior_report`, those that the prompt says
            where a study has them; none when empty, or those that `model.checkpoint` was trained with. Priors must be
            in the data: `data.options.prior` of a data set that was prepared with `--prior`, `history` of phantoms.
        dropout: rate at which each part of a study's context is left out in training, each by itself, so that the model
            also serves without it.
        max_prior_report_length: longest prior report in tokens; longer ones are cut. No limit when null.
    """

    parts: list[str] = Field(default_factory=list)
    dropout: float = 0.0
    max_prior_report_length: int | None = 100

    def model_post_init(self, context: Any) -> None:
        if not 0 <= self.dropout <= 1:
            raise RecipeError(f"context.dropout must be from 0 to 1, got {self.dropout}")
        if self.max_prior_report_length is not None and self.max_prior_report_length < 1:
            raise RecipeError(f"context.max_prior_report_length must be positive, got {self.max_prior_report_length}")


class FinetuneRecipe(Recipe):
    """Supervised fine-tuning of a report generator (stage 3).

    Attributes:
        model: what is trained.
        context: what a prompt says of a study's clinical context.
        sections: of `findings`, `impression` and `findings+impression`, those that the model learns to write when the
            prompt asks for them; each study asks for one that it has, another in every epoch. When empty the model
            writes the report of the data set, whatever that is.
        generation: arguments of transformers' `GenerationConfig`, used at evaluation and kept in the saved model.
        metrics: scores of the reports written at evaluation, by the names of `evaluation.scoring.evaluate_reports`
            (`BLEU`, `CIDEr`, `F1_micro_14_uncertain-negative` …); null to look at the loss only.
    """

    model: GeneratorSection
    context: ContextSection = Field(default_factory=ContextSection)
    sections: list[str] = Field(default_factory=list)
    generation: dict[str, Any] = Field(default_factory=dict)
    metrics: list[str] | None = None

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        from transformers import GenerationConfig

        from ..evaluation.score_tables import wanted_scores
        from ..processing.report_text import SECTIONS
        from ..processing.study_prompts import CONTEXT

        refuse_unknown(dict.fromkeys(self.context.parts), list(CONTEXT), "context.parts")
        refuse_unknown(dict.fromkeys(self.sections), list(SECTIONS), "sections")
        refuse_unknown(self.generation, list(GenerationConfig().to_dict()), "generation")
        try:
            wanted_scores(self.metrics)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"metrics: {error}") from error


__all__ = ["ContextSection", "FinetuneRecipe", "GeneratorSection"]
