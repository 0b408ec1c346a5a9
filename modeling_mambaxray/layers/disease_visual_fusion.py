"""From features of diseases and visual tokens to what is appended to the visual tokens.

Shapes in this file: B batch, Q diseases, N visual tokens, q width of the features, d width of the visual tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Attention(nn.Module):
    """Multi-head attention of some tokens to others, added to the tokens and layer-normed."""

    def __init__(self, hidden_size: int, context_size: int, num_heads: int, layer_norm_eps: float):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(context_size, hidden_size)
        self.v_proj = nn.Linear(context_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        query, key, value = (
            states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for states in (self.q_proj(tokens), self.k_proj(context), self.v_proj(context))
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.norm(tokens + self.out_proj(attended))


class DiseaseVisualFusion(nn.Module):
    r"""Disease-visual attention fusion (DVAF): one token that says what the diseases' features and the image have in
    common.

    With `T` `(Q, q)` the features and `V` `(N, d)` the visual tokens, `v = mean(V)`:

        T1 = LayerNorm(T + CrossAttention(T, V)),   T2 = LayerNorm(T1 + SelfAttention(T1))          (5)
        a = softmax(w . tanh(W_p T2)),              u = W_u sum_i a_i T2_i                           (6)
        g = sigmoid(W_g [u; v]),                    f = g * u + (1 - g) * v                          (7)

    `W_u` is there only where the widths differ.

    Args:
        visual_size: width `d` of the visual tokens.
        feature_size: width `q` of the features.
        num_attention_heads: heads of both attentions.
        layer_norm_eps: epsilon of the layer norms.

    Raises:
        ValueError: `feature_size` is not a multiple of `num_attention_heads`.

    Source: the dual-stage paper, equations 5 to 7. Residuals with their layer norms, and the form of the pooling and of
    the gate are our reading.
    """

    def __init__(self, visual_size: int, feature_size: int, num_attention_heads: int, layer_norm_eps: float = 1e-5):
        super().__init__()
        if feature_size % num_attention_heads:
            raise ValueError(f"{feature_size} is not a multiple of {num_attention_heads} heads")
        self.cross_attention = _Attention(feature_size, visual_size, num_attention_heads, layer_norm_eps)
        self.self_attention = _Attention(feature_size, feature_size, num_attention_heads, layer_norm_eps)
        self.pool_proj = nn.Linear(feature_size, feature_size)
        # Without a bias, which would fall out of the softmax.
        self.pool_score = nn.Linear(feature_size, 1, bias=False)
        self.to_visual = visual_projection(feature_size, visual_size)
        self.gate = nn.Linear(2 * visual_size, visual_size)

    def forward(self, features: Tensor, visual_tokens: Tensor) -> Tensor:
        """The token `(B, 1, d)` of features `(B, Q, q)` and visual tokens `(B, N, d)`."""
        tokens = self.cross_attention(features, visual_tokens)
        tokens = self.self_attention(tokens, tokens)
        weights = self.pool_score(self.pool_proj(tokens).tanh()).softmax(dim=1)
        pooled = self.to_visual((weights * tokens).sum(dim=1, keepdim=True))
        image = visual_tokens.mean(dim=1, keepdim=True)
        gate = self.gate(torch.cat([pooled, image], dim=-1)).sigmoid()
        return gate * pooled + (1 - gate) * image


class MeanFeature(nn.Module):
    """The mean of the diseases' features as one token: table 5's "mean pooling"."""

    def __init__(self, visual_size: int, feature_size: int):
        super().__init__()
        self.to_visual = visual_projection(feature_size, visual_size)

    def forward(self, features: Tensor, visual_tokens: Tensor) -> Tensor:
        """The token `(B, 1, d)` of features `(B, Q, q)`."""
        return self.to_visual(features.mean(dim=1, keepdim=True))


class AllFeatures(nn.Module):
    """Each disease's feature as a token: table 5's "simple concatenation"."""

    def __init__(self, visual_size: int, feature_size: int):
        super().__init__()
        self.to_visual = visual_projection(feature_size, visual_size)

    def forward(self, features: Tensor, visual_tokens: Tensor) -> Tensor:
        """The tokens `(B, Q, d)` of features `(B, Q, q)`."""
        return self.to_visual(features)


def visual_projection(feature_size: int, visual_size: int) -> nn.Module:
    """Into the width of the visual tokens, where features have another one."""
    return nn.Identity() if feature_size == visual_size else nn.Linear(feature_size, visual_size)


__all__ = ["AllFeatures", "DiseaseVisualFusion", "MeanFeature"]
