"""Cross-attention inside the self-attention of a pre-trained decoder's layers (EMRRG's hybrid decoder layers).

The decoder stays transformers' own. Its attention modules ask transformers' registry for the function that attends,
and those of hybrid layers are given one of ours: it attends as before, then adds the gated cross-attention to what goes
into the output projection. Whatever belongs to one batch (keys, values, masks) comes with the call, so that gradient
checkpointing, beams and several threads see what is theirs.

Shapes in this file: S studies, B rows (S times the beams or samples per study), N tokens, L visual tokens, H heads, K
heads of keys and values, d channels per head, D = H * d.
"""

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from ...configuration.configuration_emrrg import EMRRGConfig

_NAME = "mambaxray_hybrid"


class TokenGate(nn.Linear):
    """One factor per token, from the self-attention's output: a linear map, an activation, and a warm-up."""

    def __init__(self, config: EMRRGConfig, width: int):
        super().__init__(width, 1)
        self.activation = torch.tanh if config.gate_activation == "tanh" else nn.Identity()
        self.warm_up_activation = torch.tanh if config.gate_warm_up == "tanh" else nn.Identity()
        self.warm_up = None if config.gate_warm_up == "none" else nn.Parameter(torch.zeros(1))

    def forward(self, attended: Tensor) -> Tensor:
        """`(B, N, D)` to `(B, N, 1)`."""
        gate = self.activation(super().forward(attended.to(self.weight.dtype)))
        return gate if self.warm_up is None else gate * self.warm_up_activation(self.warm_up)


class GatedCrossAttention(nn.Module):
    """What one hybrid layer has of its own: the projection of the visual tokens, and the gate.

    Source: EMRRG, section "Hybrid decoder layers".
    """

    def __init__(self, config: EMRRGConfig):
        super().__init__()
        decoder = config.text_config
        heads, hidden = decoder.num_attention_heads, decoder.hidden_size
        self.key_value_heads = decoder.num_key_value_heads
        self.head_dim = getattr(decoder, "head_dim", None) or hidden // heads
        self.kv_proj = nn.Linear(hidden, 2 * self.key_value_heads * self.head_dim)
        self.gate = TokenGate(config, heads * self.head_dim)

    def keys_and_values(self, visual_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Normed visual tokens `(S, L, hidden)` to keys and values, both `(S, K, L, d)`."""
        projected = self.kv_proj(visual_tokens.to(self.kv_proj.weight.dtype))
        keys, values = projected.unflatten(-1, (self.key_value_heads, 2, self.head_dim)).unbind(dim=-2)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def weights(self, query: Tensor, states: "CrossAttentionStates", scaling: float) -> Tensor:
        """How much each token attends to each visual token, `(B, H, N, L)`; for looking at, see `forward`."""
        keys = states.keys.to(query).repeat_interleave(query.shape[1] // states.keys.shape[1], dim=1)
        keys = keys.repeat_interleave(query.shape[0] // keys.shape[0], dim=0)
        return (query @ keys.mT * scaling).softmax(dim=-1)

    def forward(
        self, attended: Tensor, query: Tensor, states: "CrossAttentionStates", attending: Tensor | None, scaling: float
    ) -> Tensor:
        """Adds the gated cross-attention.

        Args:
            attended: what the layer's self-attention gives, `(B, N, H, d)`.
            query: the self-attention's queries after the rotation by position, `(B, H, N, d)`.
            states: keys and values of the layer.
            attending: `(B, N)` bool, False for tokens that do not attend; all do when not given.
            scaling: factor of the products of queries and keys.

        Returns:
            `(B, N, H, d)`.
        """
        rows, heads, tokens, _ = query.shape
        keys, values = states.keys.to(query), states.values.to(query)
        beams = rows // len(keys)
        # Nothing orders the visual tokens in time, so the rows of one study are like more tokens of it.
        query = query.unflatten(0, (len(keys), beams)).transpose(1, 2).flatten(2, 3)
        mask = None if states.mask is None else states.mask[:, None, None, :]
        context = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=heads != keys.shape[1]
        )
        context = context.unflatten(2, (beams, tokens)).permute(0, 2, 3, 1, 4).flatten(0, 1)
        gate = self.gate(attended.flatten(2))
        if attending is not None:
            gate = gate.masked_fill(~attending.unsqueeze(-1), 0)
        return attended + gate.unsqueeze(-1).to(attended.dtype) * context


@dataclass(frozen=True)
class CrossAttentionStates:
    """A hybrid layer's view of a batch of studies.

    Attributes:
        layer: the layer's cross-attention.
        keys: `(S, K, L, d)`.
        values: `(S, K, L, d)`.
        mask: `(S, L)` bool, False for visual tokens that must not be seen; at least one of each study is.
    """

    layer: GatedCrossAttention
    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class CrossAttentionInputs:
    """What goes through the decoder beside the hidden states.

    Attributes:
        states: by the layer's index.
        attending: `(B, N)` bool, which tokens attend; all when None.
    """

    states: Mapping[int, CrossAttentionStates]
    attending: Tensor | None = None


class HybridCrossAttention(nn.Module):
    """The cross-attention of all hybrid layers of a decoder."""

    def __init__(self, config: EMRRGConfig):
        super().__init__()
        self.layers = nn.ModuleDict({str(index): GatedCrossAttention(config) for index in config.hybrid_layers})

    def forward(
        self, visual_tokens: Mapping[int, Tensor], mask: Tensor | None = None
    ) -> dict[int, CrossAttentionStates]:
        """Keys and values of visual tokens `(S, L, hidden)`, by the layer's index as its own norm of its input gives
        them."""
        states = {}
        for name, layer in self.layers.items():
            keys, values = layer.keys_and_values(visual_tokens[int(name)])
            states[int(name)] = CrossAttentionStates(layer, keys, values, mask)
        return states


class _HybridConfig:
    """The decoder's configuration as a hybrid layer's attention sees it: the same but for the attention function."""

    _attn_implementation = _NAME

    def __init__(self, decoder_config: PreTrainedConfig):
        self.decoder_config = decoder_config

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["decoder_config"], name)


class _PlainAttention:
    """A hybrid layer's attention as the decoder's own attention function sees it."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.config = module.config.decoder_config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)


def make_hybrid(language_model: PreTrainedModel, layers: list[int]) -> None:
    """Lets the self-attention of some layers take `cross_attention=CrossAttentionInputs(…)`.

    Without that argument they do what they did. No parameter, module or name of the language model changes.

    Args:
        language_model: of one of the families in `HYBRID_DECODERS`.
        layers: indices of the layers.
    """
    for index in layers:
        attention = language_model.get_decoder().layers[index].self_attn
        if not isinstance(attention.config, _HybridConfig):
            attention.config = _HybridConfig(attention.config)


def with_shared_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model's modules over the same parameters and buffers: changing its modules leaves the original's as
    they are, and no weight is held twice."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def hybrid_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cross_attention: CrossAttentionInputs | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """A function of transformers' `AttentionInterface` that adds cross-attention to what the decoder's own gives."""
    eager: Callable = sys.modules[type(module).__module__].eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config.decoder_config._attn_implementation, eager)
    attended, weights = attend(_PlainAttention(module), query, key, value, attention_mask, **kwargs)
    if cross_attention is not None:
        states = cross_attention.states[module.layer_idx]
        attended = states.layer(attended, query, states, cross_attention.attending, kwargs["scaling"])
    return attended, weights


AttentionInterface.register(_NAME, hybrid_attention_forward)

__all__ = [
    "CrossAttentionInputs",
    "CrossAttentionStates",
    "GatedCrossAttention",
    "HybridCrossAttention",
    "TokenGate",
    "make_hybrid",
    "with_shared_weights",
]
