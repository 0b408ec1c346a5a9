"""The vision Mamba encoder of MambaXray-VL: image patches scanned in four directions.

Shapes in this file: B batch, L tokens, D hidden_size, K directions, N state_size, R time_step_rank, G patches per
side, P = G * G patches. Tokens are channels-last, `(B, L, D)`; per-direction tensors are `(K, B, L, D)`.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..configuration.configuration_vision_mamba import VisionMambaConfig
from .hub.repository_code import ModelCodeMixin
from .layers.pixel_shape import check_pixel_shape
from .layers.state_space import init_state_space
from .ops.directional_convolution import directional_convolution, merge_directions
from .ops.selective_scan import selective_scan


def scan_orders(grid_size: int, use_cls_token: bool, device: torch.device | None = None) -> Tensor:
    """The four orders in which a square of patches is read, as indices `(4, L)` into the raster sequence.

    By rows, by rows reversed, by columns, by columns reversed. The cls token sits at index P // 2 of the raster
    sequence and keeps that place in the column order (CXPMRG-Bench, section "Mamba-based X-ray pre-training").
    """
    patches = torch.arange(grid_size**2, device=device)
    columns = patches.view(grid_size, grid_size).T.flatten()
    if use_cls_token:
        middle = grid_size**2 // 2
        cls = patches.new_tensor([middle])
        patches, columns = (
            torch.cat([order[:middle], cls, order[middle:]])
            for order in (patches + (patches >= middle), columns + (columns >= middle))
        )
    return torch.stack([patches, patches.flip(0), columns, columns.flip(0)])


def resize_position_embeddings(positions: Tensor, num_tokens: int, use_cls_token: bool) -> Tensor:
    """Interpolates learned positions `(1, L, D)` of a square grid to `num_tokens` positions, bicubic.

    The cls token's row is carried over unchanged to the middle of the new sequence.

    Raises:
        ValueError: either number of patches is not a square.
    """
    num_special = int(use_cls_token)
    old, new = (math.isqrt(length - num_special) for length in (positions.shape[1], num_tokens))
    for side, length in ((old, positions.shape[1]), (new, num_tokens)):
        if side**2 + num_special != length:
            raise ValueError(f"{length} positions do not form a square grid with {num_special} cls token")
    patches, cls = positions, positions[:, :0]
    if use_cls_token:
        middle = old**2 // 2
        cls = positions[:, middle : middle + 1]
        patches = torch.cat([positions[:, :middle], positions[:, middle + 1 :]], dim=1)
    image = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2).float()
    if old != new:
        image = F.interpolate(image, size=(new, new), mode="bicubic", align_corners=False)
    patches = image.flatten(2).transpose(1, 2).to(positions.dtype)
    middle = new**2 // 2
    return torch.cat([patches[:, :middle], cls, patches[:, middle:]], dim=1)


class VisionMambaStem(nn.Sequential):
    """Pixels to patches `(B, D, G, G)` by 3x3 convolutions of stride 2, each with batch norm and ReLU, and a last 1x1
    convolution (Xiao et al., NeurIPS 2021, section 3). The width doubles from one to the next up to D."""

    def __init__(self, config: VisionMambaConfig):
        depth = config.patch_size.bit_length() - 1
        widths = [config.num_channels, *(max(1, config.hidden_size >> (depth - 1 - i)) for i in range(depth))]
        stages = [
            layer
            for before, after in pairwise(widths)
            for layer in (
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            )
        ]
        super().__init__(*stages, nn.Conv2d(config.hidden_size, config.hidden_size, kernel_size=1))


class VisionMambaEmbeddings(nn.Module):
    """Pixels to tokens: patches, the cls token in their middle, learned positions."""

    def __init__(self, config: VisionMambaConfig):
        super().__init__()
        self.image_size = config.image_size
        self.num_channels = config.num_channels
        if config.patch_embedding == "convolutional":
            self.patch_embeddings: nn.Module = VisionMambaStem(config)
        else:
            self.patch_embeddings = nn.Conv2d(
                config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
            )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_cls_token else None
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.num_tokens, config.hidden_size))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(B, channels, height, width)` to `(B, L, D)`."""
        check_pixel_shape(
            pixel_values,
            self.num_channels,
            self.image_size,
            "another image size needs from_pretrained(..., image_size=SIZE), which resizes the position embeddings",
        )
        tokens = self.patch_embeddings(pixel_values).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            middle = tokens.shape[1] // 2
            cls = self.cls_token.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :middle], cls, tokens[:, middle:]], dim=1)
        return tokens + self.position_embeddings


class VisionMambaConvolution(nn.Conv1d):
    """A direction's causal depthwise convolution, which the mixer computes."""

    def forward(self) -> tuple[Tensor, Tensor]:
        """The weight `(D, kernel)` and the bias `(D,)`."""
        return self.weight.squeeze(1), self.bias


class VisionMambaDirection(nn.Module):
    """What each scan direction has of its own: convolution, input-dependent projections, decay and skip.

    The mixer runs those of all directions at once. It calls for weights, since what keeps them elsewhere between calls,
    as accelerate does for models that are larger than a GPU, brings them for a call.
    """

    def __init__(self, config: VisionMambaConfig):
        super().__init__()
        width, state, rank = config.hidden_size, config.state_size, config.time_step_rank
        self.conv1d = VisionMambaConvolution(width, width, config.conv_kernel, groups=width)
        self.x_proj = nn.Linear(width, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, width)
        self.A_log = nn.Parameter(torch.zeros(width, state))
        self.D = nn.Parameter(torch.ones(width))
        self.splits = (rank, state, state)  # of what x_proj gives: low-rank step, B, C

    def forward(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The convolution's weight `(D, kernel)` and bias `(D,)`, `A_log` `(D, N)` and `D` `(D,)`."""
        return *self.conv1d(), self.A_log, self.D


class VisionMambaMixer(nn.Module):
    """The token mixer: shared projections around one selective scan per direction, averaged over directions."""

    def __init__(self, config: VisionMambaConfig):
        super().__init__()
        self.in_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size, bias=False)
        self.directions = nn.ModuleList(VisionMambaDirection(config) for _ in range(config.num_directions))
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        # Starts smaller in deeper models, which keeps the residual stream's variance independent of depth (GPT-2).
        self.out_proj.ends_residual_branch = True

    def forward(self, hidden_states: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
        """`(B, L, D)` to `(B, L, D)`; `orders` and their inverses are `(K, L)`. Mamba, algorithm 2."""
        directions = self.directions
        x, gate = self.in_proj(hidden_states).chunk(2, dim=-1)
        own = zip(*(direction() for direction in directions), strict=True)
        weight, bias, A_log, D = (torch.stack(of_directions) for of_directions in own)
        u = directional_convolution(x, orders, weight, bias, inverse_orders)
        projected, _ = project_directions([direction.x_proj for direction in directions], u)
        low_rank_step, B, C = projected.split(directions[0].splits, dim=-1)
        # dt_proj stays in float32 when the model is loaded in half precision: the step sizes are small differences.
        low_rank_step = low_rank_step.to(directions[0].dt_proj.weight.dtype)
        delta, delta_bias = project_directions([direction.dt_proj for direction in directions], low_rank_step)
        scanned = selective_scan(u, delta, -torch.exp(A_log.float()), B, C, D, delta_bias)
        return self.out_proj(merge_directions(scanned, gate, orders, inverse_orders))


def project_directions(projections: list[nn.Module], x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Each direction's tokens through its own linear layer.

    Where these are PyTorch's own, it is one product for all of them. Layers that something has changed, such as an
    adapter, a quantisation or a hook, are called one after the other.

    Args:
        projections: one per direction.
        x: `(K, B, L, inputs)`.

    Returns:
        `(K, B, L, outputs)`, and the bias `(K, outputs)` that is still to be added, if any.
    """
    if not all(_is_plain(projection) for projection in projections):
        return torch.stack([projection(tokens) for projection, tokens in zip(projections, x, strict=True)]), None
    weight = torch.stack([projection.weight for projection in projections])
    bias = None if projections[0].bias is None else torch.stack([projection.bias for projection in projections])
    return torch.bmm(x.flatten(1, 2), weight.mT).unflatten(1, x.shape[1:3]), bias


def _is_plain(projection: nn.Module) -> bool:
    """Whether calling a linear layer does nothing but multiply by its weight and add its bias."""
    changed = "forward" in vars(projection) or projection._forward_hooks or projection._forward_pre_hooks
    return type(projection) is nn.Linear and not changed


class VisionMambaMLP(nn.Module):
    """The gated feed-forward `down(silu(gate x) * up x)` (SwiGLU; Shazeer, 2020)."""

    def __init__(self, config: VisionMambaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class VisionMambaLayer(GradientCheckpointingLayer):
    """One pre-norm block: mixer and feed-forward, each with a residual."""

    def __init__(self, config: VisionMambaConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mixer = VisionMambaMixer(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMambaMLP(config)

    def forward(self, hidden_states: Tensor, orders: Tensor, inverse_orders: Tensor) -> Tensor:
        hidden_states = hidden_states + self.mixer(self.norm1(hidden_states), orders, inverse_orders)
        return hidden_states + self.mlp(self.norm2(hidden_states))


class VisionMambaPreTrainedModel(ModelCodeMixin, PreTrainedModel):
    """Weight initialisation, loading and the flags that transformers asks for."""

    config_class = VisionMambaConfig
    base_model_prefix = "vision_mamba"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["VisionMambaEmbeddings", "VisionMambaLayer"]
    # The recurrence's decay, skip and step size lose too much in half precision.
    _keep_in_fp32_modules_strict = [r"mixer\.directions\.\d+\.(A_log|D|dt_proj)"]
    _can_record_outputs = {"hidden_states": VisionMambaLayer}
    # There is no attention here, so every implementation asked of a composite model is fine.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        # transformers calls this for modules with weights of their own only: what a module without any would do to its
        # children, they do themselves.
        if isinstance(module, nn.Linear):
            depth = self.config.num_hidden_layers if getattr(module, "ends_residual_branch", False) else 1
            init.trunc_normal_(module.weight, std=std / math.sqrt(depth))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VisionMambaEmbeddings):
            if isinstance(module.patch_embeddings, nn.Conv2d):
                fan_in = module.patch_embeddings.weight[0].numel()
                init.trunc_normal_(module.patch_embeddings.weight, std=fan_in**-0.5)
                init.zeros_(module.patch_embeddings.bias)
            init.trunc_normal_(module.position_embeddings, std=std)
            if module.cls_token is not None:
                init.trunc_normal_(module.cls_token, std=std)
        elif isinstance(module, nn.Conv2d):
            # PyTorch's own; behind the stem's convolutions batch norms take the scale out.
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            super()._init_weights(module)
        elif isinstance(module, VisionMambaDirection):
            self._init_direction(module)

    def _init_direction(self, module: VisionMambaDirection) -> None:
        bound = module.conv1d.kernel_size[0] ** -0.5
        init.uniform_(module.conv1d.weight, -bound, bound)
        init.zeros_(module.conv1d.bias)
        rank = module.dt_proj.in_features
        init.uniform_(module.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        low, high = self.config.time_step_min, self.config.time_step_max
        init_state_space(module.A_log, module.D, module.dt_proj.bias, time_step_min=low, time_step_max=high)


class VisionMambaModel(VisionMambaPreTrainedModel):
    """The encoder: `(batch, channels, height, width)` pixels to `(batch, tokens, hidden_size)` visual tokens.

    Tokens are in raster order with the cls token, when there is one, at index `patches // 2`.
    Source: CXPMRG-Bench (MambaXray-VL), section "Mamba-based X-ray pre-training".
    """

    def __init__(self, config: VisionMambaConfig):
        super().__init__(config)
        self.embeddings = VisionMambaEmbeddings(config)
        self.layers = nn.ModuleList(VisionMambaLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: `(batch, num_channels, image_size, image_size)`.

        Returns:
            `last_hidden_state` `(batch, tokens, hidden_size)` after the final layer norm, and `pooler_output`
            `(batch, hidden_size)`, the mean over all tokens (stage 2 of MambaXray-VL).

        Raises:
            ValueError: the images' shape is not the configured one.
        """
        hidden_states = self.embeddings(pixel_values.to(self.dtype))
        orders = scan_orders(self.config.grid_size, self.config.use_cls_token, hidden_states.device)
        orders = orders[: self.config.num_directions]
        inverse_orders = orders.argsort(dim=-1)
        for layer in self.layers:
            hidden_states = layer(hidden_states, orders, inverse_orders)
        hidden_states = self.norm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states.mean(dim=1))


@torch.no_grad()
def resize_encoder(encoder: VisionMambaModel, image_size: int) -> VisionMambaModel:
    """A copy of the encoder for images of another size: its position embeddings are resized, the rest is the same.

    Raises:
        ValueError: the size is not a multiple of the encoder's patch size.
    """
    values = {**encoder.config.to_dict(), "image_size": image_size}
    resized = VisionMambaModel(type(encoder.config).from_dict(values)).to(encoder.device)
    weights = encoder.state_dict()
    name = "embeddings.position_embeddings"
    weights[name] = resize_position_embeddings(weights[name], resized.config.num_tokens, encoder.config.use_cls_token)
    for parameter, weight in zip(resized.parameters(), encoder.parameters(), strict=True):
        parameter.data = parameter.data.to(weight.dtype)
    resized.load_state_dict(weights)
    return resized


class ResizePositionEmbeddings(ConversionOps):
    """While loading, fits a checkpoint's position embeddings to the model's image size."""

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        tensors = next(iter(input_dict.values()))
        positions = tensors[0] if isinstance(tensors, list) else tensors
        name = kwargs["full_layer_name"]
        num_tokens = kwargs["model"].get_parameter(name).shape[1]
        if positions.shape[1] != num_tokens:
            embeddings = kwargs["model"].get_submodule(name.rpartition(".")[0])
            positions = resize_position_embeddings(positions, num_tokens, embeddings.cls_token is not None)
        return {target_patterns[0]: positions}

    @property
    def reverse_op(self) -> "KeepPositionEmbeddings":
        return KeepPositionEmbeddings()


class KeepPositionEmbeddings(ConversionOps):
    """While saving, leaves the position embeddings as they are."""

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **kwargs: Any,
    ) -> dict[str, Any]:
        return {target_patterns[0]: next(iter(input_dict.values()))}

    @property
    def reverse_op(self) -> ResizePositionEmbeddings:
        return ResizePositionEmbeddings()


register_checkpoint_conversion_mapping(
    "vision_mamba",
    [WeightConverter("embeddings.position_embeddings", "embeddings.position_embeddings", [ResizePositionEmbeddings()])],
    overwrite=True,
)

__all__ = ["VisionMambaModel", "VisionMambaPreTrainedModel", "resize_encoder"]
