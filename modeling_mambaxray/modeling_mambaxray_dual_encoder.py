"""Stage 2 of MambaXray-VL: X-rays and reports in one space, learned by telling pairs from non-pairs."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_mambaxray_dual_encoder import MambaXrayDualEncoderConfig
from ..configuration.vision_tokens import visual_width
from .hub.repository_code import ModelCodeMixin
from .layers.contrastive import contrastive_loss
from .layers.frozen_parts import FrozenPartsMixin
from .layers.input_gradients import InputGradientsMixin
from .layers.report_encoder import drop_pooler, last_valid_token, without_pooler
from .layers.views import encode_views
from .parts.given_parts import build_around, given_part
from .parts.pretrained_parts import pretrained_part, pretrained_vision_encoder


@dataclass
class MambaXrayDualEncoderOutput(ModelOutput):
    """Output of `MambaXrayDualEncoder`.

    Attributes:
        loss: scalar, the symmetric cross-entropy over the pairs of all processes.
        image_embeds: `(images, projection_dim)`, L2-normalised.
        text_embeds: `(texts, projection_dim)`, L2-normalised.
        logits_per_image: scaled similarities `(images, texts)` within the process.
        logits_per_text: the same, `(texts, images)`.
    """

    loss: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None


class MambaXrayDualEncoder(FrozenPartsMixin, InputGradientsMixin, ModelCodeMixin, PreTrainedModel):
    """Puts studies and reports into one space, where a study lies close to its own report.

    Any `AutoModel` vision encoder and any text encoder fit; of a causal language model the body is taken. A study is
    the mean over its views and visual tokens (cls included), a report its last valid token; both are projected and
    L2-normalised.

    Attributes:
        projection_parts: the children that lead from the encoders to the shared space.

    Source: CXPMRG-Bench (MambaXray-VL), stage 2.
    """

    projection_parts: ClassVar[tuple[str, ...]] = ("visual_projection", "text_projection")

    config_class = MambaXrayDualEncoderConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    # Similarities are differences of small numbers once they are scaled.
    _keep_in_fp32_modules_strict = ["logit_scale"]
    # The loss is a mean over the pairs, whatever the Trainer counts.
    accepts_loss_kwargs = False

    def __init__(self, config: MambaXrayDualEncoderConfig):
        super().__init__(config)
        self.vision_encoder = given_part(self, "vision_encoder") or AutoModel.from_config(config.vision_config)
        text_encoder = given_part(self, "text_encoder")
        self.text_encoder = text_encoder or AutoModel.from_config(
            config.text_config, **without_pooler(config.text_config)
        )
        self.visual_projection = nn.Linear(visual_width(config.vision_config), config.projection_dim)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim)
        # One dimension, not none: FSDP2 shards no scalars.
        self.logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init_value))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            init.zeros_(module.bias)
        elif isinstance(module, MambaXrayDualEncoder):
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
    ) -> "MambaXrayDualEncoder":
        """Puts a pre-trained vision encoder and a pre-trained text encoder together; the projections start fresh.

        Args:
            vision_encoder: folder or Hub id of any `AutoModel` vision encoder, or of what stage 1 saved (see
                `load_vision_encoder`), or such a model.
            text_encoder: folder or Hub id of any text encoder or causal language model, such as
                `emilyalsentzer/Bio_ClinicalBERT`, or a text encoder.
            vision_kwargs: passed to `load_vision_encoder` (`revision`, `image_size`, …).
            text_kwargs: passed to the text encoder's `from_pretrained` (`revision`, `dtype`, …).
            config_kwargs: passed to `MambaXrayDualEncoderConfig`.
        """
        vision = pretrained_vision_encoder(vision_encoder, vision_kwargs)
        text = drop_pooler(pretrained_part(text_encoder, AutoModel.from_pretrained, text_kwargs))
        config = cls.config_class(vision_config=vision.config, text_config=text.config, **config_kwargs)
        return build_around(cls, config, {"vision_encoder": vision, "text_encoder": text}, vision.device)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_encoder.set_input_embeddings(value)

    def get_image_features(
        self, pixel_values: Tensor, view_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Studies in the shared space, before L2 normalisation.

        Args:
            pixel_values: `(batch, views, channels, height, width)` or `(batch, channels, height, width)`.
            view_mask: `(batch, views)` bool, False where a view is missing.

        Returns:
            `last_hidden_state`, the visual tokens `(batch, tokens, vision_hidden)`, and `pooler_output`
            `(batch, projection_dim)`.

        Raises:
            ValueError: the shapes do not fit, or a study has no view at all.
        """
        tokens = encode_views(self.vision_encoder, pixel_values, view_mask)
        pooled = tokens.mean(dim=1).to(self.visual_projection.weight.dtype)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=self.visual_projection(pooled))

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Reports in the shared space, before L2 normalisation.

        Args:
            input_ids: `(batch, sequence)`, padded on either side.
            attention_mask: `(batch, sequence)`, 0 at padding.
            kwargs: passed to the text encoder (`token_type_ids`, …).

        Returns:
            `last_hidden_state` `(batch, sequence, text_hidden)`, and `pooler_output` `(batch, projection_dim)`.
        """
        hidden_states = self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs
        ).last_hidden_state
        pooled = last_valid_token(hidden_states, attention_mask).to(self.text_projection.weight.dtype)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=self.text_projection(pooled))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        view_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MambaXrayDualEncoderOutput:
        """Embeddings of studies and reports, their similarities, and the contrastive loss of the pairs.

        With several processes every one must call it at the same time to get the loss, as the Trainer does: the
        pairs of all processes are gathered. `return_loss=False` computes without the others.

        Args:
            input_ids: reports `(batch, sequence)`.
            pixel_values: `(batch, views, channels, height, width)` or `(batch, channels, height, width)`.
            attention_mask: `(batch, sequence)`, 0 at padding.
            view_mask: `(batch, views)` bool, False where a view is missing.
            labels: `(batch,)`, a number for each report's text. The loss does not use them; the Trainer hands them
                to `compute_metrics`, so that a report that occurs twice counts as found either way.
            return_loss: whether to compute the loss; row by row, studies and reports are then pairs.
            kwargs: passed to the text encoder (`token_type_ids`, …).

        Raises:
            ValueError: inputs contradict each other, or the processes have batches of different shapes.
        """
        image_embeds = F.normalize(self.get_image_features(pixel_values, view_mask).pooler_output.float(), dim=-1)
        text_features = self.get_text_features(input_ids, attention_mask, **kwargs).pooler_output
        text_embeds = F.normalize(text_features.float(), dim=-1)
        scale = self.logit_scale.exp()
        logits_per_image = scale * image_embeds @ text_embeds.T
        loss = None
        if return_loss:
            if len(image_embeds) != len(text_embeds):
                raise ValueError(
                    f"{len(image_embeds)} studies and {len(text_embeds)} reports are no pairs; use return_loss=False"
                )
            loss = contrastive_loss(image_embeds, text_embeds, scale)
        return MambaXrayDualEncoderOutput(loss, image_embeds, text_embeds, logits_per_image, logits_per_image.T)


__all__ = ["MambaXrayDualEncoder", "MambaXrayDualEncoderOutput"]
