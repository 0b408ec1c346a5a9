"""Configuration of stage 2: an image encoder and a text encoder that share a space."""

from typing import Any

from transformers import AutoConfig, BertConfig, PreTrainedConfig

from .configuration_vision_mamba import VisionMambaConfig
from .saved_parts import PrivatePathsMixin
from .sub_configs import as_config, keeping_attention
from .value_checks import check_positive_integer


class MambaXrayDualEncoderConfig(PrivatePathsMixin, PreTrainedConfig):
    r"""What a `MambaXrayDualEncoder` is made of.

    Args:
        vision_config: configuration (or dict) of any `AutoModel` vision encoder whose `last_hidden_state` is
            `(batch, tokens, hidden)`; a base `VisionMambaConfig` when not given.
        text_config: configuration (or dict) of any `AutoModel` text encoder, or of a causal language model; a base
            `BertConfig` when not given.
        projection_dim: width of the shared space, 2048 in the released code.
        logit_scale_init_value: logarithm of the similarity's scale at the start, ln(1 / 0.07).

    Raises:
        TypeError: a sub-configuration is neither a configuration nor a dict.
        ValueError: `projection_dim` is not positive.

    Source: CXPMRG-Bench (MambaXray-VL), stage 2; CLIP (Radford et al., 2021) for the scale.
    """

    model_type = "mambaxray_dual_encoder"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    # What an evaluation collects are the embeddings; similarities within a batch say nothing about a data set.
    keys_to_ignore_at_inference = ["logits_per_image", "logits_per_text"]

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        projection_dim: int = 2048,
        logit_scale_init_value: float = 2.6592600369327781,
        **kwargs: Any,
    ):
        self.vision_config = as_config(vision_config, VisionMambaConfig)
        self.text_config = as_config(text_config, BertConfig)
        self.projection_dim = projection_dim
        self.logit_scale_init_value = logit_scale_init_value
        check_positive_integer("projection_dim", projection_dim)
        super().__init__(**keeping_attention(self, kwargs))


__all__ = ["MambaXrayDualEncoderConfig"]
