"""A system that starts from a stage 1 and looks up a memory, as `model.stage1` and `model.memories` of recipes say.

Stage 1 is any model with a vision encoder and a parameter named `scale`. The system adds one image token, the mean of
the memory's vectors.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from mambaxray import Family, ImageFeatures, MambaXrayConfig, MambaXrayForConditionalGeneration, register_family
from mambaxray.modeling_mambaxray.layers.study_memories import StudyMemoriesMixin


class RecallConfig(MambaXrayConfig):
    model_type = "outside_recall"

    def __init__(self, *args: Any, recalls: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.recalls = recalls

    @property
    def num_image_tokens(self) -> int:
        return self.visual_sequence_length + self.recalls


class RecallForConditionalGeneration(StudyMemoriesMixin, MambaXrayForConditionalGeneration):
    config_class = RecallConfig

    def __init__(self, config: RecallConfig):
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones(1))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RecallForConditionalGeneration):
            init.ones_(module.scale)

    @property
    def memory_vectors(self) -> dict[str, dict[str, int]]:
        return {"seen": {"values": self.config.vision_config.hidden_size}} if self.config.recalls else {}

    def start_from_stage1(self, stage1: PreTrainedModel) -> None:
        if not hasattr(stage1, "scale"):
            raise ValueError(f"a {type(stage1).__name__} has no scale")
        self.scale.data.copy_(stage1.scale.data)

    def fuse(self, visual_tokens: Tensor) -> ImageFeatures:
        if self.config.recalls:
            recalled = self.scale * self.study_memory["seen"].vectors["values"].mean(dim=0).to(visual_tokens)
            visual_tokens = torch.cat([visual_tokens, recalled.expand(len(visual_tokens), 1, -1)], dim=1)
        return super().fuse(visual_tokens)


register_family(
    Family(
        config="recalling_system:RecallConfig",
        model="recalling_system:RecallForConditionalGeneration",
        auto_classes=("AutoModel", "AutoModelForImageTextToText"),
        processor="mambaxray:MambaXrayProcessor",
        stage="finetune",
        papers=("@misc{outside,\n  title = {A system that recalls, as an example}\n}",),
    )
)
