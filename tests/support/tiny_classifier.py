"""Tiny stage-1 classifiers with random weights, and one of a system from outside."""

from pathlib import Path
from typing import Any

import torch
from tiny import VISION_CONFIGS, with_large_weights

from mambaxray import AMMRGForDiseaseClassification, MambaXrayImageProcessor
from mambaxray.configuration.configuration_ammrg_classification import AMMRGClassificationConfig

_QUERIES = {
    "query_hidden_size": 16,
    "query_attention_heads": 2,
    "query_hidden_layers": 1,
    "query_intermediate_size": 16,
    "encoder_hidden_size": None,
}


def tiny_classifier(vision: str = "vision_mamba", seed: int = 0) -> AMMRGForDiseaseClassification:
    """With weights so large that the image decides."""
    torch.manual_seed(seed)
    config = AMMRGClassificationConfig(vision_config=VISION_CONFIGS[vision](), **_QUERIES)
    return with_large_weights(AMMRGForDiseaseClassification(config).eval())


def save_classifier(folder: Path, vision: str = "vision_mamba", seed: int = 0) -> str:
    """A tiny classifier and its image processor for images of 32 pixels in a folder."""
    tiny_classifier(vision, seed).save_pretrained(folder)
    MambaXrayImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


class OutsideConfig(AMMRGClassificationConfig):
    model_type = "outside_classifier"

    def __init__(self, vision_config: Any = None, **kwargs: Any):
        super().__init__(vision_config, **kwargs)


class OutsideClassifier(AMMRGForDiseaseClassification):
    config_class = OutsideConfig


def save_outside_classifier(folder: Path) -> str:
    """A classifier that only the plugin `outside_classifier` makes known."""
    torch.manual_seed(0)
    config = OutsideConfig(vision_config=VISION_CONFIGS["vision_mamba"](), **_QUERIES)
    with_large_weights(OutsideClassifier(config).eval()).save_pretrained(folder)
    MambaXrayImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)
