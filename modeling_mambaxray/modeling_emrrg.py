"""EMRRG: the report generator with hybrid decoder layers, which attend to the visual tokens beside their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ..configuration.configuration_emrrg import EMRRGConfig
from .layers.hybrid_attention import (
    CrossAttentionInputs,
    CrossAttentionStates,
    HybridCrossAttention,
    TokenGate,
    make_hybrid,
    with_shared_weights,
)
from .layers.image_features import ImageFeatures
from .modeling_mambaxray import MambaXrayForConditionalGeneration


@dataclass
class EMRRGImageFeatures(ImageFeatures):
    """Image features, and what the hybrid layers made of them.

    Attributes:
        cross_attention_states: by the layer's index; one row per study, however many beams or samples there are.
    """

    cross_attention_states: dict[int, CrossAttentionStates] | None = None


class EMRRGForConditionalGeneration(MambaXrayForConditionalGeneration):
    """A report generator some of whose decoder layers have gated cross-attention to the visual tokens.

    The image embeddings stand in the prompt as in the base class. In a hybrid layer every text token, beside its
    self-attention, attends to them with the same query; a gate of its own, learned and starting at zero, decides how
    much of that is added. So a new model is equal to the base class's with the same parts, to the last bit. The cross-
    attention is a part of its own (`cross_attention`): freezing or quantizing the language model does not touch it.

    Source: EMRRG.
    """

    config_class = EMRRGConfig
    # Every step needs the study's visual keys and values, which are not in the decoder's cache.
    supports_continuous_generation = False

    def __init__(self, config: EMRRGConfig):
        super().__init__(config)
        self.cross_attention = HybridCrossAttention(config)
        make_hybrid(self.language_model, config.hybrid_layers)
        self.post_init()

    @classmethod
    def from_encoder_decoder_pretrained(
        cls, vision_encoder: str | PreTrainedModel, language_model: str | PreTrainedModel, **kwargs: Any
    ) -> Self:
        """As in the base class, with the fields of `EMRRGConfig` among the arguments; the cross-attention starts fresh
        and adds nothing yet. A language model that is given as such is not changed; its weights are shared."""
        if isinstance(language_model, PreTrainedModel):
            language_model = with_shared_weights(language_model)
        return super().from_encoder_decoder_pretrained(vision_encoder, language_model, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TokenGate):
            # What starts at zero keeps the gate closed until something is learned.
            init.zeros_(module.weight if module.warm_up is None else module.warm_up)

    @classmethod
    def for_released_weights(
        cls, weights: Mapping[str, Tensor]
    ) -> tuple[type[MambaXrayForConditionalGeneration], dict[str, Any]]:
        """Without hybrid layers, as after partial LoRA alone, it is the base class."""
        layers = sorted({int(name.split(".")[2]) for name in weights if name.startswith("cross_attention.")})
        return (cls, {"hybrid_layers": layers}) if layers else (MambaXrayForConditionalGeneration, {})

    def fuse(self, visual_tokens: Tensor, **study_inputs: Tensor) -> EMRRGImageFeatures:
        """As in the base class, with the keys and values of the hybrid layers, which are computed here and only here:
        once per study."""
        features = super().fuse(visual_tokens, **study_inputs)
        return EMRRGImageFeatures(
            **features, cross_attention_states=self._cross_attention_states(features.pooler_output)
        )

    def _cross_attention_states(self, image_embeds: list[Tensor]) -> dict[int, CrossAttentionStates]:
        layers, visual_tokens = self.get_decoder().layers, torch.stack(image_embeds)
        normed = {index: layers[index].input_layernorm(visual_tokens) for index in self.config.hybrid_layers}
        return self.cross_attention(normed)

    def extra_decoder_inputs(self, input_ids: Tensor | None, image_features: ImageFeatures | None) -> dict[str, Any]:
        if image_features is None:
            return {}
        if input_ids is None:
            raise ValueError("hybrid layers tell text from image by input_ids: give these, not inputs_embeds")
        states = getattr(image_features, "cross_attention_states", None)
        if states is None:
            states = self._cross_attention_states(image_features.pooler_output)
        return {"cross_attention": CrossAttentionInputs(states, self._attending(input_ids))}

    def _attending(self, input_ids: Tensor) -> Tensor:
        """Which tokens attend to the visual tokens, `(batch, sequence)`; none of a row without an image."""
        is_image = input_ids == self.config.image_token_id
        attending = is_image.any(dim=-1, keepdim=True)
        if self.config.attending_tokens == "text_after_image":
            attending = is_image.cumsum(dim=-1) > 0
        text = ~self.placeholders(input_ids)
        return attending.expand_as(is_image) if self.config.attending_tokens == "all" else attending & text

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, **kwargs
        )
        features = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if features is not None and "mm_encoder_outputs" not in inputs:
            # New tokens are text behind the image, whichever tokens attend.
            inputs["cross_attention"] = CrossAttentionInputs(features.cross_attention_states)
        return inputs


__all__ = ["EMRRGForConditionalGeneration", "EMRRGImageFeatures"]
