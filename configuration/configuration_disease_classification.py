"""What the configurations of models share that tell diseases from X-rays by one query each."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .configuration_vision_mamba import VisionMambaConfig
from .loss_weights import check_loss_weights
from .observations import OBSERVATIONS
from .saved_parts import PrivatePathsMixin
from .sub_configs import as_config, keeping_attention
from .value_checks import check_positive_integer


class DiseaseClassificationConfig(PrivatePathsMixin, PreTrainedConfig):
    r"""A vision encoder, one query per observation, and the losses.

    Args:
        vision_config: configuration (or dict) of any `AutoModel` vision encoder whose `last_hidden_state` is
            `(batch, tokens, hidden)`; a base `VisionMambaConfig` when not given.
        query_hidden_size: width of the queries and of the disease features.
        query_attention_heads: heads of every attention of the queries.
        query_dropout: dropout of the queries' hidden states and attention weights, in training.
        loss_weights: factor of each named loss in the total, by its name; 1 for a loss that is not named. The names
            are the family's `loss_names`.
        positive_weights: for each observation the weight of its positive labels in the binary cross-entropy, the
            negative ones having 1; all 1 when not given.
        separate_parts: the parts that a saved model leaves out, see `MambaXrayConfig`. Written by `save_pretrained`.
        kwargs: of `PreTrainedConfig`; `id2label` names the observations, CheXpert's 14 by default.

    Attributes:
        loss_names: the losses of the family's model: `"classification"`, the binary cross-entropy as the mean over all
            labels that are known, and what a system adds.

    Raises:
        TypeError: the sub-configuration is neither a configuration nor a dict.
        ValueError: a value is out of range.
    """

    sub_configs = {"vision_config": AutoConfig}
    loss_names: ClassVar[tuple[str, ...]] = ("classification",)
    # What an evaluation collects are the logits; the rest would fill the memory.
    keys_to_ignore_at_inference = ["disease_features", "visual_tokens", "cross_attentions", "losses"]

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        query_hidden_size: int = 768,
        query_attention_heads: int = 12,
        query_dropout: float = 0.1,
        loss_weights: dict[str, float] | None = None,
        positive_weights: Sequence[float] | None = None,
        separate_parts: dict[str, dict[str, str | None]] | None = None,
        **kwargs: Any,
    ):
        self.vision_config = as_config(vision_config, VisionMambaConfig)
        self.query_hidden_size = query_hidden_size
        self.query_attention_heads = query_attention_heads
        self.query_dropout = query_dropout
        self.loss_weights = check_loss_weights(loss_weights, self.loss_names)
        self.positive_weights = None if positive_weights is None else list(positive_weights)
        self.separate_parts = {name: dict(part) for name, part in (separate_parts or {}).items()}
        if "num_labels" not in kwargs and kwargs.get("id2label") is None:
            kwargs["id2label"] = dict(enumerate(OBSERVATIONS))
            kwargs["label2id"] = {name: number for number, name in enumerate(OBSERVATIONS)}
        kwargs.setdefault("problem_type", "multi_label_classification")
        super().__init__(**keeping_attention(self, kwargs))
        check_positive_integer("query_hidden_size", query_hidden_size)
        check_positive_integer("query_attention_heads", query_attention_heads)
        if query_hidden_size % query_attention_heads:
            raise ValueError(
                f"query_hidden_size {query_hidden_size} must be a multiple of query_attention_heads "
                f"{query_attention_heads}"
            )
        if self.positive_weights is not None:
            self._check_positive_weights(self.positive_weights)

    def _check_positive_weights(self, weights: Sequence[float]) -> None:
        if len(weights) != self.num_labels:
            raise ValueError(f"positive_weights must be {self.num_labels} numbers, one per observation, got {weights}")
        for weight in weights:
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ValueError(f"positive_weights must be positive numbers, got {weight!r}")


__all__ = ["DiseaseClassificationConfig"]
