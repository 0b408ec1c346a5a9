"""Learned queries, one per disease, that gather what an image says of it.

Shapes in this file: B batch, Q queries, T visual tokens, d width of the queries, H heads.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.modeling_outputs import ModelOutput


@dataclass
class DiseaseQueriesOutput(ModelOutput):
    """Output of `DiseaseQueries`.

    Attributes:
        last_hidden_state: a feature per disease, `(batch, diseases, hidden_size)`.
        logits: whether each disease is present, before the sigmoid, `(batch, diseases)`; None without a classifier.
        cross_attentions: of each layer that attends to the image, `(batch, heads, diseases, tokens)`, when asked for.
    """

    last_hidden_state: Tensor | None = None
    logits: Tensor | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class _Unchanged(nn.Module):
    """Stands in for a part that a layer goes without."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


class _Residual(nn.Module):
    """Stands in for the end of a branch that a layer goes without: only what goes round it is left."""

    def forward(self, branch: Tensor, hidden_states: Tensor) -> Tensor:
        return hidden_states


class DiseaseQueries(nn.Module):
    """One learned query per disease attends to an image's tokens and gives a feature and a logit.

    The layers are those of BLIP-2's Q-Former (`Blip2QFormerModel`): post-norm, the queries layer-normed first,
    cross-attention in the first layer and every `cross_attention_frequency`-th after it. AM-MRG's Q-Former is the whole
    of it; a disease-aware semantic token (DAST) of the dual-stage system is one layer of cross-attention alone.

    Args:
        encoder_hidden_size: width of the visual tokens.
        num_queries: diseases; 14 for CheXpert's observations.
        hidden_size: width `d` of the queries.
        num_hidden_layers: layers.
        num_attention_heads: heads of every attention.
        intermediate_size: width of the feed-forward.
        cross_attention_frequency: cross-attention in every N-th layer.
        self_attention: whether queries attend to each other.
        feed_forward: whether layers have a feed-forward.
        dropout: of hidden states and attention weights, in training.
        layer_norm_eps: epsilon of every layer norm.
        classify: whether there is a classifier; without one there are no logits.

    Raises:
        ValueError: `hidden_size` is not a multiple of `num_attention_heads`.

    Source: AM-MRG, section III-B, and its released `Qformer.py`; the dual-stage paper, section III-A (DAST); BLIP-2 (Li
    et al., ICML 2023).
    """

    def __init__(
        self,
        encoder_hidden_size: int,
        *,
        num_queries: int = 14,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        cross_attention_frequency: int = 2,
        self_attention: bool = True,
        feed_forward: bool = True,
        dropout: float = 0.1,
        layer_norm_eps: float = 1e-12,
        classify: bool = True,
    ):
        super().__init__()
        if hidden_size % num_attention_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of {num_attention_heads} heads")
        config = Blip2QFormerConfig(
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            encoder_hidden_size=encoder_hidden_size,
            cross_attention_frequency=cross_attention_frequency,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            layer_norm_eps=layer_norm_eps,
            use_qformer_text_input=False,
        )
        # The few queries cost next to nothing, and only this implementation gives attention weights.
        config._attn_implementation = "eager"
        self.queries = nn.Parameter(torch.empty(num_queries, hidden_size).normal_(std=config.initializer_range))
        self.qformer = Blip2QFormerModel(config)
        self.is_whole_qformer = self_attention and feed_forward
        for layer in self.qformer.encoder.layer:
            if not self_attention:
                layer.attention = _Unchanged()
            if not feed_forward:
                layer.intermediate_query, layer.output_query = _Unchanged(), _Residual()
        # One head per disease: row i is for query i alone.
        self.classifier = nn.Linear(hidden_size, num_queries) if classify else None

    @classmethod
    def as_qformer(cls, config: Any, encoder_hidden_size: int, num_queries: int, classify: bool = True) -> Self:
        """AM-MRG's Q-Former, by the fields `query_…` and `cross_attention_frequency` of a configuration."""
        return cls(
            encoder_hidden_size,
            num_queries=num_queries,
            hidden_size=config.query_hidden_size,
            num_hidden_layers=config.query_hidden_layers,
            num_attention_heads=config.query_attention_heads,
            intermediate_size=config.query_intermediate_size,
            cross_attention_frequency=config.cross_attention_frequency,
            dropout=config.query_dropout,
            classify=classify,
        )

    @classmethod
    def as_semantic_tokens(cls, config: Any, encoder_hidden_size: int, num_queries: int) -> Self:
        """The dual-stage system's DASTs, by the fields `query_…` of a configuration."""
        return cls(
            encoder_hidden_size,
            num_queries=num_queries,
            hidden_size=config.query_hidden_size,
            num_hidden_layers=1,
            num_attention_heads=config.query_attention_heads,
            self_attention=False,
            feed_forward=False,
            dropout=config.query_dropout,
        )

    def forward(self, visual_tokens: Tensor, output_attentions: bool = False) -> DiseaseQueriesOutput:
        """Looks at images.

        Args:
            visual_tokens: `(B, T, encoder_hidden_size)`.
            output_attentions: whether to return the attention maps.

        Raises:
            ValueError: the tokens have another width.
        """
        width = self.qformer.config.encoder_hidden_size
        if visual_tokens.ndim != 3 or visual_tokens.shape[-1] != width:
            raise ValueError(f"visual_tokens must be (batch, tokens, {width}), got {tuple(visual_tokens.shape)}")
        queries = self.queries.expand(len(visual_tokens), -1, -1)
        output = self.qformer(
            query_embeds=queries,
            encoder_hidden_states=visual_tokens,
            output_attentions=output_attentions,
            return_dict=True,
        )
        features = output.last_hidden_state
        logits = None if self.classifier is None else self.classifier(features).diagonal(dim1=-2, dim2=-1)
        return DiseaseQueriesOutput(
            last_hidden_state=features,
            logits=logits,
            cross_attentions=output.cross_attentions if output_attentions else None,
        )

    def load_qformer(self, name_or_path: str, **kwargs: Any) -> None:
        """Starts from the Q-Former of a pre-trained BLIP-2; queries and classifier stay as they are.

        Args:
            name_or_path: folder or Hub id of a BLIP-2 of transformers, such as `Salesforce/blip2-opt-2.7b`.
            kwargs: passed to `Blip2QFormerModel.from_pretrained` (`revision`, …).

        Raises:
            ValueError: there is no Q-Former, or one of another shape.
        """
        kwargs.setdefault("key_mapping", {r"^(model\.)?qformer\.": ""})
        loaded, report = Blip2QFormerModel.from_pretrained(name_or_path, output_loading_info=True, **kwargs)
        if report["missing_keys"]:
            raise ValueError(f"{name_or_path} holds no BLIP-2 Q-Former: it lacks {sorted(report['missing_keys'])[0]}")
        self.load_qformer_weights(loaded.state_dict(), name_or_path)

    def load_qformer_weights(self, weights: Mapping[str, Tensor], source: str = "the checkpoint") -> None:
        """The same from weights by their names: transformers', or LAVIS' and AM-MRG's (`Qformer.bert.…`).

        Weights for texts and for other things than the Q-Former are left out.

        Raises:
            ValueError: weights are missing or of another shape, or this has not the Q-Former's parts.
        """
        if not self.is_whole_qformer:
            raise ValueError("a Q-Former's weights need queries with self-attention and feed-forward")
        renamed = {}
        for name, weight in weights.items():
            ours = qformer_key(name)
            if ours is not None:
                renamed[ours] = weight
        expected = self.qformer.state_dict()
        missing = [name for name in expected if name not in renamed]
        if missing:
            raise ValueError(f"{source} lacks {len(missing)} weights of this Q-Former: {', '.join(missing[:3])} …")
        for name, weight in expected.items():
            if renamed[name].shape != weight.shape:
                raise ValueError(
                    f"{name} of {source} is {tuple(renamed[name].shape)}, not {tuple(weight.shape)}; BLIP-2's Q-Former "
                    "has the defaults of DiseaseQueries and encoder_hidden_size=1408"
                )
        extra = {int(found[1]) for name in renamed if (found := re.match(r"encoder\.layer\.(\d+)\.", name))}
        if len(extra) > len(self.qformer.encoder.layer):
            raise ValueError(f"{source} has {len(extra)} layers, not {len(self.qformer.encoder.layer)}")
        self.qformer.load_state_dict({name: renamed[name] for name in expected})


_QFORMER_PREFIX = re.compile(r"^(?:(?:.*\.)?qformer\.|(?:.*\.)?Qformer\.bert\.)?(layernorm|embeddings|encoder)\.")


def qformer_key(name: str) -> str | None:
    """transformers' name of a Q-Former weight within `Blip2QFormerModel`; None for those of texts and of other parts.

    Args:
        name: transformers' (`qformer.encoder.…`, or without the prefix) or LAVIS' (`Qformer.bert.encoder.…`).
    """
    found = _QFORMER_PREFIX.match(name)
    if found is None:
        return None
    name = name[found.start(1) :]
    name = re.sub(r"^embeddings\.LayerNorm\.", "layernorm.", name)
    name = re.sub(r"\.(attention|crossattention)\.self\.", r".\1.attention.", name)
    is_text = name.startswith("embeddings.") or re.match(r"encoder\.layer\.\d+\.(intermediate|output)\.", name)
    return None if is_text else name


def orthogonality_loss(queries: Tensor) -> Tensor:
    """How alike different queries are: the mean squared cosine of all pairs, 0 when they are orthogonal.

    Args:
        queries: `(..., queries, width)`, learned queries or an image's features.

    Source: AM-MRG, section III-B, names the loss without an equation; this reading is ours.
    """
    directions = F.normalize(queries.float(), dim=-1)
    cosines = directions @ directions.mT
    count = queries.shape[-2]
    pairs = ~torch.eye(count, dtype=torch.bool, device=queries.device)
    return cosines[..., pairs].square().mean()


__all__ = ["DiseaseQueries", "DiseaseQueriesOutput", "orthogonality_loss", "qformer_key"]
