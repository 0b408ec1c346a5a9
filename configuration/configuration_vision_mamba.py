"""Configuration of the vision Mamba encoder."""

import math
from typing import Any

from transformers import PreTrainedConfig

from .value_checks import check_positive_integer, check_time_steps, check_whole_patches

PATCH_EMBEDDINGS = ("linear", "convolutional")


class VisionMambaConfig(PreTrainedConfig):
    r"""What a `VisionMambaModel` is made of. The defaults are MambaXray-VL's base encoder at 192 px.

    Args:
        hidden_size: width `D` of the tokens. Base 768, large 1024.
        num_hidden_layers: number of blocks. Base 12, large 24.
        intermediate_size: width of the gated feed-forward; `8 * hidden_size // 3` when not given.
        image_size: height and width of the input in pixels, a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        num_channels: channels of the input.
        patch_embedding: how pixels become tokens. "linear" is one matrix per patch, as in MambaXray-VL.
            "convolutional" is a stack of 3x3 convolutions of stride 2, which learns fine detail from far fewer images;
            for training from scratch. Each of its tokens sees a little beyond its patch.
        state_size: size `N` of the scan's state per channel.
        conv_kernel: width of the causal depthwise convolution before each scan.
        time_step_rank: rank of the step size's projection; `ceil(hidden_size / 16)` when not given.
        num_directions: 4 scans the patches by rows and columns, forwards and backwards (MambaXray-VL); 1 scans
            them in the given order only (autoregressive pre-training).
        use_cls_token: insert a learned token in the middle of the sequence.
        layer_norm_eps: epsilon of every layer norm.
        initializer_range: standard deviation of freshly made linear weights.
        time_step_min: smallest step size at initialisation.
        time_step_max: largest step size at initialisation.

    Raises:
        ValueError: a value is out of its range; the message names it.

    Source: CXPMRG-Bench (MambaXray-VL), section "Mamba-based X-ray pre-training"; Mamba (Gu & Dao, 2023), section 3.6
    for the initialisation of the step size; Xiao et al. (NeurIPS 2021), section 3, for the convolutional embedding.
    """

    model_type = "vision_mamba"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        intermediate_size: int | None = None,
        image_size: int = 192,
        patch_size: int = 16,
        num_channels: int = 3,
        patch_embedding: str = "linear",
        state_size: int = 16,
        conv_kernel: int = 4,
        time_step_rank: int | None = None,
        num_directions: int = 4,
        use_cls_token: bool = True,
        layer_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        time_step_min: float = 0.001,
        time_step_max: float = 0.1,
        **kwargs: Any,
    ):
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.intermediate_size = 8 * hidden_size // 3 if intermediate_size is None else intermediate_size
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.patch_embedding = patch_embedding
        self.state_size = state_size
        self.conv_kernel = conv_kernel
        self.time_step_rank = math.ceil(hidden_size / 16) if time_step_rank is None else time_step_rank
        self.num_directions = num_directions
        self.use_cls_token = use_cls_token
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.time_step_min = time_step_min
        self.time_step_max = time_step_max
        self._check_values()
        super().__init__(**kwargs)

    def _check_values(self) -> None:
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "intermediate_size",
            "image_size",
            "patch_size",
            "num_channels",
            "state_size",
            "conv_kernel",
            "time_step_rank",
        ):
            check_positive_integer(name, getattr(self, name))
        check_whole_patches(self.image_size, self.patch_size)
        if self.patch_embedding not in PATCH_EMBEDDINGS:
            raise ValueError(f"patch_embedding must be one of {PATCH_EMBEDDINGS}, got {self.patch_embedding!r}")
        if self.patch_embedding == "convolutional" and (self.patch_size < 2 or self.patch_size & (self.patch_size - 1)):
            raise ValueError(
                f"a convolutional patch_embedding halves the image step by step, so patch_size must be a power of two, "
                f"got {self.patch_size}"
            )
        if self.num_directions not in (1, 4):
            raise ValueError(f"num_directions must be 1 or 4, got {self.num_directions!r}")
        check_time_steps(self.time_step_min, self.time_step_max)

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Length of the encoder's output: the patches, and the cls token when there is one."""
        return self.grid_size**2 + int(self.use_cls_token)


__all__ = ["VisionMambaConfig"]
