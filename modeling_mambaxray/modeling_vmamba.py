"""The VMamba encoder: a pyramid of maps, each scanned by rows and columns in both directions.

Shapes in this file: B batch, H and W sides of a stage's map, L = H * W tokens, C width of the stage, D width of its
scan, K = 4 directions, N state_size, R time_step_rank. Maps are channels-last, `(B, H, W, C)`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_vmamba import VMambaConfig
from .hub.repository_code import ModelCodeMixin
from .layers.pixel_shape import check_pixel_shape
from .layers.state_space import init_state_space
from .ops.selective_scan import selective_scan

_DIRECTIONS = 4


@dataclass
class VMambaModelOutput(ModelOutput):
    """Output of `VMambaModel`, with the fields of transformers' Swin.

    Attributes:
        last_hidden_state: tokens of the last stage in raster order, `(batch, tokens, hidden_size)`.
        pooler_output: mean of the layer-normed tokens, `(batch, hidden_size)`.
        hidden_states: of the embeddings and behind each stage (with its downsampling), `(batch, tokens, width)`, when
            asked for. The last one is before the final layer norm.
        reshaped_hidden_states: the same as maps, `(batch, width, height, width of the map)`.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    reshaped_hidden_states: tuple[Tensor, ...] | None = None


def scan_order(maps: Tensor, direction: int) -> Tensor:
    """The tokens of maps `(B, H, W, D)` in the order of a direction, `(B, L, D)`.

    0 reads row by row, 1 column by column, 2 and 3 the same from the end (VMamba, section 4.2).
    """
    tokens = (maps.transpose(1, 2) if direction % 2 else maps).flatten(1, 2)
    return tokens.flip(1) if direction >= 2 else tokens


def cross_merge(sequences: Tensor, height: int, width: int) -> Tensor:
    """The sum of sequences in the four orders of `scan_order`, `(4, B, L, D)`, as maps `(B, H, W, D)`."""
    rows, columns = sequences[:2] + sequences[2:].flip(2)
    return rows.unflatten(1, (height, width)) + columns.unflatten(1, (width, height)).transpose(1, 2)


class VMambaConvolution(nn.Conv2d):
    """A convolution of maps whose channels come last."""

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, H, W, in)` to `(B, H', W', out)`."""
        return super().forward(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class VMambaEmbeddings(nn.Sequential):
    """Pixels `(B, H, W, channels)` to the first stage's map, a quarter as high and wide."""

    def __init__(self, config: VMambaConfig):
        width, patch = config.embed_dim, config.patch_size
        if config.patch_embedding == "linear":
            layers = [VMambaConvolution(config.num_channels, width, kernel_size=patch, stride=patch)]
        else:
            layers = [
                VMambaConvolution(config.num_channels, width // 2, kernel_size=3, stride=2, padding=1),
                nn.LayerNorm(width // 2, eps=config.layer_norm_eps),
                nn.GELU(),
                VMambaConvolution(width // 2, width, kernel_size=3, stride=2, padding=1),
            ]
        super().__init__(*layers, nn.LayerNorm(width, eps=config.layer_norm_eps))


class VMambaPatchMerging(nn.Module):
    """Halves a map's sides: a layer norm and a matrix over 2x2 tokens, those of odd sides padded with zeros (Swin)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps=eps)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, H, W, C)` to `(B, ceil(H / 2), ceil(W / 2), 2 C)`."""
        maps = F.pad(maps, (0, 0, 0, maps.shape[2] % 2, 0, maps.shape[1] % 2))
        quarters = [maps[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


def _downsampling(config: VMambaConfig, width: int) -> nn.Module:
    if config.downsampling == "patch_merging":
        return VMambaPatchMerging(width, config.layer_norm_eps)
    convolution = VMambaConvolution(width, 2 * width, kernel_size=3, stride=2, padding=1)
    return nn.Sequential(convolution, nn.LayerNorm(2 * width, eps=config.layer_norm_eps))


class VMambaMixer(nn.Module):
    """SS2D, the token mixer: a depthwise convolution, four selective scans in one call, their sum normed and gated.

    Weights of the four directions lie one behind the other, in the order of `scan_order`.
    """

    def __init__(self, config: VMambaConfig, width: int):
        super().__init__()
        inner, state = int(config.ssm_ratio * width), config.state_size
        rank = math.ceil(width / 16) if config.time_step_rank is None else config.time_step_rank
        self.splits = (rank, state, state)
        self.use_gate = config.use_gate
        self.in_proj = nn.Linear(width, 2 * inner if config.use_gate else inner, bias=False)
        self.conv2d = VMambaConvolution(
            inner,
            inner,
            config.conv_kernel,
            padding=config.conv_kernel // 2,
            groups=inner,
            bias=config.use_conv_bias,
        )
        self.x_proj_weight = nn.Parameter(torch.zeros(_DIRECTIONS, rank + 2 * state, inner))
        self.dt_proj_weight = nn.Parameter(torch.zeros(_DIRECTIONS, inner, rank))
        self.dt_proj_bias = nn.Parameter(torch.zeros(_DIRECTIONS, inner))
        self.A_log = nn.Parameter(torch.zeros(_DIRECTIONS * inner, state))
        self.D = nn.Parameter(torch.ones(_DIRECTIONS * inner))
        self.norm = nn.LayerNorm(inner, eps=config.layer_norm_eps)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`(B, H, W, C)` to `(B, H, W, C)`."""
        _, height, width, _ = hidden_states.shape
        x, *gate = self.in_proj(hidden_states).chunk(2 if self.use_gate else 1, dim=-1)
        y = cross_merge(self._scan(F.silu(self.conv2d(x))), height, width)
        y = self.norm(y)
        if gate:
            y = y * F.silu(gate[0])
        return self.out_proj(y)

    def _scan(self, x: Tensor) -> Tensor:
        """The scan's input `(B, H, W, D)` to its output in each direction, `(4, B, L, D)`."""
        u = torch.stack([scan_order(x, k) for k in range(_DIRECTIONS)])
        # Position by position, so the narrow result is put in order, not the wide input once more.
        narrow = F.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (_DIRECTIONS, -1)).unbind(-2)
        ordered = torch.stack([scan_order(maps, k) for k, maps in enumerate(narrow)])
        low_rank_step, B, C = ordered.split(self.splits, dim=-1)
        # Step sizes are small differences: their projection stays in float32 when the model is in half precision.
        low_rank_step = low_rank_step.to(self.dt_proj_weight.dtype)
        delta = (low_rank_step.flatten(1, 2) @ self.dt_proj_weight.mT).view(*u.shape)
        A = -torch.exp(self.A_log.float()).unflatten(0, (_DIRECTIONS, -1))
        return selective_scan(u, delta, A, B, C, self.D.view(_DIRECTIONS, -1), self.dt_proj_bias)


class VMambaMLP(nn.Module):
    """The feed-forward `fc2(gelu(fc1 x))`."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(hidden_states)))


class VMambaDropPath(nn.Module):
    """Leaves a residual branch out for a share of the samples, in training (Huang et al., 2016)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return hidden_states
        keep = hidden_states.new_empty(len(hidden_states), 1, 1, 1).bernoulli_(1 - self.rate)
        return hidden_states * (keep / (1 - self.rate))


class VMambaLayer(GradientCheckpointingLayer):
    """One pre-norm block: mixer and, unless its width is 0, feed-forward, each with a residual."""

    def __init__(self, config: VMambaConfig, width: int, drop_path_rate: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mixer = VMambaMixer(config, width)
        self.norm2, self.mlp = None, None
        if config.mlp_ratio > 0:
            self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
            self.mlp = VMambaMLP(width, int(config.mlp_ratio * width))
        self.drop_path = VMambaDropPath(drop_path_rate)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = hidden_states + self.drop_path(self.mixer(self.norm1(hidden_states)))
        if self.mlp is not None:
            hidden_states = hidden_states + self.drop_path(self.mlp(self.norm2(hidden_states)))
        return hidden_states


class VMambaStage(nn.Module):
    """Blocks of one width, and the way to the next stage, where there is one."""

    def __init__(self, config: VMambaConfig, stage: int, drop_path_rates: list[float]):
        super().__init__()
        width = config.stage_widths[stage]
        self.layers = nn.ModuleList(VMambaLayer(config, width, rate) for rate in drop_path_rates)
        is_last = stage + 1 == len(config.depths)
        self.downsample = None if is_last else _downsampling(config, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states if self.downsample is None else self.downsample(hidden_states)


class VMambaPreTrainedModel(ModelCodeMixin, PreTrainedModel):
    """Weight initialisation and the flags that transformers asks for."""

    config_class = VMambaConfig
    base_model_prefix = "vmamba"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["VMambaEmbeddings", "VMambaLayer"]
    # The recurrence's decay, skip and step size lose too much in half precision.
    _keep_in_fp32_modules_strict = [r"mixer\.(A_log|D|dt_proj_weight|dt_proj_bias)"]
    # There is no attention here, so every implementation asked of a composite model is fine.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, VMambaMixer):
            self._init_scans(module)

    def _init_scans(self, module: VMambaMixer) -> None:
        bound = module.x_proj_weight.shape[-1] ** -0.5
        init.uniform_(module.x_proj_weight, -bound, bound)
        bound = module.dt_proj_weight.shape[-1] ** -0.5
        init.uniform_(module.dt_proj_weight, -bound, bound)
        low, high = self.config.time_step_min, self.config.time_step_max
        init_state_space(module.A_log, module.D, module.dt_proj_bias, time_step_min=low, time_step_max=high)


class VMambaModel(VMambaPreTrainedModel):
    """The encoder: `(batch, channels, height, width)` pixels to `(batch, tokens, hidden_size)` visual tokens.

    Source: VMamba (Liu et al., NeurIPS 2024), figure 3.
    """

    def __init__(self, config: VMambaConfig):
        super().__init__(config)
        self.embeddings = VMambaEmbeddings(config)
        last = sum(config.depths) - 1
        rates = [config.drop_path_rate * i / max(1, last) for i in range(last + 1)]
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            self.stages.append(VMambaStage(config, stage, rates[:depth]))
            rates = rates[depth:]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> VMambaModelOutput:
        """Encodes images.

        Args:
            pixel_values: `(batch, num_channels, image_size, image_size)`.
            output_hidden_states: whether to return the map behind each stage, too; as configured when not given.

        Raises:
            ValueError: the images' shape is not the configured one.
        """
        config = self.config
        check_pixel_shape(
            pixel_values,
            config.num_channels,
            config.image_size,
            "for another image size load the encoder with from_pretrained(..., image_size=SIZE)",
        )
        maps = [self.embeddings(pixel_values.to(self.dtype).permute(0, 2, 3, 1))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        tokens = maps[-1].flatten(1, 2)
        normed = self.norm(tokens)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        return VMambaModelOutput(
            last_hidden_state=normed if config.final_norm else tokens,
            pooler_output=normed.mean(dim=1),
            hidden_states=tuple(each.flatten(1, 2) for each in maps) if output_hidden_states else None,
            reshaped_hidden_states=tuple(each.permute(0, 3, 1, 2) for each in maps) if output_hidden_states else None,
        )


__all__ = ["VMambaModel", "VMambaModelOutput", "VMambaPreTrainedModel"]
