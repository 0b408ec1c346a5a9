"""AM-MRG's stage 1: disease queries learn to tell which observations an X-ray shows."""

from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_ammrg_classification import AMMRGClassificationConfig
from ..configuration.vision_tokens import visual_width
from .layers.disease_queries import DiseaseQueries, DiseaseQueriesOutput, orthogonality_loss
from .modeling_disease_classification import DiseaseClassificationModel, DiseaseClassificationOutput
from .parts.given_parts import build_around
from .parts.pretrained_parts import pretrained_vision_encoder


class AMMRGForDiseaseClassification(DiseaseClassificationModel):
    """Tells which of 14 observations a study shows: any vision encoder, a Q-Former with a query per observation, and
    one logit for each.

    `qformer_projection` leads from the encoder's width to the one that the Q-Former takes; it is None where both are
    the same. `disease_queries.load_qformer` starts from a BLIP-2's Q-Former.

    Source: AM-MRG, section III-B. Its code of this stage was not released; `qformer_projection` is the `Qformer_proj`
    of the released stage 2.
    """

    config_class = AMMRGClassificationConfig

    def __init__(self, config: AMMRGClassificationConfig):
        super().__init__(config)
        width = visual_width(config.vision_config)
        self.qformer_projection = None if width == config.qformer_width else nn.Linear(width, config.qformer_width)
        self.post_init()

    @staticmethod
    def make_queries(config: AMMRGClassificationConfig) -> DiseaseQueries:
        """The Q-Former that a configuration describes."""
        return DiseaseQueries.as_qformer(config, config.qformer_width, config.num_labels)

    @classmethod
    def from_vision_pretrained(
        cls,
        vision_encoder: str | PreTrainedModel,
        *,
        vision_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> Self:
        """Puts disease queries on a pre-trained vision encoder; they start fresh.

        Args:
            vision_encoder: folder or Hub id of any `AutoModel` vision encoder, or of what an earlier stage saved (see
                `load_vision_encoder`), or such a model.
            vision_kwargs: passed to `load_vision_encoder` (`revision`, `image_size`, …).
            config_kwargs: passed to `AMMRGClassificationConfig`.
        """
        vision = pretrained_vision_encoder(vision_encoder, vision_kwargs)
        config = cls.config_class(vision_config=vision.config, **config_kwargs)
        return build_around(cls, config, {"vision_encoder": vision}, vision.device)

    def query_diseases(self, visual_tokens: Tensor, output_attentions: bool = False) -> DiseaseQueriesOutput:
        """Lets the queries look at visual tokens `(batch, tokens, vision_hidden)`."""
        if self.qformer_projection is not None:
            visual_tokens = self.qformer_projection(visual_tokens.to(self.qformer_projection.weight.dtype))
        return super().query_diseases(visual_tokens, output_attentions)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        view_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool = False,
    ) -> DiseaseClassificationOutput:
        """Logits of the observations, and the losses when labels are given.

        In training with several processes every one must call it at the same time, as the Trainer does: labels that
        are known are counted over all of them.

        Args:
            pixel_values: `(batch, views, channels, height, width)` or `(batch, channels, height, width)`.
            view_mask: `(batch, views)` bool, False where a view is missing.
            labels: `(batch, observations)`: 1 present, 0 absent, NaN where the loss leaves it out.
            output_attentions: whether to return the queries' attention to the image.

        Raises:
            ValueError: the shapes do not fit, or a study has no view at all.
        """
        fields = self.classify(pixel_values, view_mask, labels, output_attentions)
        if labels is not None:
            fields["losses"]["orthogonality"] = orthogonality_loss(self.disease_queries.queries)
        return DiseaseClassificationOutput(self.total_loss(fields["losses"]), **fields)


__all__ = ["AMMRGForDiseaseClassification"]
