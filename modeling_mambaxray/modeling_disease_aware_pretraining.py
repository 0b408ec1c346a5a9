"""The disease-aware dual-stage system's stage 1: disease-aware tokens learn from labels, patches from reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_disease_aware_pretraining import DiseaseAwarePreTrainingConfig
from ..configuration.vision_tokens import visual_width
from .hub.separate_parts import PartReference
from .layers.contrastive import contrastive_loss
from .layers.disease_queries import DiseaseQueries
from .layers.report_encoder import ReportEncoder, drop_pooler, without_pooler
from .modeling_disease_classification import DiseaseClassificationModel, DiseaseClassificationOutput
from .parts.given_parts import build_around, given_part
from .parts.pretrained_parts import pretrained_part, pretrained_vision_encoder


@dataclass
class DiseaseAwarePreTrainingOutput(DiseaseClassificationOutput):
    """Output of `DiseaseAwareForPreTraining`; the other fields are those of `DiseaseClassificationOutput`.

    Attributes:
        image_embeds: the studies in the space of the reports, `(batch, width)`, L2-normalised; when reports are given.
        text_embeds: the reports in it, `(batch, width)`, L2-normalised; when they are given.
    """

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class DiseaseAwareForPreTraining(DiseaseClassificationModel):
    """Tells which of 14 observations a study shows, by a disease-aware semantic token (DAST) for each, and puts studies
    beside their reports.

    A DAST is a learned query with one cross-attention to the patches, without self-attention and feed-forward. In the
    contrastive loss a study is the mean over its visual tokens, which `visual_projection` leads into the space of a
    text encoder that is never trained. A text encoder that was loaded from somewhere is not saved with the model, which
    then refers to where it came from (`separate_parts.py`).

    Source: the disease-aware dual-stage paper (Wu et al., AAAI 2026), stage 1.
    """

    config_class = DiseaseAwarePreTrainingConfig
    input_modalities = ("image", "text")
    separate_parts: ClassVar[Mapping[str, str]] = {"text_encoder": "AutoModel"}
    # Similarities are differences of small numbers once they are scaled.
    _keep_in_fp32_modules_strict = ["logit_scale"]

    def __init__(self, config: DiseaseAwarePreTrainingConfig):
        super().__init__(config)
        self.text_encoder = given_part(self, "text_encoder") or AutoModel.from_config(
            config.text_config, **without_pooler(config.text_config)
        )
        self.text_encoder.requires_grad_(False)
        text_width = config.text_config.hidden_size
        shared = text_width if config.projection_dim is None else config.projection_dim
        self.visual_projection = nn.Linear(visual_width(config.vision_config), shared)
        self.text_projection = None if config.projection_dim is None else nn.Linear(text_width, shared)
        # One dimension, not none: FSDP2 shards no scalars.
        self.logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init_value))
        self.post_init()

    @staticmethod
    def make_queries(config: DiseaseAwarePreTrainingConfig) -> DiseaseQueries:
        """The DASTs that a configuration describes."""
        return DiseaseQueries.as_semantic_tokens(config, visual_width(config.vision_config), config.num_labels)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DiseaseAwareForPreTraining):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_encoder: str | PreTrainedModel,
        text_encoder: str | PreTrainedModel,
        *,
        vision_kwargs: dict[str, Any] | None = None,
        text_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> Self:
        """Puts a pre-trained vision encoder and a pre-trained text encoder together; all else starts fresh.

        Args:
            vision_encoder: folder or Hub id of any `AutoModel` vision encoder, or of what an earlier stage saved (see
                `load_vision_encoder`), or such a model.
            text_encoder: folder or Hub id of any text encoder or causal language model, such as
                `emilyalsentzer/Bio_ClinicalBERT`, or a text encoder.
            vision_kwargs: passed to `load_vision_encoder` (`revision`, `image_size`, …).
            text_kwargs: passed to the text encoder's `from_pretrained` (`revision`, `dtype`, …).
            config_kwargs: passed to `DiseaseAwarePreTrainingConfig`.
        """
        vision = pretrained_vision_encoder(vision_encoder, vision_kwargs)
        text = drop_pooler(pretrained_part(text_encoder, AutoModel.from_pretrained, text_kwargs))
        config = cls.config_class(vision_config=vision.config, text_config=text.config, **config_kwargs)
        model = build_around(cls, config, {"vision_encoder": vision, "text_encoder": text}, vision.device)
        if isinstance(text_encoder, str):
            revision = (text_kwargs or {}).get("revision")
            model.part_references["text_encoder"] = PartReference.of(text, text_encoder, revision)
        return model

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """As `SeparatePartsMixin.from_pretrained`."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        model.text_encoder.requires_grad_(False)  # what is loaded takes the place of what `__init__` froze
        return loaded

    @classmethod
    def _load_part(cls, part: str, source: str, revision: str | None, dtype: Any, **options: Any) -> PreTrainedModel:
        where = {name: value for name, value in (options | {"revision": revision}).items() if value is not None}
        options |= without_pooler(AutoConfig.from_pretrained(source, **where))
        return super()._load_part(part, source, revision, dtype, **options)

    @property
    def report_encoder(self) -> ReportEncoder:
        """The frozen text encoder with its pooling."""
        return ReportEncoder(self.text_encoder, pooling=self.config.text_pooling, frozen=True)

    def train(self, mode: bool = True) -> Self:
        """As usual, but the text encoder stays as it is used."""
        super().train(mode)
        self.text_encoder.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_encoder.set_input_embeddings(value)

    def embed_studies(self, visual_tokens: Tensor) -> Tensor:
        """Studies in the space of the reports, `(batch, width)`, L2-normalised, in float32.

        Args:
            visual_tokens: `(batch, tokens, vision_hidden)`; their mean is the study.
        """
        pooled = visual_tokens.mean(dim=1).to(self.visual_projection.weight.dtype)
        return F.normalize(self.visual_projection(pooled).float(), dim=-1)

    def embed_reports(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Reports in the space of the studies, `(batch, width)`, L2-normalised, in float32.

        Args:
            input_ids: `(batch, sequence)`, padded on either side.
            attention_mask: `(batch, sequence)`, 0 at padding.
            kwargs: passed to the text encoder (`token_type_ids`, …).
        """
        pooled = self.report_encoder(input_ids, attention_mask, **kwargs)
        if self.text_projection is not None:
            pooled = self.text_projection(pooled.to(self.text_projection.weight.dtype))
        return F.normalize(pooled.float(), dim=-1)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        view_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_loss: bool = True,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> DiseaseAwarePreTrainingOutput:
        """Logits of the observations, and the losses of labels and reports that are given.

        With several processes every one must call it at the same time to get the losses, as the Trainer does: the
        pairs of all processes are gathered. `return_loss=False` computes without the others.

        Args:
            pixel_values: `(batch, views, channels, height, width)` or `(batch, channels, height, width)`.
            view_mask: `(batch, views)` bool, False where a view is missing.
            labels: `(batch, observations)`: 1 present, 0 absent, NaN where the loss leaves it out.
            input_ids: reports `(batch, sequence)`, row by row those of the studies.
            attention_mask: `(batch, sequence)`, 0 at padding.
            return_loss: whether to compute the losses.
            output_attentions: whether to return the tokens' attention to the image.
            kwargs: passed to the text encoder (`token_type_ids`, …).

        Raises:
            TypeError: an argument that the text encoder does not take.
            ValueError: the shapes do not fit, a study has no view at all, or the processes have batches of different
                shapes.
        """
        fields = self.classify(pixel_values, view_mask, labels if return_loss else None, output_attentions)
        image_embeds = text_embeds = None
        if input_ids is None and (kwargs or attention_mask is not None):
            raise ValueError(f"{', '.join(kwargs) or 'attention_mask'} belongs to reports: give input_ids too")
        if input_ids is not None:
            if len(input_ids) != len(fields["logits"]):
                raise ValueError(f"{len(fields['logits'])} studies and {len(input_ids)} reports are no pairs")
            image_embeds = self.embed_studies(fields["visual_tokens"])
            text_embeds = self.embed_reports(input_ids, attention_mask, **kwargs)
            if return_loss:
                fields["losses"]["contrastive"] = contrastive_loss(image_embeds, text_embeds, self.logit_scale.exp())
        loss = self.total_loss(fields["losses"])
        return DiseaseAwarePreTrainingOutput(loss, **fields, image_embeds=image_embeds, text_embeds=text_embeds)


__all__ = ["DiseaseAwareForPreTraining", "DiseaseAwarePreTrainingOutput"]
