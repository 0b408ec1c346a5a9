"""The report generator: views, vision encoder, projection, image embeddings in a prompt, causal language model.

The base classes of the package's systems. What a system may override or declare, from here or from outside the package:
`encode_images` (per view), `fuse` (visual tokens to image embeddings, with losses and evidence), `study_inputs` (what
else a study hands the model), `extra_decoder_inputs` (its decoder's layers are changed), `separate_parts`,
`start_from_stage1` (an earlier stage of its own), `memory_vectors` (memories that it looks up), and in its
configuration `num_image_tokens` and `loss_names`. `docs/adding_a_system.md` shows each.
"""

import copy
import inspect
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, distributed, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.conversion_mapping import WeightRenaming, register_checkpoint_conversion_mapping
from transformers.generation import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ..configuration.configuration_mambaxray import MambaXrayConfig
from ..configuration.study_inputs import PRIOR_IMAGE_INPUTS, StudyInputs
from ..configuration.vision_tokens import visual_width
from .generation.pipeline_image_to_text import ImageToTextPipeline
from .hub.given_parts import build_around, given_part
from .hub.private_memory import PrivateMemoryMixin
from .hub.repository_code import ModelCodeMixin
from .hub.separate_parts import PartReference, SeparatePartsMixin
from .layers.decoder_head import check_head_rules
from .layers.image_features import Evidence, ImageFeatures
from .layers.views import FrozenVisionEncoderMixin, encode_images, keep_constants, mean_over_views, present_views

try:
    from .hub.vision_encoder import load_vision_encoder
except ImportError:
    # In a repository's file, which does without the code of the earlier stages.
    load_vision_encoder = AutoModel.from_pretrained


DEFAULT_MAX_NEW_TOKENS = 256
"""Longest report where neither the call nor the model's generation settings name a length; transformers' own default
would cut it after 20 tokens."""
_ASSISTANT = "image of the assistant"


@dataclass
class MambaXrayModelOutput(ModelOutput):
    """Output of `MambaXrayModel`.

    Attributes:
        last_hidden_state: `(batch, sequence, llm_hidden)`, what the decoder's head is applied to.
        cache: the decoder's cache of keys and values.
        hidden_states: the decoder's hidden states, when asked for.
        attentions: the decoder's attention weights, when asked for.
        image_hidden_states: image embeddings `(batch, image_tokens, llm_hidden)`, when an image was encoded.
        losses: what `fuse` gave, by name and not weighted.
        evidence: what `fuse` gave.
        metrics: what `fuse` gave.
    """

    last_hidden_state: Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    evidence: list[list[Evidence]] | None = None
    metrics: dict[str, Tensor] | None = None


@dataclass
class MambaXrayOutput(ModelOutput):
    """Output of `MambaXrayForConditionalGeneration`.

    Attributes:
        loss: scalar, the sum of the losses times their weights, when there are any.
        logits: `(batch, sequence, vocabulary)`, or the last positions when `logits_to_keep` was given.
        cache: the decoder's cache of keys and values.
        hidden_states: the decoder's hidden states, when asked for.
        attentions: the decoder's attention weights, when asked for.
        image_hidden_states: image embeddings `(batch, image_tokens, llm_hidden)`, when an image was encoded.
        losses: each loss by its name, not weighted: `"report"`, the mean over supervised tokens, when labels were
            given, and what `fuse` gave.
        evidence: what `fuse` gave.
        metrics: what `fuse` gave.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    evidence: list[list[Evidence]] | None = None
    metrics: dict[str, Tensor] | None = None


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
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def post_init(self) -> None:
        # A subclass may have added parameters of the model itself since the last time, in its base's `__init__`.
        self._is_hf_initialized = False
        super().post_init()
        keep_constants(self)
        self._frozen_from_start = [name for name, weight in self.named_parameters() if not weight.requires_grad]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


class MambaXrayModel(FrozenVisionEncoderMixin, MambaXrayPreTrainedModel):
    """The report generator without its decoder's head.

    What `MambaXrayForConditionalGeneration.base_model` gives, over the generator's own modules. Made by itself it holds
    a decoder's body (`AutoModel`), as servers want it.

    Attributes:
        study_inputs: what a study hands the model beside images and token ids, by name; the processor of the same
            system declares the same. A model that takes prior images has theirs among them.
        projection_parts: the children that lead from the vision encoder to the decoder's space.
    """

    study_inputs: StudyInputs = {}
    projection_parts: ClassVar[tuple[str, ...]] = ("projector", "layer_norm")
    _decoder_class: ClassVar[type] = AutoModel

    def __init__(self, config: MambaXrayConfig):
        super().__init__(config)
        if config.prior_image_token_id is not None:
            self.take_prior_images(config.prior_image_token_id)
        self.vision_encoder = given_part(self, "vision_encoder") or AutoModel.from_config(config.vision_config)
        decoder = given_part(self, "language_model")
        self.language_model = decoder or self._decoder_class.from_config(config.text_config)
        _refuse_stateful(self.language_model)
        llm_hidden = self.language_model.get_input_embeddings().embedding_dim
        self.projector = nn.Linear(visual_width(config.vision_config), llm_hidden)
        self.layer_norm = nn.LayerNorm(llm_hidden, eps=config.projector_layer_norm_eps)
        # Positions are looked up, so that none follows the last one.
        self._has_position_table = any(
            isinstance(module, nn.Embedding) and _POSITION_TABLE.search(name)
            for name, module in self.language_model.named_modules()
        )
        decoder_arguments = inspect.signature(self.language_model.forward).parameters
        self._decoder_takes_positions = "position_ids" in decoder_arguments
        self._decoder_arguments = frozenset(decoder_arguments) | TransformersKwargs.__optional_keys__ | {"return_dict"}
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`, and never with a decoder whose weights were not found.

        Raises:
            ValueError: the folder holds a generator whose decoder's body has another name than `model`.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        # Loading (transformers 5.24) makes every parameter one that is trained.
        for name in model._frozen_from_start:
            model.get_parameter(name).requires_grad_(False)
        missing = [name for name in info["missing_keys"] if name.startswith("language_model.")]
        if missing and not isinstance(model, GenerationMixin):
            raise ValueError(
                f"{model.name_or_path} has a generator's weights, without {missing[0]} and others: load the generator "
                "(AutoModelForImageTextToText) and take its base_model"
            )
        return (model, info) if wants_info else model

    def take_prior_images(self, prior_image_token_id: int) -> None:
        """Lets the model take the images of a prior study, in any prompt that holds their placeholders. They go through
        the same encoder and projection, so no weights are added.

        Args:
            prior_image_token_id: `processor.prior_image_token_id`.
        """
        self.config.prior_image_token_id = prior_image_token_id
        self.study_inputs = {**type(self).study_inputs, **PRIOR_IMAGE_INPUTS}

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_decoder(self, modality: str | None = None) -> nn.Module:
        return self.language_model.get_decoder() if modality is None else super().get_decoder(modality)

    def _decoder_body(self) -> nn.Module:
        """The decoder without its head."""
        return self.language_model

    def encode_images(self, images: Tensor) -> Tensor:
        """Visual tokens `(images, tokens, vision_hidden)` of images `(images, channels, height, width)`, each view by
        itself; `encode_views` puts them together."""
        return encode_images(self.vision_encoder, images)

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
        images, views_per_study = present_views(pixel_values, view_mask)
        return mean_over_views(self.encode_images(images), views_per_study)

    def project_visual_tokens(self, visual_tokens: Tensor) -> Tensor:
        """From visual tokens `(batch, tokens, vision_hidden)` to the decoder's space `(batch, tokens, llm_hidden)`."""
        return self.layer_norm(self.projector(visual_tokens.to(self.projector.weight.dtype)))

    def fuse(self, visual_tokens: Tensor, **study_inputs: Tensor) -> ImageFeatures:
        """What stands in the prompt for a study. A system overrides it to add tokens, losses and evidence.

        Args:
            visual_tokens: `(batch, tokens, vision_hidden)`.
            study_inputs: those of `self.study_inputs` that were given, `(batch, …)`.

        Returns:
            `embeddings` `(batch, config.num_image_tokens, llm_hidden)`, `losses` and `evidence`.
        """
        return ImageFeatures(self.project_visual_tokens(visual_tokens))

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        view_mask: Tensor | None = None,
        *,
        pixel_attention_mask: Tensor | None = None,
        visual_tokens: Tensor | None = None,
        return_dict: bool = True,
        **study_inputs: Tensor,
    ) -> ImageFeatures:
        """What takes the place of the prompt's placeholders: encodes the views, and fuses them with all else.

        Args:
            pixel_values: as in `encode_views`.
            view_mask: as in `encode_views`.
            pixel_attention_mask: another name of `view_mask`, the one under which TRL carries it.
            visual_tokens: `(batch, tokens, vision_hidden)` of studies that were encoded before, instead of
                `pixel_values`.
            return_dict: always True.
            study_inputs: those of `self.study_inputs`. Prior images are encoded as the study's own, and not fused.

        Raises:
            TypeError: an argument that the system does not take.
            ValueError: inputs contradict each other or do not fit the model.
        """
        self._check_study_inputs(study_inputs)
        if (pixel_values is None) == (visual_tokens is None):
            raise ValueError("give exactly one of pixel_values and visual_tokens")
        if visual_tokens is None:
            visual_tokens = self.encode_views(pixel_values, one_mask(view_mask, pixel_attention_mask))
        prior = {name: study_inputs.pop(name) for name in PRIOR_IMAGE_INPUTS if name in study_inputs}
        features = self.fuse(visual_tokens, **study_inputs)
        features.last_hidden_state = visual_tokens
        if any(value is not None for value in prior.values()):
            features.prior_output = self._encode_priors(**prior)
            if len(features.prior_output) != len(visual_tokens):
                raise ValueError(f"{len(features.prior_output)} priors were given for {len(visual_tokens)} studies")
        return features

    def _encode_priors(
        self,
        prior_pixel_values: Tensor | None = None,
        prior_view_mask: Tensor | None = None,
        prior_visual_tokens: Tensor | None = None,
    ) -> list[Tensor]:
        """Embeddings of each study's prior images, of length 0 where no view is present."""
        if (prior_pixel_values is None) == (prior_visual_tokens is None):
            raise ValueError("give exactly one of prior_pixel_values and prior_visual_tokens for the prior images")
        given = prior_visual_tokens if prior_pixel_values is None else prior_pixel_values
        mask = prior_view_mask
        if mask is None:
            mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        mask = mask.to(device=given.device, dtype=torch.bool)
        if (prior_pixel_values is not None and mask.shape != given.shape[:2]) or len(mask) != len(given):
            raise ValueError(
                f"prior_view_mask {tuple(mask.shape)} does not fit the prior images {tuple(given.shape)}: both start "
                "with (batch, views)"
            )
        present = mask.any(dim=1)
        llm_hidden = self.get_input_embeddings().embedding_dim
        embeddings = iter(())
        if present.any():
            tokens = given[present]
            if prior_pixel_values is not None:
                tokens = self.encode_views(tokens, mask[present])
            embeddings = iter(self.project_visual_tokens(tokens))
        none = given.new_zeros(0, llm_hidden)
        return [next(embeddings) if has_prior else none for has_prior in present.tolist()]

    def _check_study_inputs(self, values: Mapping[str, Any]) -> None:
        if unknown := sorted(values.keys() - self.study_inputs.keys()):
            raise TypeError(_unexpected(type(self).__name__, unknown, [*self.study_inputs]))
        for name, declared in self.study_inputs.items():
            value = values.get(name)
            if value is None:
                if declared.required and not declared.for_training_only:
                    raise ValueError(f"{type(self).__name__} needs {name} of every study")
                continue
            fits = value.ndim == len(declared.shape) + 1 and all(
                axis is None or axis == size for axis, size in zip(declared.shape, value.shape[1:], strict=True)
            )
            if not fits:
                expected = ", ".join("…" if axis is None else str(axis) for axis in declared.shape)
                raise ValueError(f"{name} must be (batch, {expected}), got {tuple(value.shape)}")

    def placeholders(self, input_ids: Tensor) -> Tensor:
        """Where image embeddings stand in a prompt `(batch, sequence)`: of the study's images and of its prior's."""
        is_image = input_ids == self.config.image_token_id
        if self.config.prior_image_token_id is not None:
            is_image = is_image | (input_ids == self.config.prior_image_token_id)
        return is_image

    def merge_image_features(
        self, input_ids: Tensor, image_embeds: Tensor | None, prior_embeds: list[Tensor] | None = None
    ) -> Tensor:
        """Token embeddings `(batch, sequence, llm_hidden)` with image embeddings in place of the placeholders.

        Args:
            input_ids: `(batch, sequence)` with `image_token_id` at the placeholders, and `prior_image_token_id` at
                those of prior images.
            image_embeds: `(batch, image_tokens, llm_hidden)`, or None when there is no image.
            prior_embeds: of each study `(prior_image_tokens, llm_hidden)`, or of length 0; None when no study has
                prior images.

        Raises:
            ValueError: a row's number of placeholders is not the number of image tokens.
        """
        is_image = input_ids == self.config.image_token_id
        # The placeholder's own embedding is never used, and its id may lie outside the vocabulary.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(self.placeholders(input_ids), 0))
        if self.config.prior_image_token_id is not None:
            is_prior = input_ids == self.config.prior_image_token_id
            if not torch.compiler.is_compiling():
                self._check_prior_placeholders(is_prior, prior_embeds)
            if prior_embeds is not None:
                embeds = embeds.masked_scatter(is_prior.unsqueeze(-1), torch.cat(prior_embeds).to(embeds))
        if image_embeds is None:
            if not torch.compiler.is_compiling() and is_image.any():
                raise ValueError("the prompt has image placeholders but no pixel_values were given")
            return embeds
        if not torch.compiler.is_compiling():
            self._check_placeholders(is_image, image_embeds)
        return embeds.masked_scatter(is_image.unsqueeze(-1), image_embeds.to(embeds))

    def extra_decoder_inputs(self, input_ids: Tensor | None, image_features: ImageFeatures | None) -> dict[str, Any]:
        """What the decoder is called with beside the usual; nothing, but for systems that have changed its layers.

        Args:
            input_ids: `(batch, sequence)`; None when embeddings were given in their place.
            image_features: what `get_image_features` returns, None without an image.
        """
        return {}

    def _decoder_positions(self) -> int:
        """Longest sequence that the decoder was made for."""
        limit = getattr(self.config.text_config, "max_position_embeddings", None)
        return limit if isinstance(limit, int) else sys.maxsize

    def _check_prompt_length(self, length: int) -> None:
        if length > (limit := self._decoder_positions()):
            raise ValueError(
                f"a sequence of {length} tokens is longer than the {limit} positions of the "
                f"{self.config.text_config.model_type} decoder: shorten the prompt or the reports "
                f"(the image takes {self.config.num_image_tokens} tokens)"
            )

    def _check_placeholders(self, is_image: Tensor, image_embeds: Tensor) -> None:
        counts = is_image.sum(dim=1).tolist()
        if len(counts) != len(image_embeds):
            raise ValueError(f"{len(image_embeds)} studies were given for {len(counts)} prompts")
        if not any(counts):
            raise ValueError(
                f"the prompts hold no placeholder (id {self.config.image_token_id}) for the image. The processor fills "
                "in another id: make both with build_generator, or set model.config.image_token_id = "
                "processor.image_token_id"
            )
        if any(count != image_embeds.shape[1] for count in counts):
            raise ValueError(
                f"the model makes {image_embeds.shape[1]} image tokens per study, but the prompts have {counts} "
                f"placeholders (id {self.config.image_token_id}); make the processor with this model's "
                f"num_image_tokens={self.config.num_image_tokens}"
            )

    def _check_prior_placeholders(self, is_prior: Tensor, prior_embeds: list[Tensor] | None) -> None:
        counts = is_prior.sum(dim=1).tolist()
        given = [0] * len(counts) if prior_embeds is None else [len(embeds) for embeds in prior_embeds]
        if counts != given:
            raise ValueError(
                f"the prompts have {counts} placeholders for prior images (id {self.config.prior_image_token_id}), but "
                f"the prior images that were given make {given} tokens; let the processor's prepare_studies make both"
            )

    def _attention_arguments(self) -> set[str]:
        """What the function takes that the decoder attends with: a hybrid layer's, vLLM's, or a user's own."""
        registered = ALL_ATTENTION_FUNCTIONS.get(self.config.text_config._attn_implementation)
        named = set() if registered is None else set(inspect.signature(registered).parameters)
        return named | {"cross_attention", "attention_instances"}

    def _prepare_decoder(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
        mm_encoder_outputs: Mapping[str, ImageFeatures] | None,
        images: dict[str, Any],
        kwargs: dict[str, Any],
    ) -> tuple[dict[str, Any], ImageFeatures | None]:
        """What the decoder is called with, and what the images became.

        Args:
            images: `get_image_features`' own arguments, None where not given.
            kwargs: whatever else `forward` was called with.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        images = {name: value for name, value in images.items() if value is not None}
        study_inputs = {name: kwargs.pop(name) for name in self.study_inputs if name in kwargs}
        study_inputs = {name: value for name, value in study_inputs.items() if value is not None}
        if unknown := sorted(kwargs.keys() - self._decoder_arguments - self._attention_arguments()):
            raise TypeError(_unexpected(type(self).__name__, unknown, [*_IMAGE_ARGUMENTS, *self.study_inputs]))
        features = (mm_encoder_outputs or {}).get("image")
        if "pixel_values" in images or "visual_tokens" in images:
            if features is not None:
                raise ValueError("give pixel_values or mm_encoder_outputs, not both")
            features = self.get_image_features(**images, **study_inputs)
        image_embeds = None if features is None else torch.stack(list(features.pooler_output))
        if inputs_embeds is None:
            if self._has_position_table:
                self._check_prompt_length(input_ids.shape[1])
            prior_embeds = None if features is None else features.get("prior_output")
            inputs_embeds = self.merge_image_features(input_ids, image_embeds, prior_embeds)
        if position_ids is None and cache is None and attention_mask is not None:
            left_padding = (attention_mask != 0).int().argmax(dim=-1, keepdim=True)
            positions = torch.arange(attention_mask.shape[-1], device=attention_mask.device)
            position_ids = (positions - left_padding).clamp(min=0)
        inputs = {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "cache": cache,
            "return_dict": True,
            **({"position_ids": position_ids} if self._decoder_takes_positions else {}),
            **self.extra_decoder_inputs(input_ids, features),
        }
        return kwargs | inputs, features

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
        use_cache: bool | None = None,
        pixel_attention_mask: Tensor | None = None,
        visual_tokens: Tensor | None = None,
        mm_encoder_outputs: dict[str, ImageFeatures] | None = None,
        **kwargs: Any,
    ) -> MambaXrayModelOutput:
        """The decoder's last hidden states. Arguments and errors as in `MambaXrayForConditionalGeneration.forward`."""
        images = {
            "pixel_values": pixel_values,
            "view_mask": view_mask,
            "pixel_attention_mask": pixel_attention_mask,
            "visual_tokens": visual_tokens,
        }
        inputs, features = self._prepare_decoder(
            input_ids, inputs_embeds, attention_mask, position_ids, cache, mm_encoder_outputs, images, kwargs
        )
        outputs = self._decoder_body()(use_cache=use_cache, **inputs)
        return MambaXrayModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            cache=outputs.get("cache"),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=None if features is None else torch.stack(list(features.pooler_output)),
            losses=None if features is None else features.losses,
            evidence=None if features is None else features.evidence,
            metrics=None if features is None else features.metrics,
        )


# A generator's folder holds the decoder with its head around it; for the class, and not for its subclasses.
register_checkpoint_conversion_mapping(
    MambaXrayModel.__name__, [WeightRenaming(r"^language_model\.model\.", "language_model.")], overwrite=True
)


class _WithoutHead(MambaXrayModel):
    """A generator's `base_model`: the generator's modules and seams, without the head. It holds nothing of its own."""

    def __init__(self, generator: "MambaXrayForConditionalGeneration"):
        nn.Module.__init__(self)
        self.config = generator.config
        self.study_inputs = generator.study_inputs
        self._parameters = dict(generator._parameters)
        self._buffers = dict(generator._buffers)
        self._modules = generator._modules | {"language_model": generator._decoder_body()}
        # Not a module of this one, which would be a circle.
        vars(self)["_generator"] = generator

    def forward(self, *args: Any, **kwargs: Any) -> MambaXrayModelOutput:
        # Whoever calls it applies the head; once is enough.
        if not torch.compiler.is_compiling() and not vars(self._generator).get("_head_is_checked", False):
            check_head_rules(self._generator.language_model)
            vars(self._generator)["_head_is_checked"] = True
        return MambaXrayModel.forward(self._generator, *args, **kwargs)

    def get_image_features(self, *args: Any, **kwargs: Any) -> ImageFeatures:
        return self._generator.get_image_features(*args, **kwargs)


class MambaXrayForConditionalGeneration(PrivateMemoryMixin, SeparatePartsMixin, MambaXrayModel, GenerationMixin):
    """Writes a report for a study of one or several chest X-ray views.

    Any `AutoModel` vision encoder and any attention-based `AutoModelForCausalLM` decoder fit, so MambaXray-VL
    (vision Mamba + Llama-2) and R2GenGPT (Swin + Llama-2) are configurations of this class.

    A pre-trained language model that is frozen is not saved with the model, which then refers to where it came from
    (`separate_parts.py`).

    The decoder is kept whole, so that its logits are its own, whatever its head does (soft caps, scales, biases);
    `base_model` is a view of the same modules that stops before the head.

    Attributes:
        supports_continuous_generation: whether the decoder's cache alone carries a study from one token to the next,
            so that studies may come and go (`continuous_generation.py`). A system that keeps more says False.

    Source: CXPMRG-Bench (MambaXray-VL), stage 3.
    """

    supports_continuous_generation = True
    repository_pipelines = {"image-to-text": (ImageToTextPipeline, "AutoModelForImageTextToText")}
    _decoder_class = AutoModelForCausalLM

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        vision_encoder: str | PreTrainedModel,
        language_model: str | PreTrainedModel,
        *,
        image_token_id: int | None = None,
        vision_kwargs: dict[str, Any] | None = None,
        text_kwargs: dict[str, Any] | None = None,
        given_parts: Mapping[str, nn.Module] | None = None,
        **config_kwargs: Any,
    ) -> Self:
        """Puts a pre-trained vision encoder and a pre-trained language model together; all else starts fresh, in
        float32. Each part keeps its dtype.

        Args:
            vision_encoder: folder or Hub id of any `AutoModel` vision encoder, or of what an earlier stage saved (see
                `load_vision_encoder`), or such a model.
            language_model: folder or Hub id of any attention-based `AutoModelForCausalLM`, or such a model.
            image_token_id: id of the image placeholder; by default the first id behind the vocabulary.
            vision_kwargs: passed to `load_vision_encoder` (`revision`, `image_size`, …).
            text_kwargs: passed to the decoder's `from_pretrained` (`revision`, `dtype`, …).
            given_parts: further parts that a system's `__init__` takes as they are, see `build_around`.
            config_kwargs: passed to the configuration.
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
        parts = {"vision_encoder": encoder, "language_model": decoder, **(given_parts or {})}
        model = build_around(cls, config, parts, decoder.device)
        generation_config = GenerationConfig.from_dict(decoder.generation_config.to_dict())
        if generation_config.max_new_tokens is None and generation_config.max_length in (None, 20):
            generation_config.max_new_tokens = DEFAULT_MAX_NEW_TOKENS
        model.generation_config = generation_config
        if isinstance(language_model, str | os.PathLike):
            model.language_model_reference = PartReference.of(
                decoder, str(language_model), (text_kwargs or {}).get("revision")
            )
        return model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, image_size: int | None = None, **kwargs: Any
    ) -> Self:
        """As usual.

        Args:
            pretrained_model_name_or_path, model_args, kwargs: see `SeparatePartsMixin.from_pretrained`.
            image_size: side of the images to come, in pixels, where it is another than the model was saved for. The
                processor must make images of that size, and `config.num_image_tokens` placeholders for each study.
        """
        if image_size is not None:
            config = copy.deepcopy(kwargs.get("config"))  # the Auto classes have read it
            if not isinstance(config, PreTrainedConfig):
                names = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
                where = {name: kwargs[name] for name in names if name in kwargs}
                config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **where)
            config.vision_config.image_size = image_size
            kwargs["config"] = config
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def fields_from_stage1(cls, stage1: PreTrainedModel) -> dict[str, Any]:
        """Fields of the configuration that follow from the stage 1 that a model is to start from, such as sizes.

        Raises:
            ValueError: as `start_from_stage1`.
        """
        return {}

    def start_from_stage1(self, stage1: PreTrainedModel) -> None:
        """Takes over what an earlier stage of the system learned, beside the vision encoder: `model.stage1` of recipes.

        Raises:
            ValueError: the system starts from no such model, or this one does not fit.
        """
        raise ValueError(f"{type(self).__name__} starts from no stage 1; got a {type(stage1).__name__}")

    @classmethod
    def for_released_weights(cls, weights: Mapping[str, Tensor]) -> tuple[type[Self], dict[str, Any]]:
        """Which class a released checkpoint of this family is for, and the fields of its configuration that the
        weights, under our names, tell."""
        return cls, {}

    @property
    def base_model(self) -> MambaXrayModel:
        """The same model without the decoder's head: called with the same inputs, it gives `last_hidden_state`, to
        which `get_output_embeddings()` and the decoder's soft caps and scales apply.

        Its first call raises a `HeadRulesError` for a decoder whose logits are anything else (`decoder_head.py`)."""
        return _WithoutHead(self)

    def _decoder_body(self) -> nn.Module:
        return self.language_model.base_model

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

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
        pixel_attention_mask: Tensor | None = None,
        visual_tokens: Tensor | None = None,
        mm_encoder_outputs: dict[str, ImageFeatures] | None = None,
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
            logits_to_keep: compute logits for the last `logits_to_keep` positions only (0: for all), and the loss
                from these; or the positions themselves, without a loss.
            pixel_attention_mask: another name of `view_mask`, the one under which TRL carries it.
            visual_tokens: `(batch, tokens, vision_hidden)` of studies that were encoded before, instead of
                `pixel_values`.
            mm_encoder_outputs: `{"image": get_image_features(...)}`, to encode images once and use them often.
            kwargs: the system's `study_inputs`, and what the decoder, its attention and the loss take
                (`output_hidden_states`, `num_items_in_batch`, …).

        Raises:
            TypeError: an argument that none of them takes.
            ValueError: inputs contradict each other or do not fit the model.
        """
        images = {
            "pixel_values": pixel_values,
            "view_mask": view_mask,
            "pixel_attention_mask": pixel_attention_mask,
            "visual_tokens": visual_tokens,
        }
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        inputs, features = self._prepare_decoder(
            input_ids, inputs_embeds, attention_mask, position_ids, cache, mm_encoder_outputs, images, kwargs
        )
        outputs = self.language_model(use_cache=use_cache, logits_to_keep=logits_to_keep, **inputs)
        loss, losses = self._losses(outputs.logits, labels, logits_to_keep, num_items_in_batch, features)
        return MambaXrayOutput(
            loss=loss,
            logits=outputs.logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=None if features is None else torch.stack(list(features.pooler_output)),
            losses=losses or None,
            evidence=None if features is None else features.evidence,
            metrics=None if features is None else features.metrics,
        )

    def _losses(
        self,
        logits: Tensor,
        labels: Tensor | None,
        logits_to_keep: int | Tensor,
        num_items_in_batch: Tensor | int | None,
        features: ImageFeatures | None,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The weighted sum of the losses, and each by its name.

        The Trainer adds up the losses of micro-batches and processes as they are. A report's is then divided by all
        tokens of all of them (`num_items_in_batch`); the others are means, which count by this batch's share of the
        tokens.
        """
        weights = self.config.loss_weights
        total: Tensor | None = None
        losses: dict[str, Tensor] = {}
        share: Tensor | float = 1.0
        if labels is not None:
            if isinstance(logits_to_keep, Tensor):
                raise ValueError("with labels, logits_to_keep must be a number")
            labels = labels[:, -logits_to_keep:] if logits_to_keep else labels
            # Labels that are a plain copy of the ids have placeholders, which may lie outside the vocabulary.
            labels = labels.masked_fill(labels == self.config.image_token_id, -100)
            supervised = (labels[:, 1:] != -100).sum()
            if num_items_in_batch is not None:
                share = supervised / num_items_in_batch
            report = self.loss_function(
                logits=logits, labels=labels, vocab_size=logits.shape[-1], num_items_in_batch=num_items_in_batch
            )
            if self.config.report_reduction == "sum":
                report = report * (supervised / len(labels))
            total = report * weights.get("report", 1.0)
            losses["report"] = report / share
        for name, value in (features.losses or {} if features is not None else {}).items():
            if name not in self.config.loss_names:
                raise ValueError(
                    f"fuse gave the loss {name!r}, which {type(self.config).__name__}.loss_names does not have"
                )
            weighted = value * weights.get(name, 1.0) * share
            total = weighted if total is None else total + weighted
            losses[name] = value
        if total is not None and self.training and len(self.config.loss_names) > 1 and _is_distributed():
            # A loss may exist in some processes only, and data-parallel training waits for every gradient in each.
            for parameter in self.parameters():
                if parameter.requires_grad:
                    total = total + parameter.flatten()[:0].sum().to(total)
        return total, losses

    @property
    def recalls(self) -> bool:
        """Whether the prompts hold what `recall` finds. Whatever writes prompts asks this: `prepare_for_generation`,
        the pipeline, evaluation and training (`generation/recalled_prompts.py`)."""
        return False

    def recall(self, visual_tokens: Tensor, studies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What the prompts of studies hold that the model finds by their images, such as the report of a similar study.

        Args:
            visual_tokens: `(batch, tokens, vision_hidden)`.
            studies: the same in the package's schema, without images and without what is to be predicted.

        Returns:
            For each study the keys and values, plain data, that the processor's `prompt_for` and `study_inputs_for`
            then find in it.
        """
        return [{} for _ in studies]

    def recall_for_training(self, studies: Sequence[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any] | None]:
        """What `recall` gives for training studies, where that takes no image; None for the others.

        Args:
            studies: of the training split, in the package's schema, without images.
            seed: of what is drawn at random.
        """
        return [None for _ in studies]

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """As `GenerationMixin.generate`; images are encoded once per study, however many beams or samples it gets.

        With `return_dict_in_generate` the output also has the `evidence` of each study, where the system gives any.

        Raises:
            ValueError: an argument that neither the model nor transformers takes; `labels`, whose `input_ids` hold the
                report that is to be written.
        """
        if kwargs.get("labels") is not None:
            raise ValueError(
                "generate got labels: the input_ids of a training batch hold the reference report, and what is written "
                "behind it says nothing about the model. Give the prompt alone; to write reports while training, use "
                "ReportTrainer in place of Seq2SeqTrainer"
            )
        names = [*_IMAGE_ARGUMENTS, *self.study_inputs]
        images = {name: value for name in names if (value := kwargs.pop(name, None)) is not None}
        if images:
            if kwargs.get("mm_encoder_outputs"):
                raise ValueError(f"give mm_encoder_outputs or {', '.join(images)}, not both")
            kwargs["mm_encoder_outputs"] = {"image": self.get_image_features(**images)}
        if (assistant := kwargs.get("assistant_model")) is not None and assistant is not self:
            features = self._assistant_features(assistant, images)
            if features is not None:
                kwargs["mm_encoder_outputs"][_ASSISTANT] = features
        features = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        outputs = super().generate(inputs, **kwargs)
        if isinstance(outputs, ModelOutput) and features is not None and features.evidence is not None:
            outputs["evidence"] = features.evidence
        return outputs

    def _assistant_features(self, assistant: PreTrainedModel, images: dict[str, Tensor]) -> ImageFeatures | None:
        """What an assistant, which proposes the next tokens, sees in the same images; None where there are none.

        Raises:
            ValueError: it does not understand this model's prompt.
        """
        if not isinstance(assistant, MambaXrayForConditionalGeneration):
            raise ValueError(
                f"{type(assistant).__name__} can't be the assistant of {type(self).__name__}: it does not see the "
                "image whose placeholders are in the prompt. Give a smaller report generator of this package"
            )
        for name in ("image_token_id", "num_image_tokens", "prior_image_token_id", "num_prior_image_tokens"):
            own, its = getattr(self.config, name), getattr(assistant.config, name)
            if own != its:
                raise ValueError(f"the assistant's {name} is {its}, the model's {own}: they must be the same")
        if not images:
            return None
        return assistant.get_image_features(
            **{
                name: value.to(assistant.device)
                for name, value in images.items()
                if name in (*_IMAGE_ARGUMENTS, *assistant.study_inputs) and name != "visual_tokens"
            }
        )

    def _get_candidate_generator(
        self,
        generation_config: GenerationConfig,
        input_ids: Tensor,
        inputs_tensor: Tensor,
        logits_processor: LogitsProcessorList,
        model_kwargs: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        features = (model_kwargs.get("mm_encoder_outputs") or {}).get(_ASSISTANT)
        if features is not None:
            model_kwargs = model_kwargs | {"mm_encoder_outputs": {"image": features}}
        return super()._get_candidate_generator(
            generation_config, input_ids, inputs_tensor, logits_processor, model_kwargs, *args, **kwargs
        )

    def _prepare_generated_length(
        self,
        generation_config: GenerationConfig,
        has_default_max_length: bool,
        has_default_min_length: bool,
        model_input_name: str,
        input_ids_length: int,
        inputs_tensor: Tensor,
    ) -> GenerationConfig:
        prompt = inputs_tensor.shape[1] if model_input_name == "inputs_embeds" else input_ids_length
        room = self._decoder_positions() - prompt
        self._check_prompt_length(prompt)
        if has_default_max_length and generation_config.max_new_tokens is None:
            generation_config.max_new_tokens = min(DEFAULT_MAX_NEW_TOKENS, max(room, 1))
        prepared = super()._prepare_generated_length(
            generation_config,
            has_default_max_length,
            has_default_min_length,
            model_input_name,
            input_ids_length,
            inputs_tensor,
        )
        new = prepared.max_length - input_ids_length
        if new > room and self._has_position_table:
            raise ValueError(
                f"a prompt of {prompt} tokens and {new} new ones do not fit the {prompt + room} positions of the "
                f"{self.config.text_config.model_type} decoder: give max_new_tokens up to {room}"
            )
        return prepared

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        # Once the image is in the cache, transformers hands it on no more. Neither does it to an assistant, whose every
        # step counts as a later one, also that with which it begins.
        features, tokens, cache = kwargs.get("mm_encoder_outputs"), inputs.get("input_ids"), kwargs.get("cache")
        is_prompt = features and not is_first_iteration and tokens is not None and tokens.shape[1] > 1
        if is_prompt and cache is not None and cache.get_seq_length() == 0:
            inputs["mm_encoder_outputs"] = features
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
        placeholders = [self.config.image_token_id, self.config.prior_image_token_id]
        vocabulary = self.get_input_embeddings().num_embeddings
        if suppressed := [token for token in placeholders if token is not None and token < vocabulary]:
            processors.append(SuppressTokensLogitsProcessor(suppressed, device=self.device))
        return processors

    def _expand_multimodal_outputs(
        self, input_ids: Tensor, mm_encoder_output: dict[str, Any], expand_size: int = 1, **kwargs: Any
    ) -> dict[str, Any]:
        expanded = super()._expand_multimodal_outputs(input_ids, mm_encoder_output, expand_size, **kwargs)
        features = expanded.get("image")
        if features is not None and features.get("prior_output") is not None:
            features.prior_output = [each for each in features.prior_output for _ in range(expand_size)]
        return expanded


_POSITION_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings)$")
_IMAGE_ARGUMENTS = ("pixel_values", "view_mask", "pixel_attention_mask", "visual_tokens")


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _refuse_stateful(decoder: nn.Module) -> None:
    if getattr(decoder, "_is_stateful", False):
        raise ValueError(
            f"a {decoder.config.model_type} decoder ({type(decoder).__name__}) keeps a recurrent state, which can be "
            "neither cut nor put together as reports begin and end; give a decoder that keeps keys and values of "
            "attention, such as Llama or Qwen. As a vision encoder, Mamba is supported (VisionMambaModel)"
        )


def one_mask(view_mask: Tensor | None, pixel_attention_mask: Tensor | None) -> Tensor | None:
    """The mask over views, whichever of its names it came under."""
    if view_mask is None or pixel_attention_mask is None:
        return pixel_attention_mask if view_mask is None else view_mask
    if not torch.compiler.is_compiling() and not torch.equal(view_mask.bool(), pixel_attention_mask.bool()):
        raise ValueError("view_mask and pixel_attention_mask are two names of one mask, but they differ")
    return view_mask


def _unexpected(model: str, names: list[str], known: list[str]) -> str:
    return f"{model} takes no {', '.join(names)}; beside the decoder's own arguments it takes {', '.join(known)}"


__all__ = [
    "DEFAULT_MAX_NEW_TOKENS",
    "MambaXrayForConditionalGeneration",
    "MambaXrayModel",
    "MambaXrayModelOutput",
    "MambaXrayOutput",
    "MambaXrayPreTrainedModel",
    "one_mask",
]
