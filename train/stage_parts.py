"""What several stages are put together from: the data's splits, the parts that a recipe names, and frozen parts.

Errors say which key of the recipe to change.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, PreTrainedModel

from ..data.studies import first_studies, load_studies
from ..modeling_mambaxray.hub.vision_encoder import load_vision_encoder
from ..modeling_mambaxray.layers.study_memory import HeldOutStudyError, MemoryFormatError, StudyMemory, TrainingSplit
from .recipe import DataSection, RecipeError

if TYPE_CHECKING:
    from datasets import Dataset


def load_splits(data: DataSection) -> tuple["Dataset", "Dataset | None"]:
    """Training and validation studies; None where the data set has no validation split.

    Raises:
        RecipeError: no source is named, or there is nothing to train on.
    """
    if data.source is None:
        raise RecipeError("the recipe does not say where the data is: give data.source=FOLDER")
    splits = load_studies(data.source, **data.options)
    if not len(splits.get("train", ())):
        raise RecipeError(f"{data.source} has no training studies; it has {', '.join(splits) or 'nothing'}")
    validation = splits.get("validation")
    if validation is not None:
        validation = first_studies(validation, data.max_validation)
    return first_studies(splits["train"], data.max_train), validation


def training_split(data: DataSection) -> TrainingSplit:
    """Which studies a memory may hold: of all splits of the data, whatever `data.max_train` leaves of them.

    Raises:
        RecipeError: no source is named.
    """
    if data.source is None:
        raise RecipeError("the recipe does not say where the data is: give data.source=FOLDER")
    splits = load_studies(data.source, **data.options)
    columns = ["study_id", "patient_id", "split"]
    return TrainingSplit.of(study for split in splits.values() for study in split.select_columns(columns))


def load_memories(memories: Mapping[str, str], data: DataSection) -> dict[str, StudyMemory]:
    """The memories that a recipe names, each of their rows checked against the training split of its data.

    Args:
        memories: the recipe's `model.memories`.
        data: the recipe's `data`.

    Raises:
        FileNotFoundError: a folder holds no memory.
        RecipeError: a row is of a study or a patient that may not be remembered, or a memory can't be read.
    """
    if not memories:
        return {}
    split, loaded = training_split(data), {}
    for name, folder in memories.items():
        key = f"model.memories.{name}={folder}"
        try:
            loaded[name] = StudyMemory.from_pretrained(folder, split)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{key}: {error}") from error
        except (HeldOutStudyError, MemoryFormatError) as error:
            raise RecipeError(f"{key}: {error}") from error
    return loaded


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


def freeze(model: PreTrainedModel, parts: Sequence[str]) -> None:
    """Takes parts of a model, named as its children, out of training.

    Raises:
        RecipeError: the model has no such part.
    """
    for name in parts:
        try:
            model.freeze_part(name)
        except ValueError as error:
            raise RecipeError(f"model.freeze: {error}") from error


__all__ = ["freeze", "load_memories", "load_splits", "make_vision_encoder", "named_part", "training_split"]
