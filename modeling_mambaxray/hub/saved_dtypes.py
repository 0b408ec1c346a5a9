"""Loading a model whose parts have different dtypes as it was saved, where transformers knows one dtype per model."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class _SavedDtypes:
    """Of a model that is being loaded: the dtypes of its tensors and of its sub-configurations, by name."""

    tensors: Mapping[str, torch.dtype]
    configs: Mapping[str, Any]


_saved_dtypes: ContextVar[_SavedDtypes | None] = ContextVar("saved_dtypes", default=None)


@contextmanager
def loading_in(tensors: Mapping[str, torch.dtype] | None, config: PreTrainedConfig) -> Iterator[None]:
    """The model that is loaded meanwhile gets these dtypes and its configuration's, unless there are none."""
    saved = None
    if tensors is not None:
        saved = _SavedDtypes(
            {name: dtype for name, dtype in tensors.items() if dtype.is_floating_point},
            {n: dtype for n in config.sub_configs if (dtype := getattr(getattr(config, n), "dtype", None)) is not None},
        )
    token = _saved_dtypes.set(saved)
    try:
        yield
    finally:
        _saved_dtypes.reset(token)


class SavedDtypesMixin:
    """For models that `from_pretrained` loads within `loading_in`."""

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        if (saved := _saved_dtypes.get()) is not None:
            # transformers has just given them all the model's; what a part computes at its start needs its own.
            for name, dtype in saved.configs.items():
                getattr(config, name).dtype = dtype
        super().__init__(config, *args, **kwargs)

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        # transformers loads in one dtype but for what this plan names, by patterns in which `*` is any text. The first
        # one counts that is found furthest left, so all begin at the name's beginning.
        saved = _saved_dtypes.get()
        if saved is None:
            return super()._get_dtype_plan(dtype)
        plan = {}
        for name in self._keep_in_fp32_modules_strict or ():
            # Never in less than float32, whatever was stored.
            pattern = re.compile(name.replace("*", ".*"))
            stored_in = {dtype for tensor, dtype in saved.tensors.items() if pattern.search(tensor)}
            plan[f"^*{name}"] = torch.float64 if torch.float64 in stored_in else torch.float32
        by_part: dict[str, dict[str, torch.dtype]] = {}
        for name, stored in saved.tensors.items():
            by_part.setdefault(name.partition(".")[0], {})[name] = stored
        usual = {part: Counter(dtypes.values()).most_common(1)[0][0] for part, dtypes in by_part.items()}
        for part, dtypes in by_part.items():
            plan |= {rf"^{re.escape(name)}$": stored for name, stored in dtypes.items() if stored != usual[part]}
        return plan | {rf"^{re.escape(part)}(?:\.|$)": stored for part, stored in usual.items()}


__all__ = ["SavedDtypesMixin", "loading_in"]
