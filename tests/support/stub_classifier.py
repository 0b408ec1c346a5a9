"""A stage-1 classifier of its two parts, a vision encoder and disease queries, as a plugin registers it."""

from pathlib import Path
from typing import Any

import torch
from tiny import VISION_CONFIGS
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from mambaxray import Family, MambaXrayImageProcessor, register_family
from mambaxray.configuration.sub_configs import as_config
from mambaxray.configuration.vision_tokens import visual_width
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.modeling_mambaxray.layers.disease_queries import DiseaseQueries
from mambaxray.modeling_mambaxray.layers.views import encode_views


class StubClassifierConfig(PreTrainedConfig):
    model_type = "stub_classifier"

    def __init__(self, vision_config: Any = None, **kwargs: Any):
        self.vision_config = as_config(vision_config or VISION_CONFIGS["vision_mamba"](), PreTrainedConfig)
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"vision_config": self.vision_config.to_dict()}


class StubClassifier(PreTrainedModel):
    config_class = StubClassifierConfig

    def __init__(self, config: StubClassifierConfig):
        super().__init__(config)
        self.vision_encoder = AutoModel.from_config(config.vision_config)
        width = visual_width(config.vision_config)
        self.disease_queries = DiseaseQueries(
            width, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        pass

    def forward(self, pixel_values: Tensor, view_mask: Tensor | None = None, **kwargs: Any) -> ModelOutput:
        tokens = encode_views(self.vision_encoder, pixel_values, view_mask)
        output = self.disease_queries(tokens)
        return ModelOutput(logits=output.logits, disease_features=output.last_hidden_state, visual_tokens=tokens)


register_family(Family(config="stub_classifier:StubClassifierConfig", model="stub_classifier:StubClassifier"))


def stub_classifier(vision: str = "vision_mamba", seed: int = 0) -> StubClassifier:
    torch.manual_seed(seed)
    model = StubClassifier(StubClassifierConfig(VISION_CONFIGS[vision]())).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "A_log" not in name:
                parameter.mul_(4.0)
    assert model.disease_queries.queries.shape[0] == len(OBSERVATIONS)
    return model


def saved_stub(folder: Path, **options: Any) -> Path:
    stub_classifier(**options).save_pretrained(folder)
    MambaXrayImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
