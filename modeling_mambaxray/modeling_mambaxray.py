"""The report generator: views, vision encoder, projection, image embeddings in a prompt, causal language model.

The base class of the package's systems. What a system may override: `get_image_features` (it adds image tokens, and
says so in its configuration's `num_image_tokens`), and `decoder_arguments` (its decoder's layers are changed).
"""

import inspect
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_mambaxray import MambaXrayConfig
from .pipeline_image_to_text import ImageToTextPipeline
from .repository_code import ModelCodeMixin
from .separate_parts import PartReference, SeparatePartsMixin
from .vision_encoder import FrozenVisionEncoderMixin, encode_views, load_vision_encoder


@dataclass
class MambaXrayOutput(ModelOutput):
    """Output of `MambaXrayForConditionalGeneration`.

    Attributes:
        loss: scalar; mean over supervised tokens, when labels were given.
        logits: `(batch, sequence, vocabulary)`, or the last positions when `logits_to_keep` was given.
        cache: the decoder's cache of keys and values.
        hidden_states: the decoder's hidden states, when asked for.
        attentions: the decoder's attention weights, when asked for.
        image_hidden_states: image embeddings `(batch, image_tokens, llm_hidden)`, when an image was encoded.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None


class MambaXrayPreTrainedModel(ModelCodeMixin, PreTrainedModel):
    """Weight initialisation and the flags that transformers asks for."""

    config_class = MambaXrayConfig
    base_model_prefix = ""
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["cache"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


class MambaXrayForConditionalGeneration(
    FrozenVisionEncoderMixin, SeparatePartsMixin, MambaXrayPreTrainedModel, GenerationMixin
):
    """Writes a report for a study of one or several chest X-ray views.

    Any `AutoModel` vision encoder and any attention-based `AutoModelForCausalLM` decoder fit, so MambaXray-VL
    (vision Mamba + Llama-2) and R2GenGPT (Swin + Llama-2) are configurations of this class.

    A pre-trained language model that is frozen is not saved with the model, which then refers to where it came from
    (`separate_parts.py`).

    Attributes:
        supports_continuous_generation: whether the decoder's cache alone carries a study from one token to the next,
            so that studies may come and go (`continuous_generation.py`). A system that keeps more says False.

    Source: CXPMRG-Bench (MambaXray-VL), stage 3.
    """

    supports_continuous_generation = True
    repository_pipelines = {"image-to-text": (ImageToTextPipeline, "AutoModelForImageTextToText")}

    def __init__(self, config: MambaXrayConfig):
        super().__init__(config)
        self.vision_encoder = AutoModel.from_config(config.vision_config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        llm_hidden = self.language_model.get_input_embeddings().embedding_dim
        self.projector = nn.Linear(config.vision_config.hidden_size, llm_hidden)
        self.layer_norm = nn.LayerNorm(llm_hidden, eps=config.projector_layer_norm_eps)
        decoder_arguments = inspect.signature(self.language_model.forward).parameters
        self._decoder_takes_positions = "position_ids" in decoder_arguments
        self.post_init()

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        vision_encoder: str | PreTrainedModel,
        language_model: str | PreTrainedModel,
        *,
        image_token_id: int | None = None,
        vision_kwargs: dict[str, Any] | None = None,
        text_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> "MambaXrayForConditionalGeneration":
        """Puts a pre-trained vision encoder and a pre-trained language model together; the projection starts fresh.

        Args:
            vision_encoder: folder or Hub id of any `AutoModel` vision encoder, or of what an earlier stage saved (see
                `load_vision_encoder`), or such a model.
            language_model: folder or Hub id of any attention-based `AutoModelForCausalLM`, or such a model.
            image_token_id: id of the image placeholder; by default the first id behind the vocabulary.
            vision_kwargs: passed to `load_vision_encoder` (`revision`, `image_size`, …).
            text_kwargs: passed to the decoder's `from_pretrained` (`revision`, `dtype`, …).
            config_kwargs: passed to `MambaXrayConfig`.
        """
        encoder, decoder = vision_encoder, language_model
        if not isinstance(encoder, PreTrainedModel):
            encoder = load_vision_encoder(vision_encoder, **(vision_kwargs or {}))
        if not isinstance(decoder, PreTrainedModel):
            decoder = AutoModelForCausalLM.from_pretrained(language_model, **(text_kwargs or {}))
        if image_token_id is None:
            image_token_id = decoder.get_input_embeddings().num_embeddings
        config = cls.config_class(
            vision_config=encoder.config,
            text_config=decoder.config,
            image_token_id=image_token_id,
            **config_kwargs,
        )
        with torch.device("meta"):
            model = cls(config)
        model.vision_encoder, model.language_model = encoder, decoder
        for part in model.children():
            if part not in (encoder, decoder):
                part.to_empty(device=decoder.device)
                part.apply(model._init_weights)
        model.generation_config = GenerationConfig.from_dict(decoder.generation_config.to_dict())
        if isinstance(language_model, str | os.PathLike):
            model.language_model_reference = PartReference.of(
                decoder, str(language_model), (text_kwargs or {}).get("revision")
            )
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self, modality: str | None = None) -> nn.Module:
        return self.language_model.get_decoder() if modality is None else super().get_decoder(modality)

    def encode_views(self, pixel_values: Tensor, view_mask: Tensor | None = None) -> Tensor:
        """Visual tokens of each study, the mean over its present views.

        Args:
            pixel_values: `(batch, views, channels, height, width)`, or without `views` for one view each.
            view_mask: `(batch, views)` bool, False where a view is missing; all present when not given.

        Returns:
            `(batch, tokens, vision_hidden)`.

        Raises:
            ValueError: the shapes do not fit, or a study has no view at all.
        """
        return encode_views(self.vision_encoder, pixel_values, view_mask)

    def project_visual_tokens(self, visual_tokens: Tensor) -> Tensor:
        """From visual tokens `(batch, tokens, vision_hidden)` to the decoder's space `(batch, tokens, llm_hidden)`."""
        return self.layer_norm(self.projector(visual_tokens))

    def get_image_features(
        self, pixel_values: Tensor, view_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """What takes the place of the prompt's placeholders.

        Arguments as in `encode_views`.

        Returns:
            `last_hidden_state`, the visual tokens `(batch, tokens, vision_hidden)`, and `pooler_output`, a list of
            one `(image_tokens, llm_hidden)` tensor per study (the form in which `generate` repeats them per beam).
        """
        visual_tokens = self.encode_views(pixel_values, view_mask)
        image_embeds = self.project_visual_tokens(visual_tokens)
        return BaseModelOutputWithPooling(last_hidden_state=visual_tokens, pooler_output=list(image_embeds))

    def merge_image_features(self, input_ids: Tensor, image_embeds: Tensor | None) -> Tensor:
        """Token embeddings `(batch, sequence, llm_hidden)` with image embeddings in place of the placeholders.

        Args:
            input_ids: `(batch, sequence)` with `image_token_id` at the placeholders.
            image_embeds: `(batch, image_tokens, llm_hidden)`, or None when there is no image.

        Raises:
            ValueError: a row's number of placeholders is not the number of image tokens.
        """
        is_image = input_ids == self.config.image_token_id
        # The placeholder's own embedding is never used, and its id may lie outside the vocabulary.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        if image_embeds is None:
            if not torch.compiler.is_compiling() and is_image.any():
                raise ValueError("the prompt has image placeholders but no pixel_values were given")
            return embeds
        if not torch.compiler.is_compiling():
            self._check_placeholders(is_image, image_embeds)
        return embeds.masked_scatter(is_image.unsqueeze(-1), image_embeds.to(embeds))

    def decoder_arguments(
        self, input_ids: Tensor | None, image_features: BaseModelOutputWithPooling | None
    ) -> dict[str, Any]:
        """What the decoder is called with beside the usual; nothing, but for systems that have changed its layers.

        Args:
            input_ids: `(batch, sequence)`; None when embeddings were given in their place.
            image_features: what `get_image_features` returns, None without an image.
        """
        return {}

    def _check_placeholders(self, is_image: Tensor, image_embeds: Tensor) -> None:
        counts = is_image.sum(dim=1).tolist()
        if len(counts) != len(image_embeds):
            raise ValueError(f"{len(image_embeds)} studies were given for {len(counts)} prompts")
        if any(count != image_embeds.shape[1] for count in counts):
            raise ValueError(
                f"the model makes {image_embeds.shape[1]} image tokens per study, but the prompts have {counts} "
                f"placeholders (id {self.config.image_token_id}); make the processor with this model's "
                f"num_image_tokens={self.config.num_image_tokens}"
            )

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        view_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> MambaXrayOutput:
        """Next-token logits, and the loss when labels are given.

        Args:
            input_ids: `(batch, sequence)`, with `num_image_tokens` placeholders where the image goes.
            pixel_values: `(batch, views, channels, height, width)` or `(batch, channels, height, width)`.
            view_mask: `(batch, views)` bool, False where a view is missing.
            attention_mask: `(batch, sequence)`, 0 at padding.
            position_ids: `(batch, sequence)`; counted from the first token that is not padding when not given.
            cache: the decoder's cache of keys and values.
            inputs_embeds: `(batch, sequence, llm_hidden)` in place of `input_ids`, images already merged.
            labels: `(batch, sequence)`, -100 where nothing is to be learned.
            use_cache: whether to return the cache.
            logits_to_keep: compute logits for the last so many positions only (0: for all).
            mm_encoder_outputs: `{"image": get_image_features(...)}`, to encode images once and use them often.
            kwargs: passed to the decoder and to the loss (`output_hidden_states`, `num_items_in_batch`, …).

        Raises:
            ValueError: inputs contradict each other or do not fit the model.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        image_features = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None:
            if image_features is not None:
                raise ValueError("give pixel_values or mm_encoder_outputs, not both")
            image_features = self.get_image_features(pixel_values, view_mask)
        image_embeds = None if image_features is None else torch.stack(list(image_features.pooler_output))
        if inputs_embeds is None:
            inputs_embeds = self.merge_image_features(input_ids, image_embeds)
        if position_ids is None and cache is None and attention_mask is not None:
            left_padding = (attention_mask != 0).int().argmax(dim=-1, keepdim=True)
            positions = torch.arange(attention_mask.shape[-1], device=attention_mask.device)
            position_ids = (positions - left_padding).clamp(min=0)
        if self._decoder_takes_positions:
            kwargs["position_ids"] = position_ids
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            cache=cache,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            return_dict=True,
            **self.decoder_arguments(input_ids, image_features),
            **kwargs,
        )
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=outputs.logits,
                labels=labels,
                vocab_size=outputs.logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
            )
        return MambaXrayOutput(
            loss=loss,
            logits=outputs.logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=image_embeds,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, **kwargs
        )
        # Once the image is in the cache, the decoder only sees new tokens.
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in ("pixel_values", "view_mask", "mm_encoder_outputs"):
                inputs.pop(name, None)
        return inputs

    def _get_logits_processor(
        self, generation_config: GenerationConfig, input_ids_seq_length: int | None = None, **kwargs: Any
    ) -> LogitsProcessorList:
        processors = super()._get_logits_processor(
            generation_config, input_ids_seq_length=input_ids_seq_length, **kwargs
        )
        for processor in processors:
            # As in the released code, which generates from embeddings: words of the prompt may be used freely.
            if isinstance(processor, RepetitionPenaltyLogitsProcessor):
                processor.prompt_ignore_length = input_ids_seq_length
        if self.config.image_token_id < self.get_input_embeddings().num_embeddings:
            processors.append(SuppressTokensLogitsProcessor([self.config.image_token_id], device=self.device))
        return processors


__all__ = ["MambaXrayForConditionalGeneration", "MambaXrayOutput", "MambaXrayPreTrainedModel"]
