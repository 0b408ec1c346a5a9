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
from ..data.studies import report_cleaning
from ..evaluation.trainer_metrics import report_metrics
from ..modeling_mambaxray.layers.study_memory import StudyMemory
from ..processing.build_generator import build_generator
from ..processing.processing_mambaxray import MambaXrayProcessor
from ..processing.study_prompts import CONTEXT, DEFAULT_INSTRUCTION, DEFAULT_PROMPT_TEMPLATE, SECTION_INSTRUCTIONS
from .collator import ReportCollator
from .partial_lora import apply_efficient_tuning
from .recalled_studies import with_recalled
from .recipe_finetune import FinetuneRecipe, GeneratorSection
from .recipe_text import RecipeError
from .report_trainer import ReportTrainer
from .run_folder import BASE, claim_run_folder
from .stage_parts import (
    check_system,
    freeze,
    load_memories,
    load_sources,
    make_vision_encoder,
    merge_sources,
    named_part,
)
from .tokenizer import train_report_tokenizer
from .varied_studies import EpochOfStudies, VariedStudies


def make_trainer(recipe: FinetuneRecipe, arguments: TrainingArguments, output: Path) -> ReportTrainer:
    """The trainer of a fine-tuning recipe, ready to train.

    Args:
        recipe: what to train on what.
        arguments: the Trainer's.
        output: the run's folder; with adapters the model below the adapters is saved in its `base`.
    """
    sources = load_sources(recipe.data)
    splits = merge_sources(recipe.data, sources)
    train, validation = splits["train"], splits.get("validation")
    _check_priors(recipe.context.parts, train)
    memories = load_memories(recipe.model.memories, sources, recipe.model.stage1)
    model, processor = make_generator(recipe.model, _texts(recipe, train), processor_options(recipe), memories)
    _give_memories(model, memories)
    train = with_recalled(train, model, processor, is_training=True, seed=recipe.seed)
    if validation is not None:
        validation = with_recalled(validation, model, processor, is_training=False)
    model.generation_config.update(**recipe.generation)
    freeze(model, recipe.model.freeze)
    model.saves_training_parts = recipe.model.save_training_parts
    if recipe.model.lora is not None or recipe.model.vision_lora is not None:
        if PartialState().is_main_process:
            # What lies below the adapters is the first thing that is written there.
            claim_run_folder(output, recipe)
        model = _add_adapters(model, recipe.model, output / BASE)
    callbacks = []
    if recipe.model.random_crop and not processor.image_processor.do_center_crop:
        raise RecipeError("model.random_crop is for a model whose processor cuts images")
    if recipe.sections or recipe.context.dropout or recipe.model.random_crop:
        source, *others = recipe.data.all_sources
        if recipe.sections and others:
            raise RecipeError("sections can be asked for where the data is one source, not several")
        cleaning = report_cleaning(source.source, source.options)
        train = VariedStudies(
            train,
            context=processor.context,
            dropout=recipe.context.dropout,
            random_crop=recipe.model.random_crop,
            sections=recipe.sections,
            cleaning=cleaning,
            seed=recipe.seed,
        )
        if validation is not None:
            validation = VariedStudies(validation, sections=recipe.sections, cleaning=cleaning, seed=recipe.seed)
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
    section: GeneratorSection,
    reports: Sequence[str],
    processor_kwargs: Mapping[str, Any] | None = None,
    memories: Mapping[str, StudyMemory] | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model that a recipe describes, and its processor.

    Args:
        section: the recipe's `model`.
        reports: training reports, for the tokenizer of a new language model.
        processor_kwargs: further arguments of the processor, such as `context`.
        memories: those that the model will be given, whose sizes it is made for.
    """
    processor_kwargs = dict(processor_kwargs or {})
    if section.checkpoint is not None:
        return _whole_generator(section, processor_kwargs)
    check_system("finetune", section.system, section.options)
    _check_parts(section)
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
    for name, source in section.parts.items():
        with named_part(f"model.parts.{name}", source):
            AutoConfig.from_pretrained(source)
    with named_part("model.language_model", section.language_model):
        model, processor = build_generator(
            encoder,
            language_model,
            tokenizer,
            system=section.system,
            crop_from=section.crop_from,
            parts=section.parts,
            instruction=instruction,
            prompt_template=section.prompt_template or DEFAULT_PROMPT_TEMPLATE,
            processor_kwargs=processor_kwargs
            | _processor_options(section, families_of_stage("finetune")[section.system].processor_class),
            text_kwargs=_loading_options(section) if isinstance(language_model, str) else None,
            **_fields(section, stage1, memories or {}),
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


def _fields(
    section: GeneratorSection, stage1: PreTrainedModel | None, memories: Mapping[str, StudyMemory]
) -> dict[str, Any]:
    """Fields of the system's configuration: what its stage 1 and its memories tell, and what the recipe says."""
    model_class = families_of_stage("finetune")[section.system].model_class
    fields = model_class.fields_from_memories(memories)
    if stage1 is not None:
        try:
            fields |= model_class.fields_from_stage1(stage1)
        except ValueError as error:
            raise RecipeError(f"model.stage1={section.stage1}: {error}") from error
    return fields | section.options


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


def _whole_generator(
    section: GeneratorSection, processor_kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A report generator and its processor from one folder, with the recipe's prompt where it has one."""
    with named_part("model.checkpoint", section.checkpoint):
        model = AutoModelForImageTextToText.from_pretrained(section.checkpoint)
        processor = AutoProcessor.from_pretrained(section.checkpoint)
    prompt = {"instruction": section.instruction, "prompt_template": section.prompt_template}
    given = {name: value for name, value in prompt.items() if value is not None}
    given |= _processor_options(section, type(processor)) | processor_kwargs
    if given:
        # Read anew, so that the chat template follows.
        processor = type(processor).from_pretrained(section.checkpoint, **given)
        processor.num_prior_image_tokens = model.config.visual_sequence_length
        if processor.prior_image_token_id is not None:
            model.take_prior_images(processor.prior_image_token_id)
    if section.save_language_model:
        model.language_model_reference = None
    return model, processor


def _processor_options(section: GeneratorSection, processor_class: type[ProcessorMixin]) -> dict[str, Any]:
    """What the recipe says of the system's own prompts."""
    common = inspect.signature(MambaXrayProcessor.__init__).parameters
    own = inspect.signature(processor_class.__init__).parameters.keys() - common.keys()
    if unknown := sorted(section.processor.keys() - own):
        raise RecipeError(
            f"model.processor: {processor_class.__name__} has no option {', '.join(unknown)}; it has "
            f"{', '.join(sorted(own)) or 'none'}"
        )
    return dict(section.processor)


def _check_parts(section: GeneratorSection) -> None:
    model_class = families_of_stage("finetune")[section.system].model_class
    taken = inspect.signature(model_class.from_encoder_decoder_pretrained).parameters
    if unknown := sorted(section.parts.keys() - taken.keys()):
        raise RecipeError(f"model.parts: {section.system} takes no {', '.join(unknown)}")


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
        # Whole, since the adapters' file has all that is trained.
        model.save_pretrained(base, save_training_parts=True)
    # The adapters refer to the model that they belong to, and are loaded from other working directories.
    model.name_or_path = model.config.name_or_path = str(base.resolve())
    if section.vision_lora is not None:
        try:
            return apply_efficient_tuning(model, **section.vision_lora, lora=section.lora)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"model.vision_lora: {error}") from error
    values = dict(section.lora or {})
    targets = values.pop("target_modules", ["q_proj", "v_proj"])
    # Whatever is trained, which a system or the recipe may have frozen.
    whole = [
        name
        for name, part in model.named_children()
        if name != "language_model" and any(parameter.requires_grad for parameter in part.parameters())
    ]
    try:
        config = LoraConfig(
            target_modules=rf"language_model\..*\.({'|'.join(targets)})", modules_to_save=whole, **values
        )
        return get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"model.lora: {error}") from error


__all__ = ["make_generator", "make_trainer"]
