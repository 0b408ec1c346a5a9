"""Configuration of the VMamba encoder."""

import math
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from .value_checks import check_positive_integer, check_time_steps, check_whole_patches

VMAMBA_PATCH_EMBEDDINGS = ("linear", "convolutional")
VMAMBA_DOWNSAMPLINGS = ("patch_merging", "convolutional")


class VMambaConfig(PreTrainedConfig):
    r"""What a `VMambaModel` is made of. The defaults are VMamba-Tiny, of the authors' name `s1l8`.

    | | `embed_dim` | `depths` | `ssm_ratio` | other |
    |---|---|---|---|---|
    | Tiny `s1l8` / `s2l5` | 96 | 2, 2, 8, 2 / 2, 2, 5, 2 | 1 / 2 | |
    | Small `s1l20` / `s2l15` | 96 | 2, 2, 20, 2 / 2, 2, 15, 2 | 1 / 2 | |
    | Base `s1l20` / `s2l15` | 128 | 2, 2, 20, 2 / 2, 2, 15, 2 | 1 / 2 | |
    | v0 Tiny / Small / Base | 96 / 96 / 128 | 2, 2, 9, 2 / 2, 2, 27, 2 / 2, 2, 27, 2 | 2 | `vmamba_v0_options()` |

    Args:
        image_size: height and width of the input in pixels, a multiple of `patch_size`. There are no position
            embeddings, so a model can be loaded at another size as it is.
        patch_size: side in pixels of what a token of the first stage stands for; 4 with a convolutional embedding.
        num_channels: channels of the input.
        embed_dim: width of the first stage; each stage is twice as wide as the one before.
        depths: number of blocks of each stage.
        patch_embedding: how pixels become tokens. "convolutional" is two 3x3 convolutions of stride 2 (v2), "linear"
            one matrix per patch (v0).
        downsampling: how a stage's grid is halved for the next. "convolutional" is a 3x3 convolution of stride 2 (v2),
            "patch_merging" a matrix over 2x2 tokens as in Swin (v0).
        state_size: size `N` of the scan's state per channel: 1 (v2) or 16 (v0).
        ssm_ratio: width of the scan, in widths of the stage.
        conv_kernel: side of the depthwise convolution before the scans, odd.
        use_conv_bias: whether that convolution has a bias.
        use_gate: whether the scan's output is multiplied by a second projection of the input (v0, v2); without it the
            form is the authors' "noz", which the public v2 checkpoints have.
        time_step_rank: rank of the step size's projection; `ceil(width / 16)` of each stage when not given.
        mlp_ratio: width of the feed-forward, in widths of the stage; 0 leaves it out (v0).
        final_norm: whether `last_hidden_state` is taken after the final layer norm, as in Swin. R2GenCSR's released
            code takes it before. `pooler_output` is always after it.
        drop_path_rate: share of samples for which the last block's branches are left out in training; the share grows
            linearly with depth.
        layer_norm_eps: epsilon of every layer norm.
        initializer_range: standard deviation of freshly made linear weights.
        time_step_min: smallest step size at initialisation.
        time_step_max: largest step size at initialisation.

    Raises:
        ValueError: a value is out of its range; the message names it.

    Source: VMamba (Liu et al., NeurIPS 2024), section 4 and appendix; the authors' configurations `vmambav0_*`,
    `vmambav2_*` and `vmambav2v_*` for the sizes.
    """

    model_type = "vmamba"

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 4,
        num_channels: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 8, 2),
        patch_embedding: str = "convolutional",
        downsampling: str = "convolutional",
        state_size: int = 1,
        ssm_ratio: float = 1.0,
        conv_kernel: int = 3,
        use_conv_bias: bool = False,
        use_gate: bool = False,
        time_step_rank: int | None = None,
        mlp_ratio: float = 4.0,
        final_norm: bool = True,
        drop_path_rate: float = 0.2,
        layer_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        time_step_min: float = 0.001,
        time_step_max: float = 0.1,
        **kwargs: Any,
    ):
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.embed_dim = embed_dim
        self.depths = list(depths)
        self.patch_embedding = patch_embedding
        self.downsampling = downsampling
        self.state_size = state_size
        self.ssm_ratio = ssm_ratio
        self.conv_kernel = conv_kernel
        self.use_conv_bias = use_conv_bias
        self.use_gate = use_gate
        self.time_step_rank = time_step_rank
        self.mlp_ratio = mlp_ratio
        self.final_norm = final_norm
        self.drop_path_rate = drop_path_rate
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.time_step_min = time_step_min
        self.time_step_max = time_step_max
        self._check_values()
        # Width of the last stage, which every model of a vision encoder asks for.
        self.hidden_size = self.stage_widths[-1]
        kwargs.pop("hidden_size", None)
        super().__init__(**kwargs)

    def _check_values(self) -> None:
        names = ["image_size", "patch_size", "num_channels", "embed_dim", "state_size", "conv_kernel"]
        values = [(name, getattr(self, name)) for name in names]
        values += [(f"depths[{i}]", depth) for i, depth in enumerate(self.depths)]
        if self.time_step_rank is not None:
            values.append(("time_step_rank", self.time_step_rank))
        for name, value in values:
            check_positive_integer(name, value)
        if not self.depths:
            raise ValueError("depths must name at least one stage")
        check_whole_patches(self.image_size, self.patch_size)
        for name, choices in (
            ("patch_embedding", VMAMBA_PATCH_EMBEDDINGS),
            ("downsampling", VMAMBA_DOWNSAMPLINGS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.patch_embedding == "convolutional" and (self.patch_size != 4 or self.embed_dim % 2):
            raise ValueError(
                "a convolutional patch_embedding halves the image twice, by way of half the width: it needs "
                f"patch_size 4 and an even embed_dim, got {self.patch_size} and {self.embed_dim}"
            )
        if not self.conv_kernel % 2:
            raise ValueError(f"conv_kernel must be odd, got {self.conv_kernel}")
        if self.ssm_ratio <= 0 or self.mlp_ratio < 0:
            raise ValueError(f"need ssm_ratio > 0 and mlp_ratio >= 0, got {self.ssm_ratio} and {self.mlp_ratio}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be at least 0 and below 1, got {self.drop_path_rate!r}")
        check_time_steps(self.time_step_min, self.time_step_max)

    @property
    def stage_widths(self) -> list[int]:
        """Width of the tokens of each stage."""
        return [self.embed_dim * 2**stage for stage in range(len(self.depths))]

    @property
    def grid_size(self) -> int:
        """Tokens along one side of the last stage's map."""
        side = self.image_size // self.patch_size
        for _ in self.depths[1:]:
            side = math.ceil(side / 2)
        return side

    @property
    def num_tokens(self) -> int:
        """Length of the encoder's output."""
        return self.grid_size**2


def vmamba_v0_options() -> dict[str, Any]:
    """What the first version of VMamba ("vanilla", v0) has in place of `VMambaConfig`'s defaults, whatever its size."""
    return {
        "patch_embedding": "linear",
        "downsampling": "patch_merging",
        "state_size": 16,
        "ssm_ratio": 2.0,
        "use_conv_bias": True,
        "use_gate": True,
        "mlp_ratio": 0.0,
    }


__all__ = ["VMambaConfig", "vmamba_v0_options"]
