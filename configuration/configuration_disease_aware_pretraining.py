"""Configuration of the disease-aware dual-stage system's stage 1: disease-aware semantic tokens beside reports."""

from typing import Any, ClassVar

from transformers import AutoConfig, BertConfig, PreTrainedConfig

from .configuration_disease_classification import DiseaseClassificationConfig
from .sub_configs import as_config
from .value_checks import check_positive_integer


class DiseaseAwarePreTrainingConfig(DiseaseClassificationConfig):
    r"""What a `DiseaseAwareForPreTraining` is made of.

    Args:
        vision_config: see `DiseaseClassificationConfig`; so are the arguments that are not described here. The paper's
            encoder is a VMamba of a size that it does not state.
        text_config: configuration (or dict) of any `AutoModel` text encoder, or of a causal language model; a base
            `BertConfig`, Bio_ClinicalBERT's, when not given. It is never trained.
        text_pooling: how a report's token states become one vector: `"cls"`, `"mean"` or `"last"`, see `pool_tokens`.
        projection_dim: width of a space of its own in which studies and reports are compared, both led there by a
            trained linear layer. When None, studies are led into the text encoder's space, and nothing on the side of
            the text is trained, which is the paper's word. The paper's own projection is not known.
        logit_scale_init_value: logarithm of the similarity's scale at the start, ln(1 / 0.07), which is CLIP's. The
            paper's temperature is not known.

    Attributes:
        loss_names: `"classification"`, see the base class, and `"contrastive"`, the symmetric cross-entropy as the mean
            over the pairs of all processes. The paper's weights are not known; both count once.

    Raises:
        TypeError: a sub-configuration is neither a configuration nor a dict.
        ValueError: a value is out of range.

    Source: the disease-aware dual-stage paper (Wu et al., AAAI 2026), stage 1; CLIP (Radford et al., 2021) for the
    scale.
    """

    model_type = "disease_aware_pretraining"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    loss_names: ClassVar[tuple[str, ...]] = ("classification", "contrastive")
    keys_to_ignore_at_inference = [
        *DiseaseClassificationConfig.keys_to_ignore_at_inference,
        *("image_embeds", "text_embeds"),
    ]

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_pooling: str = "cls",
        projection_dim: int | None = None,
        logit_scale_init_value: float = 2.6592600369327781,
        **kwargs: Any,
    ):
        self.text_config = as_config(text_config, BertConfig)
        self.text_pooling = text_pooling
        self.projection_dim = projection_dim
        self.logit_scale_init_value = logit_scale_init_value
        if text_pooling not in ("cls", "mean", "last"):
            raise ValueError(f"text_pooling must be cls, mean or last, got {text_pooling!r}")
        if projection_dim is not None:
            check_positive_integer("projection_dim", projection_dim)
        super().__init__(vision_config, **kwargs)


__all__ = ["DiseaseAwarePreTrainingConfig"]
