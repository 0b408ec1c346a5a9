"""Configuration of the report generator: a vision encoder, a projection and a causal language model."""

import math
from typing import Any

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .configuration_vision_mamba import VisionMambaConfig
from .configuration_vmamba import VMambaConfig

# Tokens that encoders of the ViT family put before their patches.
_LEADING_TOKENS = {
    "vit": 1,
    "vit_mae": 1,
    "vit_msn": 1,
    "beit": 1,
    "clip_vision_model": 1,
    "siglip_vision_model": 0,
}
_LEADING_TOKENS |= {"deit": 2, "dinov2": 1, "ijepa": 0}
# Encoders that halve the grid of patches after each stage but the last.
_HIERARCHICAL = ("swin", "swinv2")


def count_visual_tokens(vision_config: PreTrainedConfig) -> int:
    """Length of the token sequence that a vision encoder makes of one image.

    Raises:
        ValueError: the encoder's family is not known here; `num_visual_tokens` must then be given.
    """
    if isinstance(vision_config, VisionMambaConfig | VMambaConfig):
        return vision_config.num_tokens
    family = vision_config.model_type
    if family in _LEADING_TOKENS:
        return (vision_config.image_size // vision_config.patch_size) ** 2 + _LEADING_TOKENS[family]
    if family in _HIERARCHICAL:
        stride = vision_config.patch_size * 2 ** (len(vision_config.depths) - 1)
        return (vision_config.image_size // stride) ** 2
    raise ValueError(
        f"cannot tell how many tokens a {family!r} vision encoder makes of an image; "
        "give num_visual_tokens, the length of its last_hidden_state"
    )


def patch_positions(vision_config: PreTrainedConfig) -> list[int]:
    """Which of an image's visual tokens are patches, in the order of a square grid's rows; the others are cls and such.

    Raises:
        ValueError: the encoder's family is not known here, or its patches form no square.
    """
    count = count_visual_tokens(vision_config)
    positions = list(range(count))
    if isinstance(vision_config, VisionMambaConfig):
        if vision_config.use_cls_token:
            del positions[(count - 1) // 2]
    else:
        positions = positions[_LEADING_TOKENS.get(vision_config.model_type, 0) :]
    if math.isqrt(len(positions)) ** 2 != len(positions):
        raise ValueError(f"the {len(positions)} patches of a {vision_config.model_type} encoder form no square")
    return positions


def as_config(config: PreTrainedConfig | dict[str, Any] | None, default: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A sub-configuration from what a user gives: itself, a dict with its `model_type`, or the default when None.

    Raises:
        TypeError: it is neither a configuration nor a dict.
    """
    if config is None:
        return default()
    if isinstance(config, PreTrainedConfig):
        return config
    if not isinstance(config, dict):
        raise TypeError(f"expected a configuration or a dict, got {type(config).__name__}")
    values = dict(config)
    model_type = values.pop("model_type", default.model_type)
    for own in (VisionMambaConfig, VMambaConfig):
        if model_type == own.model_type:
            return own(**values)
    return AutoConfig.for_model(model_type, **values)


class MambaXrayConfig(PreTrainedConfig):
    r"""What a `MambaXrayForConditionalGeneration` is made of.

    Args:
        vision_config: configuration (or dict) of any `AutoModel` vision encoder whose `last_hidden_state` is
            `(batch, tokens, hidden)`; a base `VisionMambaConfig` when not given.
        text_config: configuration (or dict) of any attention-based `AutoModelForCausalLM`; a `LlamaConfig` when
            not given.
        image_token_id: id of the placeholder that image embeddings replace. It may lie outside the language
            model's vocabulary, since its embedding is never looked up.
        num_visual_tokens: length of the vision encoder's output for one image; derived for the vision Mamba, VMamba,
            the ViT family and Swin, and needed for others.
        projector_layer_norm_eps: epsilon of the layer norm after the projection.
        language_model_source: where the language model's weights are when they were left out of a saved model: a
            folder or a Hub name. Written by `save_pretrained`, as are the next two.
        language_model_revision: commit, branch or tag on the Hub.
        language_model_fingerprint: digest of some of these weights' values, by which another model is told;
            none when it was quantized.

    Raises:
        TypeError: a sub-configuration is neither a configuration nor a dict.
        ValueError: a value is out of range, or the number of visual tokens cannot be derived.

    Source: CXPMRG-Bench (MambaXray-VL), stage 3; R2GenGPT for the layer norm after the projection.
    """

    model_type = "mambaxray"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        image_token_id: int = 32000,
        num_visual_tokens: int | None = None,
        projector_layer_norm_eps: float = 1e-5,
        language_model_source: str | None = None,
        language_model_revision: str | None = None,
        language_model_fingerprint: str | None = None,
        **kwargs: Any,
    ):
        self.vision_config = as_config(vision_config, VisionMambaConfig)
        self.text_config = as_config(text_config, LlamaConfig)
        self.image_token_id = image_token_id
        self.num_visual_tokens = num_visual_tokens
        self.projector_layer_norm_eps = projector_layer_norm_eps
        self.language_model_source = language_model_source
        self.language_model_revision = language_model_revision
        self.language_model_fingerprint = language_model_fingerprint
        if not isinstance(image_token_id, int) or image_token_id < 0:
            raise ValueError(f"image_token_id must be a non-negative integer, got {image_token_id!r}")
        if self.num_image_tokens < 1:
            raise ValueError(f"the vision encoder must make at least one token, got {self.num_image_tokens}")
        if not __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            # The pipeline in the repository is for those who lack this package, which has its own.
            kwargs.pop("custom_pipelines", None)
        # Weights are tied inside the language model, as its own configuration says.
        kwargs.setdefault("tie_word_embeddings", getattr(self.text_config, "tie_word_embeddings", False))
        super().__init__(**kwargs)

    @property
    def num_image_tokens(self) -> int:
        """Placeholders that one study takes in the prompt. Views are averaged, so it does not grow with them."""
        if self.num_visual_tokens is not None:
            return self.num_visual_tokens
        return count_visual_tokens(self.vision_config)


__all__ = ["MambaXrayConfig", "count_visual_tokens", "patch_positions"]
