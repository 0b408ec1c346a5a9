"""Saving a model without the weights of parts that may not be redistributed, or that are unchanged.

A part that was loaded from somewhere (a language model, a text encoder) is known by where it came from and by what it
was then. What is saved leaves out its weights that are still as they came, bit by bit, and the configuration says where
to get them; loading puts both together again. A folder of this machine is noted elsewhere (`local_parts.py`).
"""

import copy
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import load_state_dict
from transformers.utils.hub import resolve_revision

from ...configuration.saved_parts import LANGUAGE_MODEL, is_local
from .local_parts import read_local_parts, refuse_local_parts, write_local_parts
from .model_location import LOCATION_ARGUMENTS, location_in
from .repository_code import is_checkpoint
from .saved_dtypes import SavedDtypesMixin, loading_in
from .saved_files import resolve_adapter, weight_files
from .tensor_digests import fingerprint, tensor_digests

_logger = logging.getLogger(__name__)


class PartNotFoundError(OSError):
    """A saved model leaves a part out, and it cannot be loaded from its source."""


class PartChangedError(ValueError):
    """What lies where a saved model's part should be is another one."""


def check_can_be_published(model: torch.nn.Module) -> None:
    """`refuse_local_parts` for a model in memory, of this package or of PEFT around one.

    Raises:
        LocalPartError: it leaves out a part, or is an adapter to a model, that is in a folder of this machine.
    """
    adapters = (getattr(model, "peft_config", None) or {}).values()
    for adapter in adapters:
        if adapter.base_model_name_or_path is not None:
            refuse_local_parts({"base model": adapter.base_model_name_or_path})
    if not adapters and isinstance(model, SeparatePartsMixin):
        references = {part: reference for part, reference in model.part_references.items() if reference is not None}
        if any(is_local(reference.source) for reference in references.values()):
            left_out = model._note_left_out(model.state_dict())
            refuse_local_parts({part: reference.source for part, reference in left_out.items()})


@dataclass(frozen=True)
class PartReference:
    """Where a part of a model came from, and what it was like then.

    Attributes:
        source: Hub name, or absolute path of a folder.
        revision: commit, branch or tag on the Hub.
        dtype: what it was loaded with.
        digests: of each of its tensors, by name (`tensor_digests`).
    """

    source: str
    revision: str | None
    dtype: torch.dtype
    digests: Mapping[str, str]

    @classmethod
    def of(cls, part: PreTrainedModel, source: str, revision: str | None = None) -> Self:
        """The reference to a model just loaded from `source`, a folder or a Hub name."""
        if os.path.isdir(source):
            source = str(Path(source).resolve())
        resolved = resolve_revision(source, revision)
        return cls(
            source, getattr(resolved, "resolved", None) or revision, part.dtype, tensor_digests(part.state_dict())
        )


class SeparatePartsMixin(SavedDtypesMixin):
    """For a model that was put together from others, whose unchanged weights are to be left out when it is saved.

    Attributes:
        separate_parts: the attributes that can be left out, each with the Auto class that loads it.
        training_only_parts: the attributes that only training needs. They are saved in the Trainer's checkpoints, for
            training to go on from, and elsewhere only when `save_pretrained` is asked to. A model that was loaded
            without one has None in its place.
        saves_training_parts: whether `save_pretrained` saves them unless it is asked not to.
        part_references: where each separate part came from, by its attribute; without one, it is saved with the model.
    """

    separate_parts: ClassVar[Mapping[str, str]] = {LANGUAGE_MODEL: "AutoModelForCausalLM"}
    training_only_parts: ClassVar[tuple[str, ...]] = ()
    saves_training_parts: bool = False
    part_references: dict[str, PartReference | None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = list(cls._keys_to_ignore_on_load_missing or [])
        patterns = [rf"^{re.escape(name)}\." for name in cls.training_only_parts]
        cls._keys_to_ignore_on_load_missing = [*known, *(p for p in patterns if p not in known)] or None

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.part_references = {}

    @property
    def language_model_reference(self) -> PartReference | None:
        """Where the language model came from; set it to None to save all of its weights."""
        return self.part_references.get(LANGUAGE_MODEL)

    @language_model_reference.setter
    def language_model_reference(self, reference: PartReference | None) -> None:
        self.part_references[LANGUAGE_MODEL] = reference

    def freeze_part(self, name: str) -> None:
        """Takes a part out of training. Its weights are then left out when the model is saved, if it is a separate part
        that was loaded from somewhere.

        Raises:
            ValueError: the model has no such part.
        """
        self._part(name).requires_grad_(False)
        if name in self.separate_parts:
            self._note_left_out(self.state_dict())

    def unfreeze_part(self, name: str) -> None:
        """Trains a part again, which is then saved.

        Raises:
            ValueError: the model has no such part.
        """
        self._part(name).requires_grad_(True)
        if name in self.separate_parts:
            self._note_left_out(self.state_dict())

    def freeze_language_model(self) -> None:
        """As `freeze_part("language_model")`."""
        self.freeze_part(LANGUAGE_MODEL)

    def unfreeze_language_model(self) -> None:
        """As `unfreeze_part("language_model")`."""
        self.unfreeze_part(LANGUAGE_MODEL)

    def _part(self, name: str) -> torch.nn.Module:
        children = dict(self.named_children())
        if name not in children:
            raise ValueError(f"the model has no part {name!r}; the model's parts are {', '.join(children)}")
        return children[name]

    def _note_left_out(self, state_dict: Mapping[str, Any], training_parts: bool = True) -> dict[str, PartReference]:
        """Tells transformers which tensors a saved model has not, and the configuration where they are.

        Returns:
            the references of the parts that are left out or of which some tensors are.
        """
        trained = {n for n, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}
        entries, left_out = {}, set()
        for part in self.separate_parts:
            prefix = f"{part}."
            frozen = {
                n.removeprefix(prefix): t for n, t in state_dict.items() if n.startswith(prefix) and n not in trained
            }
            unchanged = self._unchanged(part, frozen)
            if unchanged:
                entries[part] = self._entry(part, unchanged)
                left_out |= {f"{prefix}{name}" for name in unchanged}
        self.config.separate_parts = entries
        names = (*self.separate_parts, *self.training_only_parts)
        prefixes = tuple(f"{name}." for name in names)
        if not training_parts:
            only_trained = tuple(f"{name}." for name in self.training_only_parts)
            left_out |= {name for name in state_dict if name.startswith(only_trained)}
        # Also what `Trainer` may miss in a checkpoint without a warning.
        others = {name for name in self._keys_to_ignore_on_save or () if not name.startswith(prefixes)}
        self._keys_to_ignore_on_save = others | left_out
        return {part: self.part_references[part] for part in entries}

    def _unchanged(self, part: str, tensors: Mapping[str, Any]) -> dict[str, str]:
        """The digests of those of a part's tensors that loading it from its source would give, by name."""
        reference = self.part_references.get(part)
        if reference is None or not tensors:
            return {}
        dtype = getattr(self, part).dtype
        if dtype != reference.dtype:
            # Whether a cast of what came is what loading gives can only be seen by loading.
            try:
                again = self._load_part(part, reference.source, reference.revision, dtype)
            except (OSError, ValueError) as error:
                _logger.warning(
                    "The %s is now in %s and can't be loaded from %s to compare it (%s): all of its weights are saved",
                    part, dtype, reference.source, error,
                )  # fmt: skip
                return {}
            reference = PartReference(reference.source, reference.revision, dtype, tensor_digests(again.state_dict()))
            self.part_references[part] = reference
        digests = tensor_digests(tensors)
        unchanged = {n: digest for n, digest in digests.items() if digest and digest == reference.digests.get(n)}
        if self._is_quantized(part) and len(unchanged) < len(reference.digests):
            _logger.warning("The quantized %s has changed: all of its weights are saved, quantized", part)
            return {}
        return unchanged

    def _is_quantized(self, part: str) -> bool:
        return any(getattr(module, "quantization_method", None) for module in (self, getattr(self, part)))

    def _entry(self, part: str, unchanged: Mapping[str, str]) -> dict[str, str | None]:
        """What the configuration says about a part that is left out."""
        reference, module = self.part_references[part], getattr(self, part)
        # A quantized part's values are not those that are published.
        return {
            "source": None if is_local(reference.source) else reference.source,
            "revision": reference.revision,
            "dtype": str(module.dtype).removeprefix("torch."),
            "fingerprint": None if self._is_quantized(part) else fingerprint(unchanged, unchanged),
        }

    @classmethod
    def _load_part(cls, part: str, source: str, revision: str | None, dtype: Any, **options: Any) -> PreTrainedModel:
        if revision is not None:
            options["revision"] = revision
        return getattr(transformers, cls.separate_parts[part]).from_pretrained(source, dtype=dtype, **options)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        *,
        save_training_parts: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """As `PreTrainedModel.save_pretrained`, without the weights of separate parts that are as they came.

        Args:
            save_directory: as there, like all arguments but `save_training_parts`.
            is_main_process: as there.
            state_dict: as there.
            push_to_hub: as there.
            kwargs: as there.
            save_training_parts: whether the parts that only training needs are saved, too; by default in the folder of
                a Trainer's checkpoint (`checkpoint-10`), and elsewhere as `saves_training_parts` says. Without them the
                saved configuration says so (`training_parts`), and a class need not make what there is nothing for.

        Raises:
            LocalPartError: the model is to be pushed and leaves out a part that came from a folder of this machine.
                Nothing is uploaded.
        """
        if push_to_hub:
            check_can_be_published(self)
        if save_training_parts is None:
            save_training_parts = self.saves_training_parts or is_checkpoint(save_directory)
        state_dict = dict(self.state_dict() if state_dict is None else state_dict)
        self._note_dtypes()
        left_out = self._note_left_out(state_dict, save_training_parts)
        if left_out:
            names = [f"{part} ({reference.source})" for part, reference in left_out.items()]
            _logger.info("Unchanged weights are left out: %s", ", ".join(names))
            # Loading looks for the names of our own modules.
            kwargs["save_original_format"] = False
        # What is saved refers to the weights as they are published, which need not be quantized.
        sections = [self.config, *(getattr(self.config, name) for name in self.config.sub_configs)]
        quantized = [c for c in sections if left_out and c is not None and "quantization_config" in vars(c)]
        quantizations = [vars(config).pop("quantization_config") for config in quantized]
        training_parts = getattr(self.config, "training_parts", None)
        if self.training_only_parts:
            self.config.training_parts = training_parts and save_training_parts
        try:
            super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub=push_to_hub, **kwargs)
        finally:
            if self.training_only_parts:
                self.config.training_parts = training_parts
            for config, quantization in zip(quantized, quantizations, strict=True):
                config.quantization_config = quantization
        if is_main_process:
            write_local_parts(save_directory, {part: reference.source for part, reference in left_out.items()})

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.push_to_hub`.

        Raises:
            LocalPartError: the model leaves out a part that came from a folder of this machine. Nothing is uploaded.
        """
        check_can_be_published(self)
        return super().push_to_hub(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        config: PreTrainedConfig | str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> Self:
        """As `PreTrainedModel.from_pretrained`, and gets parts that were left out from where they are.

        Every tensor comes back in the dtype that it was saved in; `dtype=` gives another one to all.

        Args:
            pretrained_model_name_or_path: folder or Hub name.
            model_args: passed on.
            config: passed on.
            kwargs: passed on, but for those named like a separate part (`language_model=`): folder or Hub name to take
                it from in place of the one that is noted, such as a local copy. Options of the Hub but `revision` and
                `subfolder` hold for all downloads, and a `quantization_config` of bitsandbytes for the language model
                only, unless it says otherwise.

        Raises:
            PartNotFoundError: a part can't be loaded from where it should be.
            PartChangedError: it is not the one that the model was saved with.
            ValueError: a part is given that the saved model does not leave out.
        """
        path, hub = pretrained_model_name_or_path, location_in(kwargs)
        given = {part: kwargs.pop(part) for part in cls.separate_parts if part in kwargs}
        given = {part: os.fspath(source) for part, source in given.items() if source is not None}
        if "quantization_config" in kwargs:
            kwargs["quantization_config"] = _for_language_model(kwargs["quantization_config"])
        if path is None or "state_dict" in kwargs or "gguf_file" in kwargs:
            return super().from_pretrained(path, *model_args, config=config, **kwargs)
        adapter, base = resolve_adapter(path, kwargs, hub)
        files = weight_files(base, hub, kwargs.get("variant"))
        stored = {name: tensor.dtype for file in files for name, tensor in load_state_dict(file, "meta").items()}
        saved = config
        if not isinstance(saved, PreTrainedConfig):
            saved = cls.config_class.from_pretrained(base if config is None else config, **hub)
        if unknown := sorted(given.keys() - saved.separate_parts.keys()):
            raise ValueError(f"{path} holds its {unknown[0]}: leave {unknown[0]}={given[unknown[0]]!r} out")
        automatic = kwargs.get("dtype", kwargs.get("torch_dtype")) in (None, "auto")
        keep_dtypes = automatic and "quantization_config" not in kwargs and not hasattr(saved, "quantization_config")
        if not saved.separate_parts:
            with loading_in(stored if keep_dtypes else None, saved):
                loaded = super().from_pretrained(path, *model_args, config=config, **kwargs)
            model = loaded[0] if kwargs.get("output_loading_info") else loaded
            model._settle(base, stored)
            return loaded
        if not isinstance(config, PreTrainedConfig):
            fields = {n: value for n, value in kwargs.items() if n not in LOCATION_ARGUMENTS and hasattr(saved, n)}
            for name in fields.keys() - {"dtype"}:
                setattr(saved, name, kwargs.pop(name))
        for name in (*LOCATION_ARGUMENTS, "adapter_kwargs", "variant"):
            kwargs.pop(name, None)
        references, tensors = cls._fetch_parts(base, saved, given, stored, hub)
        for file in files:
            tensors |= load_state_dict(file)
        dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        with loading_in(dtypes if keep_dtypes else None, saved):
            loaded = super().from_pretrained(None, *model_args, config=saved, state_dict=tensors, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        for part, reference in references.items():
            if "quantization_config" in kwargs:
                reference = PartReference.of(getattr(model, part), reference.source, reference.revision)
            model.part_references[part] = reference
            getattr(model, part).requires_grad_(False)
        for name, parameter in model.named_parameters():
            # What was saved of a part that is left out had been trained.
            if name in stored and name.partition(".")[0] in references and parameter.is_floating_point():
                parameter.requires_grad_(True)
        model.name_or_path = model.config.name_or_path = str(base)
        if model.can_generate():
            try:
                model.generation_config = GenerationConfig.from_pretrained(base, **hub)
            except OSError:
                _logger.info("%s has no generation configuration; the model's own stays", base)
        model._settle(base, stored)
        model._note_left_out(model.state_dict())
        if adapter is not None:
            model.load_adapter(str(adapter), adapter_name=kwargs.get("adapter_name", "default"))
        return loaded

    @classmethod
    def _fetch_parts(
        cls,
        path: Any,
        config: PreTrainedConfig,
        given: Mapping[str, str],
        stored: Mapping[str, torch.dtype],
        hub: Mapping[str, Any],
    ) -> tuple[dict[str, PartReference], dict[str, Tensor]]:
        """The references to the parts that were left out, and those of their tensors that were."""
        options = {name: value for name, value in hub.items() if name not in ("revision", "subfolder")}
        folders = read_local_parts(path)
        references: dict[str, PartReference] = {}
        tensors: dict[str, Tensor] = {}
        for part, entry in config.separate_parts.items():
            source = given.get(part) or entry.get("source") or folders.get(part)
            if source is None:
                raise PartNotFoundError(
                    f"{path} was saved without its {part}, which came from a folder of its author's machine. Give "
                    f"{part}=FOLDER with a copy of it"
                )
            revision = entry.get("revision") if part not in given else None
            try:
                module = cls._load_part(part, source, revision, entry.get("dtype") or "auto", **options)
            except (OSError, ValueError) as error:
                at = f" at revision {revision}" if revision is not None else ""
                raise PartNotFoundError(
                    f"{path} was saved without its {part}, which is {source}{at} and can't be loaded from there "
                    f"({error}). Give {part}=FOLDER with a copy of it; for a gated model of the Hub, accept its "
                    "licence there and log in with `hf auth login`"
                ) from error
            reference = PartReference.of(module, source, revision)
            state_dict = module.state_dict()
            left_out = _absent(state_dict, {n.removeprefix(f"{part}.") for n in stored if n.startswith(f"{part}.")})
            _check_fingerprint(path, part, source, entry.get("fingerprint"), reference, left_out)
            references[part] = reference
            tensors |= {f"{part}.{name}": state_dict[name] for name in left_out}
        return references, tensors

    def _note_dtypes(self) -> None:
        for part in self.children():
            if isinstance(part, PreTrainedModel):
                part.config.dtype = part.dtype

    def _settle(self, path: Any, stored: Mapping[str, Any]) -> None:
        """What is left to do when a model has been loaded: its parts' configurations tell their dtypes, and there is
        nothing in place of parts that were left out for good."""
        if os.path.isdir(path):
            # Adapters note this name, and are loaded from other working directories.
            self.name_or_path = self.config.name_or_path = str(Path(path).resolve())
        self._note_dtypes()
        for name in self.training_only_parts:
            if getattr(self, name, None) is not None and stored and not any(n.startswith(f"{name}.") for n in stored):
                setattr(self, name, None)
                _logger.warning("%s was saved without its %s, which only training needs", path, name)


def _absent(state_dict: Mapping[str, Tensor], stored: set[str]) -> set[str]:
    """Which of a part's tensors are not stored, by their own name or that of one that they are tied to."""
    memory = {state_dict[name].data_ptr() for name in stored if name in state_dict}
    return {name for name, tensor in state_dict.items() if name not in stored and tensor.data_ptr() not in memory}


def _check_fingerprint(
    path: Any, part: str, source: str, expected: str | None, reference: PartReference, left_out: set[str]
) -> None:
    found = fingerprint(reference.digests, left_out)
    if expected is None or expected == found:
        return
    if expected.partition(":")[0] != found.partition(":")[0]:
        _logger.warning(
            "%s was saved by an earlier version, whose fingerprint of the %s is not known any more: that %s is the one "
            "it was saved with is not checked. Save it again to have it checked",
            path, part, source,
        )  # fmt: skip
        return
    raise PartChangedError(
        f"the {part} in {source} is not the one that {path} was saved with: its weights differ. Give {part}=FOLDER "
        "with a copy of the right one"
    )


def _for_language_model(quantization: Any) -> Any:
    """The same, and all modules but the language model's, and its output, keep their numbers (bitsandbytes)."""
    if getattr(quantization, "llm_int8_skip_modules", ()) is not None:
        return quantization
    quantization = copy.copy(quantization)
    quantization.llm_int8_skip_modules = [rf"(?!{LANGUAGE_MODEL}\.).*", "lm_head", "embed_out"]
    return quantization


__all__ = [
    "PartChangedError",
    "PartNotFoundError",
    "PartReference",
    "SeparatePartsMixin",
    "check_can_be_published",
]
