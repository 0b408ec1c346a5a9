"""Configuration of stage 1, autoregressive pre-training of the vision Mamba."""

from typing import Any

from .configuration_vision_mamba import VisionMambaConfig
from .value_checks import check_positive_integer


class MambaXrayPreTrainingConfig(VisionMambaConfig):
    r"""What a `MambaXrayForPreTraining` is made of. The defaults are MambaXray-VL's base encoder at 192 px.

    Args:
        cluster_size: side of a cluster in patches; the grid of patches must be a multiple of it.
        decoder_hidden_size: width of the decoder.
        decoder_num_attention_heads: heads of its cross-attention; one per 64 channels when not given.
        decoder_mlp_ratio: width of its feed-forward, in multiples of `decoder_hidden_size`.
        feature_layers: after which layers of the encoder, counted from 1, the decoder's layers look at it, one each;
            when not given four that divide the second half evenly (6, 8, 10, 12 of 12; 12, 16, 20, 24 of 24).
        kwargs: the fields of `VisionMambaConfig`. There is one scan direction and no cls token, and
            a patch's token sees nothing of the patches to be predicted, so `patch_embedding` is linear.

    Raises:
        ValueError: a value is out of its range; the message names it.

    Source: CXPMRG-Bench (MambaXray-VL), section "Mamba-based X-ray pre-training", and its released code.
    """

    model_type = "mambaxray_pretraining"

    def __init__(
        self,
        cluster_size: int = 4,
        decoder_hidden_size: int = 512,
        decoder_num_attention_heads: int | None = None,
        decoder_mlp_ratio: int = 4,
        feature_layers: list[int] | None = None,
        **kwargs: Any,
    ):
        for name, needed in (("num_directions", 1), ("use_cls_token", False), ("patch_embedding", "linear")):
            if (value := kwargs.pop(name, needed)) != needed:
                raise ValueError(f"autoregressive pre-training needs {name}={needed}, got {value!r}")
        super().__init__(num_directions=1, use_cls_token=False, **kwargs)
        self.cluster_size = cluster_size
        self.decoder_hidden_size = decoder_hidden_size
        if decoder_num_attention_heads is None:
            decoder_num_attention_heads = max(1, decoder_hidden_size // 64)
        self.decoder_num_attention_heads = decoder_num_attention_heads
        self.decoder_mlp_ratio = decoder_mlp_ratio
        if feature_layers is None:
            feature_layers = [-(-self.num_hidden_layers * sixths // 6) for sixths in (3, 4, 5, 6)]
        self.feature_layers = list(feature_layers)
        self._check_decoder()

    def _check_decoder(self) -> None:
        for name in ("cluster_size", "decoder_hidden_size", "decoder_num_attention_heads", "decoder_mlp_ratio"):
            check_positive_integer(name, getattr(self, name))
        if self.grid_size % self.cluster_size or self.grid_size == self.cluster_size:
            raise ValueError(
                f"a grid of {self.grid_size} x {self.grid_size} patches does not divide into several clusters of "
                f"{self.cluster_size} x {self.cluster_size}; image_size must be a multiple of "
                f"{self.cluster_size * self.patch_size}, and larger"
            )
        if self.decoder_hidden_size % self.decoder_num_attention_heads or self.decoder_hidden_size % 4:
            raise ValueError(
                f"decoder_hidden_size {self.decoder_hidden_size} must be a multiple of 4 and of its "
                f"{self.decoder_num_attention_heads} heads"
            )
        if self.hidden_size % 4:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of 4 for sine-cosine positions")
        if not self.feature_layers or not all(1 <= layer <= self.num_hidden_layers for layer in self.feature_layers):
            raise ValueError(
                f"feature_layers must be layers from 1 to {self.num_hidden_layers}, got {self.feature_layers!r}"
            )

    @property
    def num_predicted_tokens(self) -> int:
        """Patches that are predicted: those of every cluster but the first."""
        return self.grid_size**2 - self.cluster_size**2


__all__ = ["MambaXrayPreTrainingConfig"]
