"""Makes the package's families known to transformers, no earlier than transformers needs to know them.

`import mambaxray` must load neither torch nor transformers, yet `AutoModel.from_pretrained` and
`pipeline("image-to-text")` must know our families afterwards, whichever of the two packages is imported first. So
what transformers has loaded already is completed at once, and the rest right after it gets loaded.
"""

import importlib.abc
import importlib.machinery
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration.families import Family

# Every Auto class needs this one, and AutoConfig nothing else.
_AUTO_MODULE = "transformers.models.auto.configuration_auto"
_PIPELINES_MODULE = "transformers.pipelines"
_TASK = "image-to-text"
# What transformers puts in the place of that task.
_STOCK_TASK = "image-text-to-text"
# Of either may be modules half loaded that registering needs.
_FOLLOWED = ("transformers", __package__)
_logger = logging.getLogger(__name__)


def register_auto_classes() -> None:
    """Registers every family's configuration, model and processor with the Auto classes, and from then on each one
    that `register_family` adds. Safe to call again."""
    from .configuration.families import call_for_each_family, load_entry_points

    call_for_each_family(_register_with_auto_classes)
    load_entry_points()


def _register_with_auto_classes(family: "Family") -> None:
    import transformers

    from .configuration.families import load

    config_class = family.config_class
    transformers.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for name in family.auto_classes:
        getattr(transformers, name).register(config_class, family.model_class, exist_ok=True)
    image_processors = {"pil": load(family.image_processor)}
    transformers.AutoImageProcessor.register(config_class, image_processor_classes=image_processors, exist_ok=True)
    if family.processor_class is not None:
        transformers.AutoProcessor.register(config_class, family.processor_class, exist_ok=True)


def register_pipeline() -> None:
    """Gives `pipeline("image-to-text")` back to our models, and leaves it as it is for all others.

    transformers 5 turns the task into `image-text-to-text` before it asks its registry, so registering alone has no
    effect: the function that turns it is wrapped. That is global, hence the choice by model below.
    """
    from transformers import AutoModelForImageTextToText, pipelines

    if _TASK in pipelines.PIPELINE_REGISTRY.supported_tasks:
        return
    resolve_as_usual = pipelines._resolve_deprecated_task

    def resolve_task(task: str) -> str:
        return task if task == _TASK else resolve_as_usual(task)

    class ImageToTextByModel:
        """Makes our pipeline for our models, and the one that transformers puts in its place for others."""

        _load_processor = None
        _load_image_processor = False
        _load_video_processor = False
        _load_feature_extractor = False
        _load_tokenizer = False

        def __new__(cls, model: Any, task: str, **kwargs: Any) -> Any:
            from .configuration.configuration_mambaxray import MambaXrayConfig
            from .modeling_mambaxray.generation.pipeline_image_to_text import ImageToTextPipeline

            if isinstance(model.config, MambaXrayConfig):
                return ImageToTextPipeline(model=model, task=task, **kwargs)
            kwargs.setdefault("processor", model.config.name_or_path or None)
            # Not `resolve_as_usual(task)`: in transformers 5.23 its warning has a stray argument and can't be logged.
            _logger.warning("%s is not a mambaxray model: %r becomes %r", type(model).__name__, task, _STOCK_TASK)
            return pipelines.pipeline(_STOCK_TASK, model=model, **kwargs)

    pipelines.PIPELINE_REGISTRY.register_pipeline(
        _TASK,
        pipeline_class=ImageToTextByModel,
        pt_model=AutoModelForImageTextToText,
        default=pipelines.SUPPORTED_TASKS[_STOCK_TASK]["default"],
        type="multimodal",
    )
    pipelines._resolve_deprecated_task = resolve_task


# What to register once which of transformers' modules is there.
_PENDING: dict[str, Callable[[], None]] = {
    _AUTO_MODULE: register_auto_classes,
    _PIPELINES_MODULE: register_pipeline,
}
_imports = threading.local()


def _register_what_is_loaded() -> None:
    for name in [name for name in _PENDING if name in sys.modules]:
        # Registering imports more of transformers, so it gets here again before it is done.
        if (register := _PENDING.pop(name, None)) is not None:
            register()


class _Loader(importlib.abc.Loader):
    """Loads a module of transformers as usual, and registers when no other one is half loaded.

    transformers' modules import each other in circles: modules that ours need can be half loaded at the time when
    the Auto classes are complete, and so can the module of ours that asked for them. So registering waits for the end
    of the outermost import.
    """

    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module is what it would be without us.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        _imports.depth = getattr(_imports, "depth", 0) + 1
        try:
            self._loader.exec_module(module)
        finally:
            _imports.depth -= 1
        if _imports.depth == 0:
            _register_what_is_loaded()


class _Finder(importlib.abc.MetaPathFinder):
    """Follows the imports of transformers' modules and of ours until everything is registered."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _PENDING or fullname.partition(".")[0] not in _FOLLOWED:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def register_when_used() -> None:
    """Registers at once with what transformers has loaded already, and with the rest as soon as it is."""
    _register_what_is_loaded()
    sys.meta_path.insert(0, _Finder())
