"""What several stages are put together from: the data's splits, the parts that a recipe names, and frozen parts.

Errors say which key of the recipe to change.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import DatasetDict, concatenate_datasets
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..configuration.families import Family, families_of_stage
from ..configuration.sub_configs import configuration_fields
from ..data.priors import shows_priors, with_priors
from ..data.studies import first_studies, load_studies
from ..modeling_mambaxray.hub.separate_parts import SeparatePartsMixin
from ..modeling_mambaxray.layers.study_memory import HeldOutStudyError, MemoryFormatError, StudyMemory, TrainingSplit
from ..modeling_mambaxray.parts.vision_encoder import load_vision_encoder
from .recipe_base import DataSection, SourceSection
from .recipe_text import RecipeError
from .stored_models import StoredModel
from .tokenizer import train_report_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset


def load_splits(data: DataSection) -> tuple["Dataset", "Dataset | None"]:
    """Training and validation studies of all sources; None where no source has a validation split. For the rest see
    `load_all_splits`."""
    splits = load_all_splits(data)
    return splits["train"], splits.get("validation")


def load_all_splits(data: DataSection, *, for_training: bool = True) -> dict[str, "Dataset"]:
    """The studies of all sources by split, those of each source behind the other's.

    Args:
        data: the recipe's `data`.
        for_training: whether each source must have training studies.

    Raises:
        RecipeError: no source is named, one has nothing to train on, or ids of two sources are alike.
    """
    return merge_sources(data, load_sources(data, for_training=for_training))


def load_sources(data: DataSection, *, for_training: bool = True) -> list[dict[str, "Dataset"]]:
    """The studies of each source by split, all of them; arguments and errors as above."""
    if not data.all_sources:
        raise RecipeError("the recipe does not say where the data is: give data.source=FOLDER")
    loaded = [_load_source(source, for_training) for source in data.all_sources]
    if len(loaded) > 1:
        _refuse_common_ids(data.all_sources, loaded)
    return loaded


def merge_sources(data: DataSection, loaded: Sequence[Mapping[str, "Dataset"]]) -> dict[str, "Dataset"]:
    """What `load_all_splits` returns, of what `load_sources` has loaded."""
    sources = data.all_sources
    if len(loaded) == 1:
        return {name: first_studies(studies, _limit(sources[0], name)) for name, studies in loaded[0].items()}
    splits = {}
    for name in dict.fromkeys(name for each in loaded for name in each):
        parts = [
            (each[name], _limit(source, name)) for source, each in zip(sources, loaded, strict=True) if name in each
        ]
        parts = [(studies, limit) for studies, limit in parts if len(studies)]
        if parts:
            splits[name] = _concatenated(parts)
    return splits


def _concatenated(parts: Sequence[tuple["Dataset", int | None]]) -> "Dataset":
    """Studies of several sources, at most N of each, with the priors that they show wherever these lie."""
    studies = concatenate_datasets([each for each, _ in parts])
    if any(shows_priors(each) for each, _ in parts):
        studies = with_priors(DatasetDict(all=studies))["all"]
    rows: list[int] = []
    start = 0
    for each, limit in parts:
        rows += range(start, start + (len(each) if limit is None else min(limit, len(each))))
        start += len(each)
    return studies if len(rows) == len(studies) else studies.select(rows)


def _load_source(source: SourceSection, for_training: bool = False) -> dict[str, "Dataset"]:
    try:
        splits = dict(load_studies(source.source, **source.options))
    except TypeError as error:
        raise RecipeError(f"data.options: {error} (data.options={{}} gives none)") from error
    if for_training and not len(splits.get("train", ())):
        raise RecipeError(f"{source.source} has no training studies; it has {', '.join(splits) or 'nothing'}")
    if source.prefix is None:
        return splits
    return {name: _with_prefix(studies, source.prefix) for name, studies in splits.items()}


def _with_prefix(studies: "Dataset", prefix: str) -> "Dataset":
    shown = shows_priors(studies)
    for name in ("study_id", "patient_id", "prior"):
        if name in studies.column_names:
            values = [f"{prefix}/{value}" if value else value for value in studies[name]]
            studies = replace_column(studies, name, values)
    return with_priors(DatasetDict(all=studies))["all"] if shown else studies


def _limit(source: SourceSection, split: str) -> int | None:
    return {"train": source.max_train, "validation": source.max_validation}.get(split)


def _refuse_common_ids(sources: Sequence[SourceSection], loaded: Sequence[Mapping[str, "Dataset"]]) -> None:
    """Studies and patients of two sources are different ones, or a study counts twice, or a patient is both trained on
    and tested on."""
    for column, what in (("study_id", "study"), ("patient_id", "patient")):
        owners: dict[str, int] = {}
        for number, splits in enumerate(loaded):
            for studies in splits.values():
                for value in studies[column]:
                    if (owner := owners.setdefault(value, number)) != number:
                        raise RecipeError(
                            f"data.sources[{owner}] ({sources[owner].source}) and data.sources[{number}] "
                            f"({sources[number].source}) both have the {what} {value!r}. If they are two, give one of "
                            f"the sources a prefix (data.sources[{number}].prefix); if they are the same, leave one out"
                        )


def replace_column(studies: "Dataset", name: str, values: list[Any]) -> "Dataset":
    """The studies with other values in one column; nothing else is read or copied."""
    order, feature = studies.column_names, studies.features[name]
    return studies.remove_columns(name).add_column(name, values, feature=feature).select_columns(order)


def training_split(loaded: Sequence[Mapping[str, "Dataset"]]) -> TrainingSplit:
    """Which studies a memory may hold: of all that `load_sources` has loaded, whatever `data.max_train` leaves of
    them."""
    columns = ["study_id", "patient_id", "split"]
    return TrainingSplit.of(
        study for source in loaded for split in source.values() for study in split.select_columns(columns)
    )


def load_memories(
    memories: Mapping[str, str], loaded: Sequence[Mapping[str, "Dataset"]], stage1: str | None = None
) -> dict[str, StudyMemory]:
    """The memories that a recipe names, each of their rows checked against the training split of its data, and those of
    images against the model that looks at them.

    Args:
        memories: the recipe's `model.memories`.
        loaded: the recipe's `data`, as `load_sources` gives it.
        stage1: the recipe's `model.stage1`.

    Raises:
        FileNotFoundError: a folder holds no memory.
        RecipeError: a row is of a study or a patient that may not be remembered, a memory can't be read, or it holds
            vectors of another model than stage 1.
    """
    if not memories:
        return {}
    split, found = training_split(loaded), {}
    for name, folder in memories.items():
        key = f"model.memories.{name}={folder}"
        try:
            found[name] = StudyMemory.from_pretrained(folder, split)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{key}: {error}") from error
        except (HeldOutStudyError, MemoryFormatError) as error:
            raise RecipeError(f"{key}: {error}") from error
        source = found[name].source
        if stage1 is not None and source.options.get("memory") in _OF_IMAGES:
            with named_part("model.stage1", stage1):
                content = StoredModel.find(stage1).content
            if source.options.get("model") != content:
                raise RecipeError(
                    f"{key} was built with {source.encoder}, which is another model than model.stage1={stage1}: its "
                    f"vectors mean something else. Build it with --model {stage1}"
                )
    return found


_OF_IMAGES = ("visual", "retrieval")
"""What a memory's source calls those that a stage-1 model makes of images."""


@contextmanager
def named_part(key: str, value: Any) -> Iterator[None]:
    """Wraps the loading of a part from a folder or the Hub: an error names the recipe's key.

    Args:
        key: such as `model.vision_encoder`.
        value: the recipe's value; only a string is a name that can be checked.

    Raises:
        FileNotFoundError: there is no such folder, and no such model on the Hub.
    """
    give = f"give {key}=FOLDER, or its name on the Hugging Face Hub"
    if isinstance(value, str):
        looks_like_path = value.startswith((".", "/", "~")) or value.count("/") > 1 or "\\" in value or not value
        if looks_like_path and not Path(value).is_dir():
            raise FileNotFoundError(f"{key}={value}: no such folder; {give}")
        if Path(value).is_file():
            raise FileNotFoundError(f"{key}={value} is a file; {give}")
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Unrecognized configuration class"):
            raise
        raise RecipeError(f"{key}={value} holds a model of another kind than is needed here; {give}") from error
    except OSError as error:
        if not isinstance(value, str) or Path(value).is_dir():
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{key}={value}: neither a folder here nor a model that the Hub serves ({reason}); {give}"
        ) from error


def make_vision_encoder(source: str | dict[str, Any] | None, image_size: int | None) -> PreTrainedModel:
    """The vision encoder that a recipe names, or a new one.

    Args:
        source: the recipe's `model.vision_encoder`: a folder, a Hub name, or a configuration with its `model_type`.
        image_size: side of the image in pixels; the encoder's own when None.

    Raises:
        FileNotFoundError: there is no such folder, and no such model on the Hub.
    """
    if isinstance(source, str):
        with named_part("model.vision_encoder", source):
            return load_vision_encoder(source, image_size=image_size)
    size = {} if image_size is None else {"image_size": image_size}
    return AutoModel.from_config(AutoConfig.for_model(**(source or {}) | size))


def make_text_encoder(
    source: str | dict[str, Any] | None, reports: Sequence[str], vocab_size: int
) -> tuple[str | PreTrainedModel, PreTrainedTokenizerBase]:
    """The text encoder that a recipe names, or a new one, and its tokenizer.

    Args:
        source: the recipe's `model.text_encoder`: a folder, a Hub name, or a configuration with its `model_type`.
        reports: training reports, for the tokenizer of a new text encoder.
        vocab_size: size of that tokenizer.

    Returns:
        The folder or name as it is, or a new model; and a tokenizer with a pad token.

    Raises:
        FileNotFoundError: there is no such folder, and no such model on the Hub.
    """
    if isinstance(source, str):
        with named_part("model.text_encoder", source):
            tokenizer = AutoTokenizer.from_pretrained(source)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return source, tokenizer
    tokenizer = train_report_tokenizer(reports, vocab_size)
    values = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return AutoModel.from_config(AutoConfig.for_model(**values | (source or {}))), tokenizer


def limit_length(tokenizer: PreTrainedTokenizerBase, text_config: PreTrainedConfig) -> None:
    """Lets a tokenizer that does not know how long a text may be cut it to what the text encoder takes."""
    longest = getattr(text_config, "max_position_embeddings", None)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest or tokenizer.model_max_length)


def check_system(stage: str, system: str, options: Mapping[str, Any]) -> Family:
    """The row of the system that a recipe names.

    Args:
        stage: the recipe's.
        system: its `model.system`.
        options: its `model.options`.

    Raises:
        RecipeError: the stage does not train that system, or its configuration has no field of that name.
    """
    systems = families_of_stage(stage)
    if system not in systems:
        raise RecipeError(
            f"model.system must be one of {', '.join(systems)}, got {system!r}; a system from elsewhere needs its "
            "module in `plugins`"
        )
    if unknown := sorted(options.keys() - configuration_fields(systems[system].config_class)):
        raise RecipeError(f"model.options: {system} has no field {', '.join(unknown)}")
    return systems[system]


def freeze(model: PreTrainedModel, parts: Sequence[str]) -> None:
    """Takes parts of a model, named as its children, out of training.

    Raises:
        RecipeError: the model has no such part.
    """
    children = dict(model.named_children())
    for name in parts:
        if name not in children:
            raise RecipeError(
                f"model.freeze: the model has no part {name!r}; the model's parts are {', '.join(children)}"
            )
        if isinstance(model, SeparatePartsMixin):
            model.freeze_part(name)
        else:
            children[name].requires_grad_(False)


__all__ = [
    "check_system",
    "freeze",
    "limit_length",
    "load_all_splits",
    "load_memories",
    "load_sources",
    "load_splits",
    "make_text_encoder",
    "make_vision_encoder",
    "merge_sources",
    "named_part",
    "replace_column",
    "training_split",
]
