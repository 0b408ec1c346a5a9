"""The families of models, one row each: what makes one known to transformers, recipes, the converter and cards.

A row names modules and does not import them. `register_family` adds one from outside the package; it is what
`docs/adding_a_system.md` ends with. An installed package can name its module as an entry point of the group
`mambaxray.families`, and the module is imported when transformers' Auto classes are used.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

ENTRY_POINTS = "mambaxray.families"


@dataclass(frozen=True)
class Family:
    """One row. A `str` that names an object reads `module:name`; a module that begins with a dot is of this package.

    Attributes:
        config: the configuration's class; its `model_type` is the family's name.
        model: the model's class.
        auto_classes: the Auto classes that load it, by name.
        processor: the processor's class; None where there are only images.
        image_processor: the class of the image processor.
        stage: of the recipes that train it: `"pretrain"`, `"contrast"`, `"classify"` or `"finetune"`; None for a part
            of others.
        checkpoint: name of a released checkpoint's kind, for `convert_checkpoint`.
        key_map: function from a released checkpoint's key to ours, None for a key that is unknown.
        left_out: regular expression of keys of such a checkpoint that are of no use here.
        papers: what its card cites: keys of `mambaxray/templates/papers.bib`, or whole BibTeX entries.
        tiny: fields of a configuration whose model takes some kilobytes, for images of 32 pixels, beyond what
            `make_tiny_models` gives each family: a vision Mamba as `vision_config` and a Llama as `text_config` where
            the configuration has them, and the tokenizer's ids.
    """

    config: str
    model: str
    auto_classes: tuple[str, ...] = ("AutoModel",)
    processor: str | None = None
    image_processor: str = ".processing.image_processing_mambaxray:MambaXrayImageProcessor"
    stage: str | None = None
    checkpoint: str | None = None
    key_map: str | None = None
    left_out: str | None = None
    papers: tuple[str, ...] = ()
    tiny: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def config_class(self) -> Any:
        return load(self.config)

    @property
    def model_class(self) -> Any:
        return load(self.model)

    @property
    def processor_class(self) -> Any:
        return None if self.processor is None else load(self.processor)


_GENERATOR: dict[str, Any] = {
    "auto_classes": ("AutoModel", "AutoModelForImageTextToText"),
    "processor": ".processing.processing_mambaxray:MambaXrayProcessor",
    "stage": "finetune",
}

_TINY_VISION_MAMBA = {"hidden_size": 16, "num_hidden_layers": 1, "image_size": 32, "state_size": 4}
_TINY_VMAMBA = {"image_size": 32, "embed_dim": 8, "depths": [1, 1]}
_TINY_DECODER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_TINY_BERT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_TINY_QUERIES = {"query_hidden_size": 16, "query_attention_heads": 2}

_FAMILIES: dict[str, Family] = {
    "vision_mamba": Family(
        config=".configuration.configuration_vision_mamba:VisionMambaConfig",
        model=".modeling_mambaxray.modeling_vision_mamba:VisionMambaModel",
        papers=("cxpmrg_bench",),
        tiny=_TINY_VISION_MAMBA,
    ),
    "mambaxray_pretraining": Family(
        config=".configuration.configuration_mambaxray_pretraining:MambaXrayPreTrainingConfig",
        model=".modeling_mambaxray.modeling_mambaxray_pretraining:MambaXrayForPreTraining",
        auto_classes=("AutoModel", "AutoModelForPreTraining"),
        stage="pretrain",
        checkpoint="pretrain",
        key_map=".train.convert:pretraining_key",
        left_out=r"^mask$",  # follows from the sizes
        papers=("cxpmrg_bench",),
        # Two clusters a side.
        tiny=_TINY_VISION_MAMBA | {"patch_size": 8, "cluster_size": 2, "decoder_hidden_size": 16},
    ),
    "mambaxray_dual_encoder": Family(
        config=".configuration.configuration_mambaxray_dual_encoder:MambaXrayDualEncoderConfig",
        model=".modeling_mambaxray.modeling_mambaxray_dual_encoder:MambaXrayDualEncoder",
        processor="transformers:VisionTextDualEncoderProcessor",
        stage="contrast",
        checkpoint="contrastive",
        key_map=".train.convert:contrastive_key",
        left_out=r"^text_encoder\.(pooler\.|embeddings\.position_ids$)",  # never used
        papers=("cxpmrg_bench",),
        tiny={"text_config": {"model_type": "bert", **_TINY_BERT}, "projection_dim": 16},
    ),
    "ammrg_classification": Family(
        config=".configuration.configuration_ammrg_classification:AMMRGClassificationConfig",
        model=".modeling_mambaxray.modeling_ammrg_classification:AMMRGForDiseaseClassification",
        auto_classes=("AutoModel", "AutoModelForImageClassification"),
        stage="classify",
        papers=("ammrg",),
        tiny=_TINY_QUERIES | {"query_hidden_layers": 2, "query_intermediate_size": 32, "encoder_hidden_size": 24},
    ),
    "disease_aware_pretraining": Family(
        config=".configuration.configuration_disease_aware_pretraining:DiseaseAwarePreTrainingConfig",
        model=".modeling_mambaxray.modeling_disease_aware_pretraining:DiseaseAwareForPreTraining",
        auto_classes=("AutoModel", "AutoModelForPreTraining"),
        processor="transformers:VisionTextDualEncoderProcessor",
        stage="classify",
        papers=("disease_aware",),
        tiny=_TINY_QUERIES | {"text_config": {"model_type": "bert", **_TINY_BERT}},
    ),
    "mambaxray": Family(
        config=".configuration.configuration_mambaxray:MambaXrayConfig",
        model=".modeling_mambaxray.modeling_mambaxray:MambaXrayForConditionalGeneration",
        checkpoint="downstream",
        key_map=".train.convert:downstream_key",
        papers=("cxpmrg_bench",),
        **_GENERATOR,
    ),
    "emrrg": Family(
        config=".configuration.configuration_emrrg:EMRRGConfig",
        model=".modeling_mambaxray.modeling_emrrg:EMRRGForConditionalGeneration",
        checkpoint="emrrg",
        key_map=".train.convert:emrrg_key",
        # The released adapters change the output of the last block's mixer, in every block.
        left_out=r"^visual_encoder\.layers\.\d+\.mixer\.lora_X\.",
        papers=("emrrg", "cxpmrg_bench"),
        **_GENERATOR,
    ),
    "ammrg": Family(
        config=".configuration.configuration_ammrg:AMMRGConfig",
        model=".modeling_mambaxray.modeling_ammrg:AMMRGForConditionalGeneration",
        checkpoint="ammrg",
        key_map=".train.convert:ammrg_key",
        # Of texts, which the Q-Former does not read here; and memories, which are no weights.
        left_out=r"^Qformer\.(cls\.|bert\.embeddings\.(word|position)_|bert\.encoder\.layer\.\d+\.(intermediate|output)\.)"
        r"|^(R_)?HopfieldLayers\.lookup_weights$",
        papers=("ammrg", "cxpmrg_bench"),
        tiny={
            "query_hidden_size": 16,
            "query_hidden_layers": 2,
            "query_attention_heads": 2,
            "query_intermediate_size": 24,
            "encoder_hidden_size": 16,
            "visual_memory_size": 16,
            "report_memory_size": 12,
            "hopfield_heads": 2,
            "hopfield_head_size": 8,
            "hopfield_value_size": 8,
        },
        **_GENERATOR,
    ),
    "disease_aware": Family(
        config=".configuration.configuration_disease_aware:DiseaseAwareConfig",
        model=".modeling_mambaxray.modeling_disease_aware:DiseaseAwareForConditionalGeneration",
        papers=("disease_aware",),
        # Prompts are the plain ones, as without a memory.
        tiny={
            "vision_config": {"model_type": "vmamba", **_TINY_VMAMBA},
            "query_hidden_size": 16,
            "query_attention_heads": 2,
            "exemplars": False,
        },
        **_GENERATOR | {"processor": ".processing.processing_disease_aware:DiseaseAwareProcessor"},
    ),
    "bidirectional_rrg": Family(
        config=".configuration.configuration_bidirectional:BidirectionalConfig",
        model=".modeling_mambaxray.modeling_bidirectional:BidirectionalForConditionalGeneration",
        papers=("bidirectional",),
        **_GENERATOR
        | {
            "processor": ".processing.processing_bidirectional:BidirectionalProcessor",
            "tiny": {
                "vision_config": {"model_type": "vision_mamba", "patch_size": 8, **_TINY_VISION_MAMBA},
                "text_encoder_config": {"model_type": "bert", **_TINY_BERT, "hidden_size": 8},
                "image_decoder_sizes": {f"decoder_{name}": size for name, size in _TINY_DECODER.items()},
                "loss_weights": {"contrastive": 1.0},
                "contrastive_width": 16,
            },
        },
    ),
    "vmamba": Family(
        config=".configuration.configuration_vmamba:VMambaConfig",
        model=".modeling_mambaxray.modeling_vmamba:VMambaModel",
        checkpoint="vmamba",
        key_map=".train.convert:vmamba_key",
        left_out=r"^(classifier\.)?head\.",  # of the classification checkpoints
        tiny=_TINY_VMAMBA,
    ),
}
_on_registration: list[Callable[[Family], None]] = []


def families() -> dict[str, Family]:
    """All families by their configuration's `model_type`."""
    return dict(_FAMILIES)


def families_of_stage(stage: str) -> dict[str, Family]:
    """The families that the recipes of a stage can train."""
    return {name: family for name, family in _FAMILIES.items() if family.stage == stage}


def families_by_checkpoint() -> dict[str, Family]:
    """The families whose released checkpoints convert, by their `checkpoint`."""
    return {family.checkpoint: family for family in _FAMILIES.values() if family.checkpoint is not None}


def register_family(family: Family) -> None:
    """Makes a family known to transformers' Auto classes, recipes, the converter and cards.

    Raises:
        ValueError: its `model_type` is taken by another family.
    """
    name = family.config_class.model_type
    if _FAMILIES.get(name, family) != family:
        raise ValueError(f"the model_type {name!r} is taken by {_FAMILIES[name].model}; choose another one")
    _FAMILIES[name] = family
    for notify in _on_registration:
        notify(family)


def call_for_each_family(notify: Callable[[Family], None]) -> None:
    """Calls a function with every family that there is, and with every one that is registered later."""
    if notify not in _on_registration:
        _on_registration.append(notify)
    for family in _FAMILIES.values():
        notify(family)


def load_entry_points() -> None:
    """Imports the modules that installed packages name; they register their families."""
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()


def import_plugins(modules: Iterable[str]) -> None:
    """Imports modules that register families, installed ones or Python files and folders of the working folder.

    Raises:
        ValueError: there is no such module.
    """
    for name in modules:
        if importlib.util.find_spec(name.partition(".")[0]) is None and os.getcwd() not in sys.path:
            # A console script, unlike `python -m`, does not look into the working folder.
            sys.path.insert(0, os.getcwd())
            importlib.invalidate_caches()
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            raise ValueError(
                f"there is no module {name!r} to import: it is neither installed nor in {os.getcwd()}"
            ) from error


def load(name: str) -> Any:
    """The object that `module:name` names."""
    module, _, attribute = name.partition(":")
    package = __name__.removesuffix(".configuration.families")
    return getattr(importlib.import_module(module, package if module.startswith(".") else None), attribute)


__all__ = [
    "Family",
    "call_for_each_family",
    "families",
    "families_by_checkpoint",
    "families_of_stage",
    "import_plugins",
    "load",
    "load_entry_points",
    "register_family",
]
