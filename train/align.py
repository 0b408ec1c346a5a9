"""After stage 3: a report generator learns from rewards, by TRL's `GRPOTrainer` or `DPOTrainer` as they are.

Before and after training the reports of the validation studies are written and scored (`alignment_guard.py`), so that a
gain in the rewards can be told from a trick.
"""

import copy
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..evaluation.metric_table import MetricUnavailableError
from .alignment_guard import AlignmentGuard
from .frozen_encoder import remember_images
from .preferences import preference_pairs
from .recipe_align import AlignedSection, AlignRecipe
from .recipe_text import RecipeError
from .rewards import RewardContext, check_rewards, make_rewards
from .run_folder import BASE, GUARD, PAIRS, claim_run_folder
from .stage_parts import freeze, load_splits, named_part

_CIDER_CORPUS = 20_000
"""Training reports from which the reward CIDEr takes its document frequencies."""
_WHOLE_PROMPT = """\
{%- for message in messages -%}
    {%- set text = namespace(value="") -%}
    {%- if message.content is string -%}
        {%- set text.value = message.content -%}
    {%- else -%}
        {%- for block in message.content -%}
            {%- if block.type == "text" -%}{%- set text.value = text.value + block.text -%}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {%- if message.role == "assistant" -%}
        {{- text.value + (eos_token | default("")) -}}
    {%- else -%}
        {{- (bos_token | default("")) + text.value -}}
    {%- endif -%}
{%- endfor -%}
"""
"""A chat template by which a user's message is the prompt itself, with its placeholder: what the processor's
`prompt_for` writes for a study, in training as in evaluation."""


def make_trainer(recipe: AlignRecipe, arguments: TrainingArguments, output: Path) -> Trainer:
    """The trainer of an alignment recipe, ready to train: TRL's own.

    Args:
        recipe: what to train on what.
        arguments: TRL's.
        output: the run's folder; it gets the scores before and after, with `dpo` the pairs, and with adapters, or
            where the start has some, the model that they belong to.

    Raises:
        RecipeError: parts that do not fit each other.
        MetricUnavailableError: a reward's model is not there.
    """
    from trl import DPOTrainer, GRPOTrainer

    try:
        check_rewards(recipe.rewards)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    train, validation = load_splits(recipe.data)
    model, processor = _start(recipe.model, output, recipe)
    _check_inputs(model)
    context = RewardContext(
        uncertain=recipe.uncertain,  # type: ignore[arg-type]  # checked by the recipe
        references=train[:_CIDER_CORPUS]["report"] if "cider" in recipe.rewards else (),
        external_python=recipe.radeval_python,
    )
    rewards = make_rewards(recipe.rewards, context)
    try:
        # Says at once which model is absent, not after minutes.
        for reward in rewards:
            reward(completions=["No pneumothorax."] * 2, report=["No pneumothorax."] * 2)
    except MetricUnavailableError as error:
        raise RecipeError(f"rewards: {error}") from error
    if PartialState().is_main_process:
        claim_run_folder(output, recipe)
    freeze(model, recipe.model.freeze)
    remembered = remember_images(model)
    guard = AlignmentGuard(recipe, model, processor, validation, output / GUARD, arguments.per_device_eval_batch_size)
    guard.before(model)
    rows = _with_prompts(train, processor)
    options: dict[str, Any] = {
        "args": arguments,
        "processing_class": _whole_prompts(processor),
        "peft_config": _adapters(recipe.model),
    }
    if recipe.method == "grpo":
        trainer: Trainer = GRPOTrainer(model, reward_funcs=list(rewards), train_dataset=rows, **options)
    else:
        pairs = preference_pairs(model, processor, train, rewards, recipe, output / PAIRS)
        trainer = DPOTrainer(model, train_dataset=_with_pairs(rows, pairs), **options)
    if remembered is not None and getattr(trainer, "ref_model", None) is not None:
        # The same frozen encoder.
        vars(trainer.ref_model)["encode_images"] = remembered
    trainer.add_callback(guard)
    trainer.add_callback(_OwnChatTemplate(trainer, processor))
    return trainer


def _start(section: AlignedSection, output: Path, recipe: AlignRecipe) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model to start from, whole, and its processor. Its name is a folder from which TRL loads it once more."""
    with named_part("model.checkpoint", section.checkpoint):
        processor = AutoProcessor.from_pretrained(section.checkpoint)
        is_adapter = (Path(section.checkpoint) / "adapter_config.json").is_file()
        model = AutoModelForImageTextToText.from_pretrained(section.checkpoint)
    if not is_adapter and section.lora is None:
        return model, processor
    base = output / BASE
    if PartialState().is_main_process:
        claim_run_folder(output, recipe)
        if is_adapter:
            # New adapters, or a reference, need a model that is whole.
            config = LoraConfig.from_pretrained(section.checkpoint)
            below = AutoModelForImageTextToText.from_pretrained(config.base_model_name_or_path)
            model = PeftModel.from_pretrained(below, section.checkpoint).merge_and_unload()
        model.save_pretrained(base)
        processor.save_pretrained(base)
    PartialState().wait_for_everyone()
    model = AutoModelForImageTextToText.from_pretrained(base)
    model.name_or_path = model.config.name_or_path = str(base.resolve())
    return model, processor


def _check_inputs(model: PreTrainedModel) -> None:
    needed = [name for name, each in model.study_inputs.items() if each.required and not each.for_training_only]
    if needed:
        raise RecipeError(
            f"model.checkpoint: {type(model).__name__} needs {', '.join(needed)} of every study, which TRL's batches "
            "have no place for"
        )
    if model.recalls:
        raise RecipeError(
            f"model.checkpoint: {type(model).__name__} looks similar studies up by the image while it writes a prompt, "
            "which TRL's batches have no place for"
        )


def _adapters(section: AlignedSection) -> LoraConfig | None:
    if section.lora is None:
        return None
    values = dict(section.lora)
    targets = values.pop("target_modules", ["q_proj", "v_proj"])
    try:
        return LoraConfig(target_modules=rf"language_model\..*\.({'|'.join(targets)})", **values)
    except TypeError as error:
        raise RecipeError(f"model.lora: {error}") from error


def _with_prompts(studies: Dataset, processor: ProcessorMixin) -> Dataset:
    """Studies as TRL's rows: `prompt`, `images`, and the columns for the rewards: `report` and `study_id`.

    Raises:
        RecipeError: the model looks at prior images, which TRL's batches have no place for.
    """
    if "prior_images" in processor.context and "prior_images" in studies.column_names:
        raise RecipeError(
            "model.checkpoint looks at prior images, which TRL's batches have no place for: give data without them "
            "(data.options.prior=false), or a model whose context is text"
        )
    texts = studies.remove_columns([name for name in studies.column_names if "images" in name])
    prompts = [
        [{"role": "user", "content": processor.prompt_for(processor.without_withheld(study))}] for study in texts
    ]
    kept = studies.select_columns(["images", "report", "study_id"])
    return kept.add_column("prompt", prompts)


def _with_pairs(rows: Dataset, pairs: list[dict[str, Any]]) -> Dataset:
    """The rows of studies with a pair, with `chosen` and `rejected`."""
    if not pairs:
        raise RecipeError(
            "no study has two sampled reports of different reward, so there is nothing to prefer: raise num_samples or "
            "generation.temperature"
        )
    places = {study: place for place, study in enumerate(rows["study_id"])}
    chosen = rows.select([places[pair["study_id"]] for pair in pairs]).select_columns(["prompt", "images"])
    for name in ("chosen", "rejected"):
        chosen = chosen.add_column(name, [[{"role": "assistant", "content": pair[name]}] for pair in pairs])
    return chosen


def _whole_prompts(processor: ProcessorMixin) -> ProcessorMixin:
    """The processor with a chat template that takes a user's message for the whole prompt."""
    verbatim = copy.copy(processor)
    verbatim.chat_template = _WHOLE_PROMPT
    return verbatim


class _OwnChatTemplate(TrainerCallback):
    """Saves the processor as it was, with its own chat template, with every checkpoint and with the run's model."""

    def __init__(self, trainer: Trainer, processor: ProcessorMixin):
        self._trainer = trainer
        self._processor = processor

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.is_world_process_zero:
            self._processor.save_pretrained(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self._trainer.processing_class = self._processor
        return control


__all__ = ["make_trainer"]
