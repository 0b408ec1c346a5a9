"""Makes the package's families known to transformers' Auto classes, no earlier than those are used.

`import mambaxray` must not load torch, yet `AutoModel.from_pretrained` must know our families afterwards. Either
transformers' Auto classes are loaded already, then we register at once; or we register right after they are.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_AUTO_MODULE = "transformers.models.auto.modeling_auto"


def register_auto_classes() -> None:
    """Registers configurations, models, processors and the image-to-text pipeline. Safe to call again."""
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageTextToText,
        AutoProcessor,
    )

    from .configuration.configuration_mambaxray import MambaXrayConfig
    from .configuration.configuration_vision_mamba import VisionMambaConfig
    from .modeling_mambaxray.modeling_mambaxray import MambaXrayForConditionalGeneration
    from .modeling_mambaxray.modeling_vision_mamba import VisionMambaModel
    from .processing.image_processing_mambaxray import MambaXrayImageProcessor
    from .processing.processing_mambaxray import MambaXrayProcessor

    AutoConfig.register("vision_mamba", VisionMambaConfig, exist_ok=True)
    AutoConfig.register("mambaxray", MambaXrayConfig, exist_ok=True)
    AutoModel.register(VisionMambaConfig, VisionMambaModel, exist_ok=True)
    AutoModel.register(MambaXrayConfig, MambaXrayForConditionalGeneration, exist_ok=True)
    AutoModelForImageTextToText.register(MambaXrayConfig, MambaXrayForConditionalGeneration, exist_ok=True)
    for config_class in (VisionMambaConfig, MambaXrayConfig):
        AutoImageProcessor.register(config_class, slow_image_processor_class=MambaXrayImageProcessor, exist_ok=True)
    AutoProcessor.register(MambaXrayConfig, MambaXrayProcessor, exist_ok=True)


class _RegisterAfterLoading(importlib.abc.Loader):
    """Loads transformers' module of Auto models as usual, then registers."""

    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register_auto_classes()


class _AutoModuleFinder(importlib.abc.MetaPathFinder):
    """Waits for transformers' module of Auto models, and is not asked again after that."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _AUTO_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisterAfterLoading(spec.loader)
        return spec


def register_when_used() -> None:
    """Registers now when transformers' Auto classes are loaded already, else as soon as they are."""
    if _AUTO_MODULE in sys.modules:
        register_auto_classes()
    else:
        sys.meta_path.insert(0, _AutoModuleFinder())
