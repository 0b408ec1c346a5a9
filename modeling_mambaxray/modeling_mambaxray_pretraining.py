"""Stage 1 of MambaXray-VL: the vision Mamba learns to predict the next cluster of patches.

Shapes in this file: B batch, G patches per side, P = G * G patches, c patches per side of a cluster, M = P - c * c
tokens that are read and as many that are predicted, D hidden_size, E decoder_hidden_size, V pixel values per patch.
Tokens are in cluster order: cluster by cluster in raster order, and raster order inside each.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_mambaxray_pretraining import MambaXrayPreTrainingConfig
from ..configuration.configuration_vision_mamba import VisionMambaConfig
from .layers.pixel_shape import check_pixel_shape
from .modeling_vision_mamba import (
    VisionMambaLayer,
    VisionMambaModel,
    VisionMambaPreTrainedModel,
    resize_position_embeddings,
)


@dataclass
class MambaXrayPreTrainingOutput(ModelOutput):
    """Output of `MambaXrayForPreTraining`.

    Attributes:
        loss: scalar, the mean of `loss_per_token`.
        logits: predicted patches `(batch, predicted tokens, values per patch)` in cluster order, from the second
            cluster on; each patch in the normalised pixels of `patch_targets`.
        loss_per_token: squared error `(predicted tokens,)`, averaged over the patch's values and the batch.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    loss_per_token: Tensor | None = None


def cluster_order(grid_size: int, cluster_size: int, device: torch.device | None = None) -> Tensor:
    """Raster indices `(P,)` of the patches in the order of their clusters."""
    clusters = grid_size // cluster_size
    patches = torch.arange(grid_size**2, device=device).view(clusters, cluster_size, clusters, cluster_size)
    return patches.transpose(1, 2).flatten()


def sine_cosine_positions(grid_size: int, width: int) -> Tensor:
    """Fixed positions `(1, P, width)` in raster order: the column in the first half of the channels, the row in the
    second, each as sines then cosines of falling frequencies (Vaswani et al., 2017, section 3.5, per axis)."""
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid_size, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=-1)
    columns = axis[None].expand(grid_size, -1, -1)
    rows = axis[:, None].expand(-1, grid_size, -1)
    return torch.cat([columns, rows], dim=-1).reshape(1, grid_size**2, width).float()


class ClusterDecoderAttention(nn.Module):
    """Cross-attention from the patches to be predicted to the patches that were read."""

    def __init__(self, config: MambaXrayPreTrainingConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.num_heads = config.decoder_num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.kv_proj = nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, features: Tensor, visible: Tensor) -> Tensor:
        """`(B, M, E)` and `(B, M, E)` to `(B, M, E)`; `visible` is `(M, M)`, True where a query may look."""
        q, k, v = (
            tensor.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for tensor in (self.q_proj(queries), *self.kv_proj(features).chunk(2, dim=-1))
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class ClusterDecoderLayer(GradientCheckpointingLayer):
    """Cross-attention and feed-forward; the queries do not look at each other."""

    def __init__(self, config: MambaXrayPreTrainingConfig):
        super().__init__()
        width, eps = config.decoder_hidden_size, config.layer_norm_eps
        self.query_norm = nn.LayerNorm(width, eps=eps)
        self.feature_norm = nn.LayerNorm(width, eps=eps)
        self.attention = ClusterDecoderAttention(config)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, config.decoder_mlp_ratio * width)
        self.fc2 = nn.Linear(config.decoder_mlp_ratio * width, width)

    def forward(self, queries: Tensor, features: Tensor, visible: Tensor) -> Tensor:
        queries = queries + self.attention(self.query_norm(queries), self.feature_norm(features), visible)
        return queries + self.fc2(F.gelu(self.fc1(self.mlp_norm(queries))))


class MambaXrayForPreTraining(VisionMambaPreTrainedModel):
    """Predicts every cluster of patches from the clusters before it.

    One scan reads all clusters but the last; a small decoder, which sees the features of several depths, predicts
    all clusters but the first. `encoder_from_pretraining` makes an encoder of what was learned.

    Source: CXPMRG-Bench (MambaXray-VL), section "Mamba-based X-ray pre-training"; after ARM (Ren et al., 2024).
    """

    config_class = MambaXrayPreTrainingConfig
    base_model_prefix = ""
    _no_split_modules = ["VisionMambaLayer", "ClusterDecoderLayer"]
    # The loss is a mean over the batch, whatever the Trainer counts.
    accepts_loss_kwargs = False

    def __init__(self, config: MambaXrayPreTrainingConfig):
        super().__init__(config)
        width, grid = config.decoder_hidden_size, config.grid_size
        depths = len(config.feature_layers)
        self.patch_embeddings = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        # Fixed, so buffers: loading a checkpoint makes every parameter trainable.
        self.register_buffer("position_embeddings", sine_cosine_positions(grid, config.hidden_size))
        self.register_buffer("decoder_position_embeddings", sine_cosine_positions(grid, width))
        self.layers = nn.ModuleList(VisionMambaLayer(config) for _ in range(config.num_hidden_layers))
        self.feature_norms = nn.ModuleList(
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(depths)
        )
        self.encoder_to_decoder = nn.Linear(depths * config.hidden_size, depths * width)
        self.query_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_layers = nn.ModuleList(ClusterDecoderLayer(config) for _ in range(depths))
        self.decoder_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.prediction_head = nn.Linear(width, config.num_channels * config.patch_size**2)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MambaXrayForPreTraining):
            fan_in = module.patch_embeddings.weight[0].numel()
            init.trunc_normal_(module.patch_embeddings.weight, std=fan_in**-0.5)
            init.zeros_(module.patch_embeddings.bias)
            init.trunc_normal_(module.query_token, std=self.config.initializer_range)
            grid = self.config.grid_size
            init.copy_(module.position_embeddings, sine_cosine_positions(grid, self.config.hidden_size))
            init.copy_(module.decoder_position_embeddings, sine_cosine_positions(grid, self.config.decoder_hidden_size))

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embeddings

    def patch_targets(self, pixel_values: Tensor) -> Tensor:
        """What `logits` are to be: the patches from the second cluster on, each with mean 0 and variance 1.

        Args:
            pixel_values: `(batch, channels, height, width)`.

        Returns:
            `(batch, predicted tokens, values per patch)`; a patch's values in the order row, column, channel. The
            variance is the unbiased one, as in the released code.
        """
        patches = self.patchify(pixel_values)[:, self.config.cluster_size**2 :]
        mean = patches.mean(dim=-1, keepdim=True)
        variance = patches.var(dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def patchify(self, pixel_values: Tensor) -> Tensor:
        """Cuts images `(batch, channels, height, width)` into patches `(batch, P, V)` in cluster order."""
        grid, side = self.config.grid_size, self.config.patch_size
        patches = pixel_values.unflatten(3, (grid, side)).unflatten(2, (grid, side))  # B, channels, G, side, G, side
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(len(pixel_values), grid**2, -1)
        return patches[:, cluster_order(grid, self.config.cluster_size, patches.device)]

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Puts patches `(batch, P, V)` in cluster order together to images `(batch, channels, height, width)`."""
        grid, side = self.config.grid_size, self.config.patch_size
        raster = patches[:, cluster_order(grid, self.config.cluster_size, patches.device).argsort()]
        image = raster.reshape(len(patches), grid, grid, side, side, -1)
        return image.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, grid * side, grid * side)

    def encode_clusters(self, pixel_values: Tensor) -> Tensor:
        """Features `(batch, M, E, depths)` of all clusters but the last, for each layer of the decoder.

        Raises:
            ValueError: the images' shape is not the configured one.
        """
        config = self.config
        check_pixel_shape(
            pixel_values,
            config.num_channels,
            config.image_size,
            "pre-training takes one size and one image per row",
        )
        tokens = self.patch_embeddings(pixel_values.to(self.patch_embeddings.weight.dtype)).flatten(2).transpose(1, 2)
        order = cluster_order(config.grid_size, config.cluster_size, tokens.device)[: -(config.cluster_size**2)]
        hidden_states = (tokens + self.position_embeddings.to(tokens.dtype))[:, order]
        forwards = torch.arange(len(order), device=tokens.device)[None]
        after_layer = {}
        for number, layer in enumerate(self.layers, start=1):
            hidden_states = after_layer[number] = layer(hidden_states, forwards, forwards)
        features = [
            norm(after_layer[number]) for norm, number in zip(self.feature_norms, config.feature_layers, strict=True)
        ]
        return self.encoder_to_decoder(torch.cat(features, dim=-1)).unflatten(-1, (config.decoder_hidden_size, -1))

    @can_return_tuple
    def forward(self, pixel_values: Tensor, return_loss: bool = True, **kwargs: Any) -> MambaXrayPreTrainingOutput:
        """Predicts the patches of every cluster but the first.

        Args:
            pixel_values: `(batch, num_channels, image_size, image_size)`.
            return_loss: whether to compute the loss; the images are their own targets.

        Raises:
            ValueError: the images' shape is not the configured one.
        """
        cluster = self.config.cluster_size**2
        features = self.encode_clusters(pixel_values)
        order = cluster_order(self.config.grid_size, self.config.cluster_size, features.device)[cluster:]
        positions = self.decoder_position_embeddings[:, order].to(features.dtype)
        queries = (self.query_token + positions).expand(len(features), -1, -1)
        # The n-th cluster of queries is cluster n + 1 of the image: it sees the clusters 1 to n.
        cluster_of = torch.arange(len(order), device=features.device) // cluster
        visible = cluster_of[:, None] >= cluster_of[None]
        for depth, layer in enumerate(self.decoder_layers):
            queries = layer(queries, features[..., depth], visible)
        prediction = self.prediction_head(self.decoder_norm(queries))
        if not return_loss:
            return MambaXrayPreTrainingOutput(logits=prediction)
        target = self.patch_targets(pixel_values.float())
        loss_per_token = (prediction.float() - target).square().mean(dim=-1).mean(dim=0)
        return MambaXrayPreTrainingOutput(loss_per_token.mean(), prediction, loss_per_token)


@torch.no_grad()
def encoder_from_pretraining(model: MambaXrayForPreTraining, image_size: int | None = None) -> VisionMambaModel:
    """Carries stage 1 into the encoder of the later stages.

    The one scan direction becomes the start of all four; positions are resized to the new grid and learned from
    here; the cls token gets position zero in the middle. The cls token itself and the last norm start fresh, from
    torch's random state, and the decoder is left behind.

    Args:
        model: what stage 1 trained.
        image_size: height and width of the later stages' images in pixels; stage 1's when not given.

    Source: CXPMRG-Bench's released code (the checkpoint branch of its contrastive stage).
    """
    shared = inspect.signature(VisionMambaConfig).parameters.keys() - {"kwargs", "num_directions", "use_cls_token"}
    values = {name: getattr(model.config, name) for name in shared}
    config = VisionMambaConfig(**values | {"image_size": image_size or model.config.image_size})
    weights = {
        "embeddings.patch_embeddings.weight": model.patch_embeddings.weight,
        "embeddings.patch_embeddings.bias": model.patch_embeddings.bias,
    }
    for name, weight in model.layers.state_dict(prefix="layers.").items():
        if ".directions.0." in name:
            copies = (name.replace(".directions.0.", f".directions.{k}.") for k in range(config.num_directions))
            weights |= dict.fromkeys(copies, weight)
        else:
            weights[name] = weight
    middle = model.config.num_tokens // 2
    before, after = model.position_embeddings.split([middle, model.config.num_tokens - middle], dim=1)
    with_cls = torch.cat([before, torch.zeros_like(before[:, :1]), after], dim=1)
    weights["embeddings.position_embeddings"] = resize_position_embeddings(with_cls, config.num_tokens, True)
    encoder = VisionMambaModel(config)
    fresh = encoder.load_state_dict(weights, strict=False)
    if fresh.unexpected_keys or set(fresh.missing_keys) != {"embeddings.cls_token", "norm.weight", "norm.bias"}:
        raise RuntimeError(f"stage 1 and the encoder do not fit: {fresh}")
    return encoder.to(model.device)


__all__ = [
    "MambaXrayForPreTraining",
    "MambaXrayPreTrainingOutput",
    "cluster_order",
    "encoder_from_pretraining",
    "sine_cosine_positions",
]
