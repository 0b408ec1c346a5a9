"""Configuration of AM-MRG's stage 1: a vision encoder below a Q-Former with one query per disease."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from .configuration_disease_classification import DiseaseClassificationConfig
from .value_checks import check_positive_integer
from .vision_tokens import visual_width


class AMMRGClassificationConfig(DiseaseClassificationConfig):
    r"""What an `AMMRGForDiseaseClassification` is made of.

    The sizes are those of BLIP-2's Q-Former, whose weights then fit.

    Args:
        vision_config: see `DiseaseClassificationConfig`; so are the arguments that are not described here.
        query_hidden_layers: layers of the Q-Former.
        query_intermediate_size: width of its feed-forward.
        cross_attention_frequency: cross-attention in every N-th layer, the first among them.
        encoder_hidden_size: width of the visual tokens that the Q-Former takes, 1408 in BLIP-2; the vision encoder's
            own when None. Where both differ, `qformer_projection` leads from one to the other.

    Attributes:
        loss_names: `"classification"`, see the base class, and `"orthogonality"`, the mean squared cosine of all pairs
            of queries, which the paper names without equation or weight.

    Raises:
        ValueError: a value is out of range.

    Source: AM-MRG, section III-B and equation 11; the sizes of its released stage 2.
    """

    model_type = "ammrg_classification"
    loss_names: ClassVar[tuple[str, ...]] = ("classification", "orthogonality")

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        query_hidden_layers: int = 12,
        query_intermediate_size: int = 3072,
        cross_attention_frequency: int = 2,
        encoder_hidden_size: int | None = 1408,
        **kwargs: Any,
    ):
        self.query_hidden_layers = query_hidden_layers
        self.query_intermediate_size = query_intermediate_size
        self.cross_attention_frequency = cross_attention_frequency
        self.encoder_hidden_size = encoder_hidden_size
        for name in ("query_hidden_layers", "query_intermediate_size", "cross_attention_frequency"):
            check_positive_integer(name, getattr(self, name))
        if encoder_hidden_size is not None:
            check_positive_integer("encoder_hidden_size", encoder_hidden_size)
        super().__init__(vision_config, **kwargs)

    @property
    def qformer_width(self) -> int:
        """Width of the visual tokens that the Q-Former takes."""
        return visual_width(self.vision_config) if self.encoder_hidden_size is None else self.encoder_hidden_size


__all__ = ["AMMRGClassificationConfig"]
