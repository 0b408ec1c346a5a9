"""The report generator: views, vision encoder, projection, image embeddings in a prompt, causal language model.

The base classes of the package's systems. What a system may override or declare, from here or from outside the package:
`encode_images` (per view), `fuse` (visual tokens to image embeddings, with losses and evidence), `study_inputs` (what
else a study hands the model), `extra_decoder_inputs` (its decoder's layers are changed), `parts_that_can_freeze` (with
its vision encoder), `separate_parts`, `start_from_stage1` (an earlier stage of its own), `memory_vectors` (memories
that it looks up), and in its configuration `num_image_tokens` and `loss_names`. `docs/adding_a_system.md` shows each.
What is the generator's own in `generate`, and `recall`, is in `generation/report_generation.py`.
"""

import copy
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.conversion_mapping import WeightRenaming, register_checkpoint_conversion_mapping
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_mambaxray import MambaXrayConfig
from ..configuration.study_inputs import PRIOR_IMAGE_INPUTS, StudyInputs
from ..configuration.vision_tokens import visual_width
from .generation.pipeline_image_to_text import ImageToTextPipeline
from .generation.report_generation import ReportGenerationMixin, generation_settings_of
from .hub.model_location import location_in
from .hub.private_memory import PrivateMemoryMixin
from .hub.repository_code import ModelCodeMixin
from .hub.separate_parts import PartReference, SeparatePartsMixin
from .layers.decoder_head import check_head_rules
from .layers.decoder_interface import DecoderInterface, attention_arguments, check_sequence_length, positions_of
from .layers.frozen_parts import FrozenPartsMixin
from .layers.given_inputs import IMAGE_ARGUMENTS, check_study_inputs, unexpected_arguments
from .layers.image_features import ImageFeatures
from .layers.image_placeholders import merge_image_embeddings, placeholder_mask
from .layers.input_gradients import InputGradientsMixin
from .layers.model_outputs import MambaXrayModelOutput, MambaXrayOutput
from .layers.views import (
    encode_images,
    keep_constants,
    mean_over_views,
    one_mask,
    present_views,
)
from .layers.weighted_losses import weighted_losses, with_every_gradient
from .parts.given_parts import build_around, given_part
from .parts.pretrained_parts import pretrained_part, pretrained_vision_encoder


class MambaXrayPreTrainedModel(InputGradientsMixin, ModelCodeMixin, PreTrainedModel):
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


class MambaXrayModel(FrozenPartsMixin, MambaXrayPreTrainedModel):
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
        self._decoder_interface = DecoderInterface.of(self.language_model)
        llm_hidden = self.language_model.get_input_embeddings().embedding_dim
        self.projector = nn.Linear(visual_width(config.vision_config), llm_hidden)
        self.layer_norm = nn.LayerNorm(llm_hidden, eps=config.projector_layer_norm_eps)
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
        check_study_inputs(study_inputs, self.study_inputs, type(self).__name__)
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

    def placeholders(self, input_ids: Tensor) -> Tensor:
        """Where image embeddings stand in a prompt `(batch, sequence)`: of the study's images and of its prior's."""
        return placeholder_mask(input_ids, self.config)

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
        return merge_image_embeddings(input_ids, self.get_input_embeddings(), image_embeds, prior_embeds, self.config)

    def extra_decoder_inputs(self, input_ids: Tensor | None, image_features: ImageFeatures | None) -> dict[str, Any]:
        """What the decoder is called with beside the usual; nothing, but for systems that have changed its layers.

        Args:
            input_ids: `(batch, sequence)`; None when embeddings were given in their place.
            image_features: what `get_image_features` returns, None without an image.
        """
        return {}

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
        taken = self._decoder_interface.arguments | attention_arguments(self.config.text_config)
        if unknown := sorted(kwargs.keys() - taken):
            known = (*IMAGE_ARGUMENTS, *self.study_inputs)
            raise TypeError(unexpected_arguments(unknown, known, type(self).__name__))
        features = (mm_encoder_outputs or {}).get("image")
        if "pixel_values" in images or "visual_tokens" in images:
            if features is not None:
                raise ValueError("give pixel_values or mm_encoder_outputs, not both")
            features = self.get_image_features(**images, **study_inputs)
        image_embeds = None if features is None else torch.stack(list(features.pooler_output))
        if inputs_embeds is None:
            if self._decoder_interface.has_position_table:
                check_sequence_length(input_ids.shape[1], self.config)
            prior_embeds = None if features is None else features.get("prior_output")
            inputs_embeds = self.merge_image_features(input_ids, image_embeds, prior_embeds)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = positions_of(attention_mask, inputs_embeds.shape[1], cache)
        inputs = {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "cache": cache,
            "return_dict": True,
            **({"position_ids": position_ids} if self._decoder_interface.takes_positions else {}),
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


class MambaXrayForConditionalGeneration(PrivateMemoryMixin, SeparatePartsMixin, MambaXrayModel, ReportGenerationMixin):
    """Writes a report for a study of one or several chest X-ray views.

    Any `AutoModel` vision encoder and any attention-based `AutoModelForCausalLM` decoder fit, so MambaXray-VL
    (vision Mamba + Llama-2) and R2GenGPT (Swin + Llama-2) are configurations of this class.

    A pre-trained language model that is frozen is not saved with the model, which then refers to where it came from
    (`separate_parts.py`).

    The decoder is kept whole, so that its logits are its own, whatever its head does (soft caps, scales, biases);
    `base_model` is a view of the same modules that stops before the head.

    Source: CXPMRG-Bench (MambaXray-VL), stage 3.
    """

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
        encoder = pretrained_vision_encoder(vision_encoder, vision_kwargs)
        decoder = pretrained_part(language_model, AutoModelForCausalLM.from_pretrained, text_kwargs)
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
        model.generation_config = generation_settings_of(decoder)
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
                source = config or pretrained_model_name_or_path
                config = cls.config_class.from_pretrained(source, **location_in(kwargs))
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
        loss, losses = weighted_losses(
            self.config,
            self.loss_function,
            outputs.logits,
            labels,
            logits_to_keep,
            num_items_in_batch,
            {} if features is None else features.losses or {},
        )
        if loss is not None and self.training and len(self.config.loss_names) > 1:
            loss = with_every_gradient(loss, self.parameters())
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


__all__ = [
    "MambaXrayForConditionalGeneration",
    "MambaXrayModel",
    "MambaXrayPreTrainedModel",
]
