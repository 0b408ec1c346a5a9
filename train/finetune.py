"""Stage 3: supervised fine-tuning of a report generator, with a frozen, adapted or fully trained language model."""

import inspect
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
    TrainingArguments,
)

from ..configuration.configuration_mambaxray import MambaXrayConfig
from ..configuration.families import families_of_stage
from ..data.studies import report_cleaning
from ..evaluation.trainer_metrics import report_metrics
from ..processing.build_generator import build_generator
from ..processing.processing_mambaxray import (
    CONTEXT,
    DEFAULT_INSTRUCTION,
    DEFAULT_PROMPT_TEMPLATE,
    SECTION_INSTRUCTIONS,
)
from .collator import ReportCollator
from .partial_lora import apply_efficient_tuning
from .recipe import FinetuneRecipe, GeneratorSection, RecipeError
from .report_trainer import ReportTrainer
from .run_folder import BASE, claim_run_folder
from .stage_parts import freeze, load_splits, make_vision_encoder, named_part
from .tokenizer import train_report_tokenizer
from .varied_studies import EpochOfStudies, VariedStudies


def make_trainer(recipe: FinetuneRecipe, arguments: TrainingArguments, output: Path) -> ReportTrainer:
    """The trainer of a fine-tuning recipe, ready to train.

    Args:
        recipe: what to train on what.
        arguments: the Trainer's.
        output: the run's folder; with adapters the model below the adapters is saved in its `base`.
    """
    train, validation = load_splits(recipe.data)
    _check_priors(recipe.context.parts, train)
    model, processor = make_generator(recipe.model, _texts(recipe, train), processor_options(recipe))
    model.generation_config.update(**recipe.generation)
    freeze(model, recipe.model.freeze)
    if recipe.model.lora is not None or recipe.model.vision_lora is not None:
        if PartialState().is_main_process:
            # What lies below the adapters is the first thing that is written there.
            claim_run_folder(output, recipe)
        model = _add_adapters(model, recipe.model, output / BASE)
    callbacks = []
    if recipe.sections or recipe.context.dropout:
        cleaning = report_cleaning(recipe.data.source, recipe.data.options)
        asked = {"sections": recipe.sections, "cleaning": cleaning, "seed": recipe.seed}
        train = VariedStudies(train, context=processor.context, dropout=recipe.context.dropout, **asked)
        validation = None if validation is None else VariedStudies(validation, **asked)
        callbacks.append(EpochOfStudies(train))
    return ReportTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        callbacks=callbacks,
        data_collator=ReportCollator(processor, recipe.model.max_report_length, for_generation=True),
        processing_class=processor,
        compute_metrics=None if recipe.metrics is None else report_metrics(recipe.metrics),
    )


def processor_options(recipe: FinetuneRecipe) -> dict[str, Any]:
    """What a recipe says of context and sections, as arguments of the processor."""
    options: dict[str, Any] = {}
    if recipe.context.parts:
        options["context"] = recipe.context.parts
        options["max_prior_report_length"] = recipe.context.max_prior_report_length
    if recipe.sections:
        options["section_instructions"] = recipe.sections
    return options


def _check_priors(parts: Sequence[str], train: Any) -> None:
    named = [part for part in parts if part.startswith("prior_")]
    if named and not {*named} <= train[0].keys():
        raise RecipeError(
            f"context.parts names {', '.join(named)}, which the data does not show: give data.options.prior=true for "
            "data with priors (mambaxray prepare --prior), or data.options.history=true for phantoms"
        )


def _texts(recipe: FinetuneRecipe, train: Any) -> Sequence[str]:
    """What a tokenizer is trained on: the reports, and what prompts say of the context."""
    texts = list(train["report"])
    for part in recipe.context.parts:
        # A prior's report is one of the reports.
        said = train[part] if part in train.column_names else [""] * len(texts)
        texts += [CONTEXT[part].format(text) for text in said]
    for section in recipe.sections:
        texts += [SECTION_INSTRUCTIONS[section]] * len(train)
    return texts


def make_generator(
    section: GeneratorSection, reports: Sequence[str], processor_kwargs: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model that a recipe describes, and its processor.

    Args:
        section: the recipe's `model`.
        reports: training reports, for the tokenizer of a new language model.
        processor_kwargs: further arguments of the processor, such as `context`.
    """
    processor_kwargs = dict(processor_kwargs or {})
    if section.checkpoint is not None:
        return _whole_generator(section, processor_kwargs)
    _check_system(section)
    encoder = make_vision_encoder(section.vision_encoder, section.image_size)
    instruction = section.instruction or DEFAULT_INSTRUCTION
    if isinstance(section.language_model, str):
        with named_part("model.language_model", section.language_model):
            tokenizer = AutoTokenizer.from_pretrained(section.language_model, revision=section.language_model_revision)
        language_model: str | PreTrainedModel = section.language_model
    else:
        # The prompt is part of what the tokenizer learns, or its rare words would be spelled letter by letter.
        tokenizer = train_report_tokenizer([*reports, *[instruction] * len(reports)], section.vocab_size)
        language_model = _new_language_model(section.language_model, tokenizer)
    with named_part("model.language_model", section.language_model):
        model, processor = build_generator(
            encoder,
            language_model,
            tokenizer,
            system=section.system,
            instruction=instruction,
            prompt_template=section.prompt_template or DEFAULT_PROMPT_TEMPLATE,
            processor_kwargs=processor_kwargs,
            text_kwargs=_loading_options(section) if isinstance(language_model, str) else None,
            **section.options,
        )
    if section.save_language_model:
        model.language_model_reference = None
    return model, processor


def _whole_generator(
    section: GeneratorSection, processor_kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A report generator and its processor from one folder, with the recipe's prompt where it has one."""
    with named_part("model.checkpoint", section.checkpoint):
        model = AutoModelForImageTextToText.from_pretrained(section.checkpoint)
        processor = AutoProcessor.from_pretrained(section.checkpoint)
    if section.instruction is not None or section.prompt_template is not None or processor_kwargs:
        # Made anew, so that the chat template follows.
        own = {
            "context": processor.context,
            "max_prior_report_length": processor.max_prior_report_length,
            "prior_image_token": processor.prior_image_token,
            "section_instructions": processor.section_instructions,
        }
        processor = type(processor)(
            processor.image_processor,
            processor.tokenizer,
            num_image_tokens=processor.num_image_tokens,
            num_prior_image_tokens=model.config.visual_sequence_length,
            instruction=section.instruction or processor.instruction,
            prompt_template=section.prompt_template or processor.prompt_template,
            **own | processor_kwargs,
        )
        if processor.prior_image_token_id is not None:
            model.take_prior_images(processor.prior_image_token_id)
    if section.save_language_model:
        model.language_model_reference = None
    return model, processor


def _check_system(section: GeneratorSection) -> None:
    systems = families_of_stage("finetune")
    if section.system not in systems:
        raise RecipeError(
            f"model.system must be one of {', '.join(systems)}, got {section.system!r}; a system from elsewhere needs "
            "its module in `plugins`"
        )
    # A configuration keeps whatever it is given, so a misspelt field would have no effect.
    config_class = systems[section.system].config_class
    bases = [base for base in config_class.__mro__ if issubclass(base, MambaXrayConfig)]
    known = {name for base in bases for name in inspect.signature(base.__init__).parameters}
    if unknown := sorted(section.options.keys() - known):
        raise RecipeError(f"model.options: {section.system} has no field {', '.join(unknown)}")


def _new_language_model(values: dict[str, Any] | None, tokenizer: Any) -> PreTrainedModel:
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    # The image placeholder has no embedding: it is not a token of the language model.
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**{"vocab_size": len(tokenizer)} | tokens | (values or {}))
    )


def _loading_options(section: GeneratorSection) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": section.language_model_dtype or "auto"}
    if section.language_model_revision is not None:
        options["revision"] = section.language_model_revision
    if section.quantization is not None:
        if find_spec("bitsandbytes") is None:
            raise RecipeError(
                f"model.quantization={section.quantization} needs the package bitsandbytes: pip install bitsandbytes"
            )
        in_4_bit = section.quantization == "4bit"
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=in_4_bit,
            load_in_8bit=not in_4_bit,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options["device_map"] = {"": PartialState().device}
    return options


def _add_adapters(model: PreTrainedModel, section: GeneratorSection, base: Path) -> PeftModel:
    """Adapters on the language model or the vision encoder; what else is trained goes into their file whole."""
    if PartialState().is_main_process:
        model.save_pretrained(base)
    # The adapters refer to the model that they belong to, and are loaded from other working directories.
    model.name_or_path = model.config.name_or_path = str(base.resolve())
    if section.vision_lora is not None:
        try:
            return apply_efficient_tuning(model, **section.vision_lora, lora=section.lora)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"model.vision_lora: {error}") from error
    values = dict(section.lora or {})
    targets = values.pop("target_modules", ["q_proj", "v_proj"])
    whole = [name for name, _ in model.named_children() if name not in ("language_model", *section.freeze)]
    try:
        config = LoraConfig(
            target_modules=rf"language_model\..*\.({'|'.join(targets)})", modules_to_save=whole, **values
        )
    except TypeError as error:
        raise RecipeError(f"model.lora: {error}") from error
    return get_peft_model(model, config)


__all__ = ["make_generator", "make_trainer"]
