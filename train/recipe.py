"""Recipes: everything that decides a training run, in one YAML file.

A recipe is a tree of the pydantic models below. Its file may leave out what has a default; a key that does not exist is
an error that names the nearest one. Values can be replaced by overrides such as `training.learning_rate=1e-4`.
Reading a recipe loads neither torch nor transformers; checking one does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import yaml
from pydantic import Field

from .recipe_sections import Section, build_section, fill_defaults, refuse_unknown
from .recipe_text import RecipeError, override_value, parse_mapping, read_text, set_value


class SourceSection(Section):
    """One of several sources.

    Attributes:
        source: what `mambaxray.data.load_studies` takes: `phantoms`, a folder, a data set's name.
        options: its options; for real data sets they choose the section that is the report.
        max_train: use only the first N training studies; all when null.
        max_validation: use only the first N validation studies; all when null.
        prefix: put before the ids of studies and patients, as `PREFIX/`, where those of several sources are alike and
            don't mean the same ones; nothing when null.
    """

    source: str
    options: dict[str, Any] = Field(default_factory=dict)
    max_train: int | None = None
    max_validation: int | None = None
    prefix: str | None = None


class DataSection(Section):
    """What is learned from.

    Attributes:
        source: what `mambaxray.data.load_studies` takes: `phantoms`, a folder, a data set's name.
        options: its options; for real data sets they choose the section that is the report.
        max_train: use only the first N training studies; all when null.
        max_validation: use only the first N validation studies; all when null.
        sources: several sources, each with options of its own, in place of all of these.
    """

    source: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    max_train: int | None = None
    max_validation: int | None = None
    sources: list[SourceSection] = Field(default_factory=list)

    def model_post_init(self, context: Any) -> None:
        for name in ("source", "options", "max_train", "max_validation") if self.sources else ():
            if getattr(self, name) != (default := _default(self, name)):
                raise RecipeError(
                    f"data.sources have their own {name}: give it there, and take the other back with "
                    f"data.{name}={'null' if default is None else default}"
                )

    @property
    def all_sources(self) -> list[SourceSection]:
        """The sources, however many; none when no source is named."""
        if self.sources or self.source is None:
            return self.sources
        fields = ("options", "max_train", "max_validation")
        return [SourceSection(source=self.source, **{name: getattr(self, name) for name in fields})]


class Recipe(Section):
    """What the recipes of all stages say.

    Attributes:
        stage: which kind of training this is; decides what else the recipe can say.
        plugins: modules that are imported before the recipe is used, such as one that registers a system of its own
            (`register_family`). They must be importable: installed, or beside the working folder's files.
        description: paper and data set, in words.
        seed: seed of everything random: initial weights, order of studies, phantoms.
        data: what is learned from.
        training: arguments of transformers' `TrainingArguments`.
        early_stopping_patience: stop when the best metric has not improved for this many evaluations; never when null.
    """

    stage: str
    plugins: list[str] = Field(default_factory=list)
    description: str = ""
    seed: int = 0
    data: DataSection = Field(default_factory=DataSection)
    training: dict[str, Any] = Field(default_factory=dict)
    early_stopping_patience: int | None = None

    # The run decides these: the folder, and one seed for everything.
    _RESERVED: ClassVar[tuple[str, ...]] = ("output_dir", "seed", "data_seed", "remove_unused_columns")

    def model_post_init(self, context: Any) -> None:
        arguments = self.arguments_class()
        known = [f.name for f in fields(arguments) if f.init and f.name not in self._RESERVED]
        refuse_unknown(self.training, known, "training")
        _check_numbers(self.training, arguments)
        if self.early_stopping_patience is not None:
            if self.early_stopping_patience < 1:
                raise RecipeError(f"early_stopping_patience must be positive, got {self.early_stopping_patience}")
            if not self.training.get("metric_for_best_model"):
                raise RecipeError("early_stopping_patience needs training.metric_for_best_model")
            if not self.training.get("load_best_model_at_end"):
                raise RecipeError("early_stopping_patience needs training.load_best_model_at_end: true")

    def arguments_class(self) -> type[Any]:
        """The class of the trainer's arguments, whose fields `training` can set."""
        from transformers import TrainingArguments

        return TrainingArguments

    def fixed_arguments(self) -> dict[str, Any]:
        """The arguments that other keys of the recipe decide."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, every default written out."""
        return self.model_dump()

    def to_yaml(self) -> str:
        """The resolved recipe; `load_recipe` reads it back as it is."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=100)


class ImageDataSection(DataSection):
    """What pre-training learns from: studies, whose reports are not needed, or folders of images.

    Attributes:
        folders: folders of images (PNG, JPEG, TIFF …), with all that lies below them; in place of `source`.
        streaming: read the images of `folders` one after the other instead of listing them first; needs
            `training.max_steps`.
        validation_share: which share of the images of `folders` is kept for validation, chosen by the seed. Studies
            have a validation split of their own.
    """

    folders: list[str] = Field(default_factory=list)
    streaming: bool = False
    validation_share: float = 0.0

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        if self.folders and self.all_sources:
            raise RecipeError("data.source and data.folders exclude each other")
        if self.streaming and self.all_sources:
            raise RecipeError("data.streaming is for data.folders")
        if not 0 <= self.validation_share < 1:
            raise RecipeError(f"data.validation_share must be at least 0 and below 1, got {self.validation_share}")
        if self.streaming and self.validation_share:
            raise RecipeError("a stream has no share to keep for validation: data.validation_share must be 0")


class PretrainerSection(Section):
    """The model that is pre-trained on images alone.

    Attributes:
        checkpoint: folder or Hub name of a model to continue from.
        config: configuration of a new one, with its `model_type`: `mambaxray_pretraining`, or `vit_mae` for a masked
            autoencoder; in place of `checkpoint`.
    """

    checkpoint: str | None = None
    config: dict[str, Any] | None = None

    def model_post_init(self, context: Any) -> None:
        if (self.checkpoint is None) == (self.config is None):
            raise RecipeError("give model.checkpoint or model.config, one of them")
        if self.config is not None and "model_type" not in self.config:
            raise RecipeError("model.config is a configuration without model_type")


class PretrainRecipe(Recipe):
    """Pre-training of a vision encoder on images alone (stage 1).

    Attributes:
        data: what is learned from.
        model: what is trained.
        picture_every: draw the predictions every N steps; never when null.
        picture_images: how many images are drawn.
    """

    data: ImageDataSection = Field(default_factory=ImageDataSection)
    model: PretrainerSection
    picture_every: int | None = 100
    picture_images: int = 4

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        for name in ("picture_every", "picture_images"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise RecipeError(f"{name} must be positive, got {value}")


class DualEncoderSection(Section):
    """The image and text encoders that are trained.

    Attributes:
        checkpoint: folder or Hub name of a whole dual encoder to continue from; excludes the other parts.
        vision_encoder: folder or Hub name of a vision encoder or of what stage 1 left, or the configuration of a new
            one, with its `model_type`.
        text_encoder: folder or Hub name of a text encoder or language model, or the configuration of a new one, with
            its `model_type`. The vocabulary and its special tokens come from the tokenizer.
        projection_dim: width of the shared space.
        freeze: parts that are not trained, such as `text_encoder`.
        vocab_size: size of the tokenizer that is trained on the reports, for a new text encoder.
        image_size: side of the image in pixels; the encoder's own when null.
        max_report_length: longest report in tokens; longer ones are cut. The tokenizer's limit when null.
    """

    checkpoint: str | None = None
    vision_encoder: str | dict[str, Any] | None = None
    text_encoder: str | dict[str, Any] | None = None
    projection_dim: int = 2048
    freeze: list[str] = Field(default_factory=list)
    vocab_size: int = 1000
    image_size: int | None = None
    max_report_length: int | None = None

    def model_post_init(self, context: Any) -> None:
        _check_parts(self, "vision_encoder", "text_encoder")
        _check_checkpoint(self, "projection_dim", "vocab_size", "image_size")


class ContrastRecipe(Recipe):
    """Contrastive learning of studies and their reports (stage 2).

    Attributes:
        model: what is trained.
    """

    model: DualEncoderSection


class LabelsSection(Section):
    """What labels are to the loss and to the scores; see `LabelPolicy`.

    Attributes:
        uncertain: what is uncertain in a report counts as `ignore` (left out), `positive` or `negative`.
        blank: what a labelled report does not mention counts as `negative` or `ignore` (left out).
        unlabelled: a study without any label: `refuse` to train on such data, `ignore` its labels, or `read` them from
            its report with the package's `CheXpertStyleLabeler`.
        positive_weights: weight of positive labels in the loss: `balanced` for the number of negative training labels
            divided by that of positive ones, observation by observation; null for 1.
    """

    uncertain: str = "ignore"
    blank: str = "negative"
    unlabelled: str = "refuse"
    positive_weights: str | None = None

    def model_post_init(self, context: Any) -> None:
        from ..data.label_policy import LabelPolicy

        try:
            LabelPolicy(self.uncertain, self.blank)  # type: ignore[arg-type]  # which it checks
        except ValueError as error:
            raise RecipeError(f"labels.{error}") from error
        if self.unlabelled not in ("refuse", "ignore", "read"):
            raise RecipeError(f"labels.unlabelled must be refuse, ignore or read, got {self.unlabelled!r}")
        if self.positive_weights not in (None, "balanced"):
            raise RecipeError(f"labels.positive_weights must be balanced or null, got {self.positive_weights!r}")


class ClassifierSection(Section):
    """The model that learns to tell diseases.

    Attributes:
        checkpoint: folder or Hub name of a whole model to continue from; excludes the other parts.
        system: which one is put together: `ammrg_classification` or `disease_aware_pretraining`.
        options: fields of its configuration, such as `loss_weights`.
        vision_encoder: folder or Hub name of a vision encoder (a model that has one, such as that of an earlier stage,
            counts too), or the configuration of a new one, with its `model_type`.
        text_encoder: folder or Hub name of a text encoder or language model, or the configuration of a new one, with
            its `model_type`, for a system that also learns from reports; null for others.
        qformer: folder or Hub name of a BLIP-2 whose Q-Former the disease queries start from; null for a new one.
        freeze: parts that are not trained, such as `vision_encoder`.
        vocab_size: size of the tokenizer that is trained on the reports, for a new text encoder.
        image_size: side of the image in pixels; the encoder's own when null.
        max_report_length: longest report in tokens; longer ones are cut. The tokenizer's limit when null.
    """

    checkpoint: str | None = None
    system: str = "ammrg_classification"
    options: dict[str, Any] = Field(default_factory=dict)
    vision_encoder: str | dict[str, Any] | None = None
    text_encoder: str | dict[str, Any] | None = None
    qformer: str | None = None
    freeze: list[str] = Field(default_factory=list)
    vocab_size: int = 1000
    image_size: int | None = None
    max_report_length: int | None = None

    def model_post_init(self, context: Any) -> None:
        _check_parts(self, "vision_encoder", *(("text_encoder",) if self.text_encoder is not None else ()))
        _check_checkpoint(self, "system", "options", "qformer", "vocab_size", "image_size")


class ClassifyRecipe(Recipe):
    """Training of a vision encoder and disease queries on labels (stage 1 of AM-MRG and of the dual-stage system).

    Attributes:
        model: what is trained.
        labels: what labels are to the loss and to the scores.
    """

    model: ClassifierSection
    labels: LabelsSection = Field(default_factory=LabelsSection)


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
        _check_parts(self, *(() if self.stage1 is not None else ("vision_encoder",)), "language_model")
        _check_checkpoint(
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
        from ..processing.processing_mambaxray import CONTEXT
        from ..processing.report_text import SECTIONS

        refuse_unknown(dict.fromkeys(self.context.parts), list(CONTEXT), "context.parts")
        refuse_unknown(dict.fromkeys(self.sections), list(SECTIONS), "sections")
        refuse_unknown(self.generation, list(GenerationConfig().to_dict()), "generation")
        try:
            wanted_scores(self.metrics)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"metrics: {error}") from error


class AlignedSection(Section):
    """The report generator that is aligned.

    Attributes:
        checkpoint: folder or Hub name of the report generator to start from, such as what `finetune` left.
        freeze: parts that are not trained. A frozen vision encoder looks at every image once.
        lora: arguments of peft's `LoraConfig`, for adapters on the language model; then nothing else is trained. Null
            to train what is not frozen.
    """

    checkpoint: str
    freeze: list[str] = Field(default_factory=lambda: ["vision_encoder"])
    lora: dict[str, Any] | None = None


class AlignRecipe(Recipe):
    """Reinforcement learning of a report generator from rewards (after stage 3), by TRL.

    Attributes:
        model: what is trained.
        method: `grpo`, group relative policy optimisation on sampled reports; or `dpo`, direct preference optimisation
            on the best and the worst of the start's sampled reports.
        rewards: reward to weight, of `train/rewards.py`. Each is normalised within the reports of a study, so a weight
            is a share of the whole.
        uncertain: what an uncertain observation counts as in the reward `label_f1`: `positive`, `negative` or `ignore`.
        radeval_python: Python of an environment with radeval, for rewards by models of their own.
        num_samples: reports sampled for each study.
        beta: how much is paid for leaving the start: weight of the KL divergence (`grpo`), or the inverse temperature
            of the implicit reward (`dpo`).
        generation: how reports are sampled: `max_new_tokens`, `temperature` and other arguments of transformers'
            `GenerationConfig`.
        evaluation: how reports are written before and after, in place of the model's own settings.
        metrics: scores before and after, by the names of `evaluation.scoring.evaluate_reports`; the caption metrics
            without METEOR, the averages of F1 and the located scores when null.
        training: arguments of TRL's `GRPOConfig` or `DPOConfig`. With `grpo`, batch sizes count sampled reports.
    """

    model: AlignedSection
    method: str = "grpo"
    rewards: dict[str, float] = Field(default_factory=dict)
    uncertain: str = "negative"
    radeval_python: str | None = None
    num_samples: int = 8
    beta: float = 0.04
    generation: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    metrics: list[str] | None = None

    _RESERVED: ClassVar[tuple[str, ...]] = (
        *Recipe._RESERVED,
        *("num_generations", "beta", "reward_weights", "multi_objective_aggregation", "max_completion_length"),
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"),
        # Reports are written and scored before and after.
        *("eval_strategy", "eval_steps", "eval_on_start", "load_best_model_at_end", "metric_for_best_model"),
    )

    def model_post_init(self, context: Any) -> None:
        if self.method not in _TRL_ARGUMENTS:
            raise RecipeError(f"method must be one of {', '.join(_TRL_ARGUMENTS)}, got {self.method!r}")
        super().model_post_init(context)
        from transformers import GenerationConfig

        from ..evaluation.score_tables import wanted_scores
        from .rewards import check_rewards

        for name in ("generation", "evaluation"):
            refuse_unknown(getattr(self, name), list(GenerationConfig().to_dict()), name)
        if self.uncertain not in ("positive", "negative", "ignore"):
            raise RecipeError(f"uncertain must be positive, negative or ignore, got {self.uncertain!r}")
        if self.num_samples < 2:
            raise RecipeError(f"num_samples must be at least 2, for reports are compared; got {self.num_samples}")
        if self.beta < 0 or (self.method == "dpo" and self.beta == 0):
            raise RecipeError(f"beta must be positive{'' if self.method == 'dpo' else ' or 0'}, got {self.beta}")
        try:
            # A plugin may register rewards of its own, and is imported when the recipe is used.
            if not self.plugins:
                check_rewards(self.rewards)
            wanted_scores(self.metrics)
        except (TypeError, ValueError) as error:
            raise RecipeError(str(error)) from error

    def arguments_class(self) -> type[Any]:
        try:
            import trl
        except ImportError as error:
            raise RecipeError('recipes of the stage align need TRL: pip install "mambaxray[rl]"') from error
        return getattr(trl, _TRL_ARGUMENTS[self.method])

    def fixed_arguments(self) -> dict[str, Any]:
        # TRL turns bfloat16 and recomputation on by default; here they are off unless the recipe says so.
        values: dict[str, Any] = {"beta": self.beta, "bf16": False, "gradient_checkpointing": False}
        if self.method == "dpo":
            return values | {"max_length": None}
        sampling = dict(self.generation)
        own = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        values |= {name: sampling.pop(name) for name in own if name in sampling}
        if "max_new_tokens" in sampling:
            values["max_completion_length"] = sampling.pop("max_new_tokens")
        return values | {
            "num_generations": self.num_samples,
            "generation_kwargs": sampling or None,
            "reward_weights": list(self.rewards.values()),
            "multi_objective_aggregation": "normalize_then_sum",
        }


_TRL_ARGUMENTS = {"grpo": "GRPOConfig", "dpo": "DPOConfig"}


class Stage(NamedTuple):
    """A stage of training.

    Attributes:
        recipe: the class of its recipes.
        module: the module of this package whose `make_trainer(recipe, arguments, output)` trains it.
    """

    recipe: type[Recipe]
    module: str


STAGES: dict[str, Stage] = {
    "pretrain": Stage(PretrainRecipe, ".pretrain"),
    "contrast": Stage(ContrastRecipe, ".contrast"),
    "classify": Stage(ClassifyRecipe, ".classify"),
    "finetune": Stage(FinetuneRecipe, ".finetune"),
    "align": Stage(AlignRecipe, ".align"),
}
"""The stages by the name that recipes and the command line have for them."""


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _recipe_folder().iterdir() if _is_recipe(entry.name))


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        recipe: name of a recipe of this package, or path of a YAML file.
        overrides: replacements `key=value`, the key with dots, the value in YAML: `training.learning_rate=1e-4`,
            `model.freeze=[language_model]`, `data.source=path/to/folder`.

    Raises:
        FileNotFoundError: neither a file nor a name that is known.
        RecipeError: the file is no YAML, or a key or value is not one that the stage has.
    """
    return make_recipe(read_recipe(recipe, overrides))


def read_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe's plain data, as its file and the overrides have it; arguments and errors as for `load_recipe`."""
    name = str(recipe)
    bundled = _recipe_folder() / f"{name}.yaml"
    if Path(name).is_file():
        text = read_text(Path(name))
    elif "/" not in name and bundled.is_file():
        text = bundled.read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(f"no recipe {name!r}: give a YAML file, or one of {', '.join(list_recipes())}")
    values = parse_mapping(text, name)
    for override in overrides:
        override_value(values, override)
    return values


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain data with every default written out, as `Recipe.to_dict` has it, but unchecked."""
    return fill_defaults(STAGES[values["stage"]].recipe, values)


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """Checks plain data and makes the recipe of its stage.

    Raises:
        RecipeError: a key or value is not one that the stage has.
    """
    stage = values.get("stage")
    if not isinstance(stage, str) or stage not in STAGES:
        raise RecipeError(f"stage is {stage!r}; it must be one of {', '.join(STAGES)}")
    return build_section(STAGES[stage].recipe, values, "")


def _check_parts(section: Any, *names: str) -> None:
    """A model is either taken whole from a checkpoint or put together from all of its parts."""
    given = [name for name in names if getattr(section, name) is not None]
    if section.checkpoint is not None and given:
        raise RecipeError(
            f"model.checkpoint is a whole model, so model.{given[0]} can't be given too; take it back with "
            f"model.{given[0]}=null"
        )
    if section.checkpoint is None and len(given) < len(names):
        both = "both " if len(names) > 1 else ""
        raise RecipeError(f"give model.checkpoint, or {both}{' and '.join(f'model.{name}' for name in names)}")
    for name in given:
        value = getattr(section, name)
        if isinstance(value, dict) and "model_type" not in value:
            raise RecipeError(f"model.{name} is a configuration without model_type")


def _check_checkpoint(section: Any, *names: str) -> None:
    """What a whole model has settled can't be given beside it: nothing a recipe says is passed over."""
    if section.checkpoint is None:
        return
    for name in names:
        if getattr(section, name) != (default := _default(section, name)):
            raise RecipeError(
                f"model.checkpoint is a whole model, which model.{name} can't change; leave it out, or take it back "
                f"with model.{name}={'null' if default is None else default}"
            )


def _default(section: Section, name: str) -> Any:
    return type(section).model_fields[name].get_default(call_default_factory=True)


def _recipe_folder() -> Any:
    return files(__package__) / "recipes"


def _is_recipe(name: str) -> bool:
    return name.endswith(".yaml")


def _check_numbers(training: Mapping[str, Any], arguments: type[Any]) -> None:
    """Refuses words where `arguments` has a number, which it would take until it calculates with them."""
    for argument in fields(arguments):
        value = training.get(argument.name)
        if isinstance(value, str) and type(argument.default) in (int, float):
            raise RecipeError(f"training.{argument.name} must be a number, got {value!r}")
    for name in ("max_steps", "num_train_epochs"):
        value = training.get(name, -1)
        if isinstance(value, int | float) and value <= 0 and value != -1:
            raise RecipeError(f"training.{name} must be positive, or -1 for no limit, got {value!r}")


__all__ = [
    "STAGES",
    "AlignRecipe",
    "AlignedSection",
    "ClassifierSection",
    "ClassifyRecipe",
    "DataSection",
    "FinetuneRecipe",
    "GeneratorSection",
    "LabelsSection",
    "Recipe",
    "RecipeError",
    "Section",
    "SourceSection",
    "Stage",
    "build_section",
    "list_recipes",
    "load_recipe",
    "make_recipe",
    "parse_mapping",
    "read_recipe",
    "read_text",
    "set_value",
    "with_defaults",
]
