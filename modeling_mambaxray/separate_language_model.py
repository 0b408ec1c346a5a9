"""Saving a model without the weights of its language model where those are nobody's to hand out, or simply unchanged.

A model that was put together from a pre-trained language model knows where that came from. What it saves leaves out
the language model's weights that are still as they came, and its configuration says where to get them; loading puts
both together again.
"""

import copy
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import load_state_dict
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.peft_utils import find_adapter_config_file

_PREFIX = "language_model."
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_SAMPLES = 64
_logger = logging.getLogger(__name__)


class LanguageModelNotFoundError(OSError):
    """A saved model leaves its language model out, and that can't be had from where it should be."""


class LanguageModelChangedError(ValueError):
    """What lies where a saved model's language model should be is another one."""


@dataclass(frozen=True)
class LanguageModelReference:
    """Where a language model came from, and what it was like then.

    Attributes:
        source: Hub name, or absolute path of a folder.
        revision: commit, branch or tag on the Hub.
        samples: some values of each of its tensors, by name: enough to see whether a tensor has changed.
    """

    source: str
    revision: str | None
    samples: Mapping[str, Tensor]

    @classmethod
    def of(cls, language_model: PreTrainedModel, source: str, revision: str | None = None) -> Self:
        """The reference to a language model just loaded from `source`."""
        if os.path.isdir(source):
            source = str(Path(source).resolve())
        revision = getattr(language_model.config, "_commit_hash", None) or revision
        return cls(source, revision, {name: _sample(t) for name, t in language_model.state_dict().items()})

    def is_unchanged(self, name: str, tensor: Tensor) -> bool:
        """Whether the tensor of this name is as it came, but perhaps in another number format."""
        came = self.samples.get(name)
        return came is not None and torch.equal(came.to(tensor.dtype), _sample(tensor))

    def fingerprint(self, dtypes: Mapping[str, torch.dtype] | None = None) -> str:
        """A digest of the samples, as they are in the given number formats (by name; their own by default)."""
        digest = hashlib.sha256()
        for name, values in sorted(self.samples.items()):
            values = values.to((dtypes or {}).get(name, values.dtype))
            digest.update(f"{name} {values.dtype} {tuple(values.double().tolist())}".encode())
        return digest.hexdigest()[:16]


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    positions = torch.linspace(0, max(0, flat.numel() - 1), min(_SAMPLES, flat.numel()), dtype=torch.float64)
    return flat[positions.long().to(flat.device)].cpu()


class SeparateLanguageModelMixin:
    """For a model with a `language_model` whose unchanged weights are to be left out when it is saved.

    Attributes:
        language_model_reference: where the language model came from; set it to None to save all weights.
    """

    language_model_reference: LanguageModelReference | None = None

    def freeze_language_model(self) -> None:
        """Takes the language model out of training. Its weights are then left out when the model is saved, if it was
        put together from a pre-trained one."""
        self.language_model.requires_grad_(False)
        self._note_left_out(self.state_dict())

    def unfreeze_language_model(self) -> None:
        """Trains the language model again; what has changed is saved."""
        self.language_model.requires_grad_(True)
        self._note_left_out(self.state_dict())

    def _note_left_out(self, state_dict: Mapping[str, Tensor]) -> set[str]:
        """Tells transformers which tensors a saved model has not, and writes into the configuration where they are."""
        reference, left_out = self.language_model_reference, set()
        if reference is not None:
            trained = {n for n, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}
            left_out = {
                name
                for name, tensor in state_dict.items()
                if name.startswith(_PREFIX)
                and name not in trained
                and reference.is_unchanged(name.removeprefix(_PREFIX), tensor)
            }
        config = self.config
        config.language_model_source = reference.source if left_out else None
        config.language_model_revision = reference.revision if left_out else None
        config.language_model_fingerprint = None
        if left_out:
            # A quantized language model's values are not those that are published.
            if not any(getattr(m, "quantization_method", None) for m in (self, self.language_model)):
                dtypes = {name.removeprefix(_PREFIX): tensor.dtype for name, tensor in state_dict.items()}
                config.language_model_fingerprint = reference.fingerprint(dtypes)
            config.text_config.dtype = self.language_model.dtype
        # Also what `Trainer` may miss in a checkpoint without a warning.
        others = {name for name in self._keys_to_ignore_on_save or () if not name.startswith(_PREFIX)}
        self._keys_to_ignore_on_save = others | left_out
        return left_out

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """As `PreTrainedModel.save_pretrained`, without the language model's weights that are as they came.

        Arguments as there.
        """
        state_dict = dict(self.state_dict() if state_dict is None else state_dict)
        left_out = self._note_left_out(state_dict)
        if left_out:
            _logger.info("%d tensors of %s are left out", len(left_out), self.language_model_reference.source)
            # Loading looks for the names of our own modules.
            kwargs["save_original_format"] = False
        # What is saved refers to the weights as they are published, which need not be quantized.
        quantized = [c for c in (self.config, self.config.text_config) if left_out and "quantization_config" in vars(c)]
        quantizations = [vars(config).pop("quantization_config") for config in quantized]
        try:
            super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        finally:
            for config, quantization in zip(quantized, quantizations, strict=True):
                config.quantization_config = quantization

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        config: PreTrainedConfig | str | os.PathLike | None = None,
        language_model: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """As `PreTrainedModel.from_pretrained`, and gets a language model that was left out from where it is.

        Args:
            pretrained_model_name_or_path: folder or Hub name.
            model_args: passed on.
            config: passed on.
            language_model: folder or Hub name to take the language model from in place of the one that the
                configuration names, such as a local copy.
            kwargs: passed on. Options of the Hub but `revision` and `subfolder` hold for both downloads, and a
                `quantization_config` of bitsandbytes for the language model only, unless it says otherwise.

        Raises:
            LanguageModelNotFoundError: the language model can't be loaded from where it should be.
            LanguageModelChangedError: it is not the one that the model was saved with.
        """
        path, hub = pretrained_model_name_or_path, {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
        if "quantization_config" in kwargs:
            kwargs["quantization_config"] = _for_language_model(kwargs["quantization_config"])
        if path is None or "state_dict" in kwargs:
            return super().from_pretrained(path, *model_args, config=config, **kwargs)
        adapter, base = _resolve_adapter(path, kwargs, hub)
        saved = config
        if not isinstance(saved, PreTrainedConfig):
            saved = cls.config_class.from_pretrained(base if config is None else config, **hub)
        if saved.language_model_source is None:
            return super().from_pretrained(path, *model_args, config=config, **kwargs)
        if not isinstance(config, PreTrainedConfig):
            given = {name: value for name, value in kwargs.items() if name not in _HUB_OPTIONS and hasattr(saved, name)}
            for name in given.keys() - {"dtype"}:
                setattr(saved, name, kwargs.pop(name))
        for name in _HUB_OPTIONS:
            kwargs.pop(name, None)
        kwargs.pop("adapter_kwargs", None)
        own = _own_tensors(base, hub)
        dtype = kwargs.get("dtype", kwargs.pop("torch_dtype", None))
        automatic = dtype in (None, "auto")
        text_dtype = saved.text_config.dtype if automatic else dtype
        reference, tensors = _fetch(base, saved, language_model, text_dtype, hub, check=automatic)
        loaded = super().from_pretrained(
            None,
            *model_args,
            config=saved,
            state_dict={f"{_PREFIX}{name}": tensor for name, tensor in tensors.items()} | own,
            **kwargs,
        )
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        if "quantization_config" in kwargs:
            reference = LanguageModelReference.of(model.language_model, reference.source, reference.revision)
        elif automatic:
            # transformers loads in one number format only; the language model's own, tensor by tensor, comes back here.
            for name, tensor in model.language_model.state_dict(keep_vars=True).items():
                tensor.data = tensor.data.to(tensors[name].dtype)
        model.name_or_path = model.config.name_or_path = str(base)
        model.language_model_reference = reference
        if model.can_generate():
            try:
                model.generation_config = GenerationConfig.from_pretrained(base, **hub)
            except OSError:
                _logger.info("%s has no generation configuration; the model's own stays", base)
        model.freeze_language_model()
        for name, parameter in model.named_parameters():
            # Parts of the language model that were saved had been trained.
            if name in own and parameter.is_floating_point():
                parameter.requires_grad_(True)
        model._note_left_out(model.state_dict())
        if adapter is not None:
            model.load_adapter(str(adapter), adapter_name=kwargs.get("adapter_name", "default"))
        return loaded


def _for_language_model(quantization: Any) -> Any:
    """The same, and all modules but the language model's, and its output, keep their numbers (bitsandbytes)."""
    if getattr(quantization, "llm_int8_skip_modules", ()) is not None:
        return quantization
    quantization = copy.copy(quantization)
    quantization.llm_int8_skip_modules = [rf"(?!{re.escape(_PREFIX)}).*", "lm_head", "embed_out"]
    return quantization


def _resolve_adapter(path: Any, kwargs: Mapping[str, Any], hub: Mapping[str, Any]) -> tuple[Any, Any]:
    """The adapter's folder or None, and the folder of the model below it."""
    given = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")
    if given is not None:
        return given, path
    file = find_adapter_config_file(path, **{k: v for k, v in hub.items() if v is not None})
    if file is None:
        return None, path
    if os.path.isfile(os.path.join(path, "config.json")):
        return path, path
    return path, json.loads(Path(file).read_text(encoding="utf-8"))["base_model_name_or_path"]


def _own_tensors(path: Any, hub: Mapping[str, Any]) -> dict[str, Tensor]:
    """What was saved with the model itself, in one file or in shards."""
    index = cached_file(path, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **hub)
    names = [SAFE_WEIGHTS_NAME]
    if index is not None:
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_state_dict(cached_file(path, name, **hub))
    return tensors


def _fetch(
    path: Any,
    config: PreTrainedConfig,
    instead: str | None,
    dtype: Any,
    hub: Mapping[str, Any],
    *,
    check: bool,
) -> tuple[LanguageModelReference, dict[str, Tensor]]:
    """The language model that was left out: where it is, and its tensors."""
    source, revision = config.language_model_source, config.language_model_revision
    options = {name: value for name, value in hub.items() if name not in ("revision", "subfolder")}
    if instead is None and revision is not None:
        options["revision"] = revision
    try:
        language_model = AutoModelForCausalLM.from_pretrained(instead or source, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        at = f" at revision {revision}" if revision is not None and instead is None else ""
        raise LanguageModelNotFoundError(
            f"{path} was saved without its language model, which is {instead or source}{at} and can't be loaded from "
            f"there ({error}). Give language_model=FOLDER with a copy of it; for a gated model of the Hub, accept its "
            "licence there and log in with `hf auth login`"
        ) from error
    reference = LanguageModelReference.of(language_model, source, revision)
    expected = config.language_model_fingerprint
    if check and expected is not None and reference.fingerprint() != expected:
        raise LanguageModelChangedError(
            f"the language model in {instead or source} is not the one that {path} was saved with: its weights differ. "
            "Give language_model=FOLDER with a copy of the right one"
        )
    return reference, language_model.state_dict()


__all__ = [
    "LanguageModelChangedError",
    "LanguageModelNotFoundError",
    "LanguageModelReference",
    "SeparateLanguageModelMixin",
]
