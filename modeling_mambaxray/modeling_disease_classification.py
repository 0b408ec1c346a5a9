"""What models share that tell diseases from X-rays by one query each: AM-MRG's stage 1 and the dual-stage system's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from ..configuration.configuration_disease_classification import DiseaseClassificationConfig
from .hub.repository_code import ModelCodeMixin
from .hub.separate_parts import SeparatePartsMixin
from .layers.classification import classification_loss
from .layers.disease_queries import DiseaseQueries, DiseaseQueriesOutput
from .layers.frozen_parts import FrozenPartsMixin
from .layers.input_gradients import InputGradientsMixin
from .layers.views import encode_views
from .parts.given_parts import given_part


@dataclass
class DiseaseClassificationOutput(ModelOutput):
    """Output of a `DiseaseClassificationModel`.

    Attributes:
        loss: scalar, the weighted sum of `losses`.
        logits: whether each observation is present, before the sigmoid, `(batch, observations)`.
        disease_features: `(batch, observations, query_hidden_size)`.
        visual_tokens: the mean over the views, `(batch, tokens, vision_hidden)`.
        cross_attentions: of each layer in which queries attend to the image, `(batch, heads, observations, tokens)`,
            when asked for.
        losses: each loss by its name, unweighted; those whose targets were given.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    disease_features: Tensor | None = None
    visual_tokens: Tensor | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    losses: dict[str, Tensor] | None = None


class DiseaseClassificationModel(
    SeparatePartsMixin, FrozenPartsMixin, InputGradientsMixin, ModelCodeMixin, PreTrainedModel
):
    """A vision encoder and `disease_queries`, one query per observation, that look at its tokens.

    A system says in `make_queries` what its queries are, and in `forward` which losses it adds.
    """

    config_class = DiseaseClassificationConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    separate_parts: ClassVar[Mapping[str, str]] = {}
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    # The losses are means, whatever the Trainer counts.
    accepts_loss_kwargs = False

    def __init__(self, config: DiseaseClassificationConfig):
        super().__init__(config)
        self.vision_encoder = given_part(self, "vision_encoder") or AutoModel.from_config(config.vision_config)
        self.disease_queries = self.make_queries(config)

    @staticmethod
    def make_queries(config: DiseaseClassificationConfig) -> DiseaseQueries:
        """The queries that a configuration describes."""
        raise NotImplementedError

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, DiseaseQueries):
            init.normal_(module.queries, std=0.02)

    def query_diseases(self, visual_tokens: Tensor, output_attentions: bool = False) -> DiseaseQueriesOutput:
        """Lets the queries look at visual tokens `(batch, tokens, vision_hidden)`."""
        return self.disease_queries(visual_tokens.to(self.disease_queries.queries.dtype), output_attentions)

    def classify(
        self,
        pixel_values: Tensor,
        view_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool = False,
    ) -> dict[str, Any]:
        """The fields of a `DiseaseClassificationOutput` but its `loss`, for `forward`, whose arguments these are."""
        visual_tokens = encode_views(self.vision_encoder, pixel_values, view_mask)
        queried = self.query_diseases(visual_tokens, output_attentions)
        logits: Any = queried.logits
        losses = {}
        if labels is not None:
            losses["classification"] = classification_loss(
                logits, labels, self.config.positive_weights, over_processes=self.training
            )
        return {
            "logits": logits,
            "disease_features": queried.last_hidden_state,
            "visual_tokens": visual_tokens,
            "cross_attentions": queried.cross_attentions,
            "losses": losses,
        }

    def total_loss(self, losses: Mapping[str, Tensor]) -> Tensor | None:
        """The sum of the losses times their weights; None when there are none."""
        weighted = [loss * self.config.loss_weights.get(name, 1.0) for name, loss in losses.items()]
        return torch.stack(weighted).sum() if weighted else None


__all__ = ["DiseaseClassificationModel", "DiseaseClassificationOutput"]
