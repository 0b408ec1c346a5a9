"""Stage 3: supervised fine-tuning of a report generator, with a frozen, adapted or fully trained language model."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
    TrainingArguments,
)

from ..configuration.families import families_of_stage
from ..configuration.sub_configs import configuration_fields
from ..evaluation.trainer_metrics import report_metrics
from ..modeling_mambaxray.layers.study_memory import StudyMemory
from ..processing.build_generator import build_generator
from ..processing.processing_mambaxray import DEFAULT_INSTRUCTION, DEFAULT_PROMPT_TEMPLATE
from .collator import ReportCollator
from .partial_lora import apply_efficient_tuning
from .recipe import FinetuneRecipe, GeneratorSection, RecipeError
from .report_trainer import ReportTrainer
from .run_folder import BASE, claim_run_folder
from .stage_parts import freeze, load_memories, load_splits, make_vision_encoder, named_part
from .tokenizer import train_report_tokenizer


def make_trainer(recipe: FinetuneRecipe, arguments: TrainingArguments, output: Path) -> ReportTrainer:
    """The trainer of a fine-tuning recipe, ready to train.

    Args:
        recipe: what to train on what.
        arguments: the Trainer's.
        output: the run's folder; with adapters the model below the adapters is saved in its `base`.
    """
    train, validation = load_splits(recipe.data)
    model, processor = make_generator(recipe.model, train["report"])
    _give_memories(model, load_memories(recipe.model.memories, recipe.data))
    model.generation_config.update(**recipe.generation)
    freeze(model, recipe.model.freeze)
    if recipe.model.lora is not None or recipe.model.vision_lora is not None:
        if PartialState().is_main_process:
            # What lies below the adapters is the first thing that is written there.
            claim_run_folder(output, recipe)
        model = _add_adapters(model, recipe.model, output / BASE)
    return ReportTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=ReportCollator(processor, recipe.model.max_report_length, for_generation=True),
        processing_class=processor,
        compute_metrics=None if recipe.metrics is None else report_metrics(recipe.metrics),
    )


def make_generator(section: GeneratorSection, reports: Sequence[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model that a recipe describes, and its processor.

    Args:
        section: the recipe's `model`.
        reports: training reports, for the tokenizer of a new language model.
    """
    if section.checkpoint is not None:
        return _whole_generator(section)
    _check_system(section)
    stage1 = None if section.stage1 is None else _stage1(section.stage1)
    encoder = make_vision_encoder(section.vision_encoder or section.stage1, section.image_size)
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
            text_kwargs=_loading_options(section) if isinstance(language_model, str) else None,
            **_fields(section, stage1),
        )
    if stage1 is not None:
        try:
            model.start_from_stage1(stage1)
        except ValueError as error:
            raise RecipeError(f"model.stage1={section.stage1}: {error}") from error
    if section.save_language_model:
        model.language_model_reference = None
    return model, processor


def _stage1(name_or_path: str) -> PreTrainedModel:
    with named_part("model.stage1", name_or_path):
        return AutoModel.from_pretrained(name_or_path)


def _fields(section: GeneratorSection, stage1: PreTrainedModel | None) -> dict[str, Any]:
    """Fields of the system's configuration: those that its stage 1 tells, and those that the recipe says."""
    if stage1 is None:
        return section.options
    model_class = families_of_stage("finetune")[section.system].model_class
    try:
        return model_class.fields_from_stage1(stage1) | section.options
    except ValueError as error:
        raise RecipeError(f"model.stage1={section.stage1}: {error}") from error


def _give_memories(model: PreTrainedModel, memories: dict[str, StudyMemory]) -> None:
    """Hands the model the memories that it looks up; a whole model can have its own already."""
    if model.study_memory is None and (missing := sorted(model.memory_vectors.keys() - memories.keys())):
        raise RecipeError(
            f"{type(model).__name__} looks up memories: give {', '.join(f'model.memories.{n}=FOLDER' for n in missing)}"
        )
    if not memories:
        return
    try:
        model.set_memories(memories)
    except ValueError as error:
        raise RecipeError(f"model.memories: {error}") from error


def _whole_generator(section: GeneratorSection) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A report generator and its processor from one folder, with the recipe's prompt where it has one."""
    with named_part("model.checkpoint", section.checkpoint):
        model = AutoModelForImageTextToText.from_pretrained(section.checkpoint)
        processor = AutoProcessor.from_pretrained(section.checkpoint)
    if section.instruction is not None or section.prompt_template is not None:
        # Made anew, so that the chat template follows.
        processor = type(processor)(
            processor.image_processor,
            processor.tokenizer,
            num_image_tokens=processor.num_image_tokens,
            instruction=section.instruction or processor.instruction,
            prompt_template=section.prompt_template or processor.prompt_template,
        )
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
    if unknown := sorted(section.options.keys() - configuration_fields(systems[section.system].config_class)):
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
