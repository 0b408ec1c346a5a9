"""How a report generator writes: `generate` of transformers, with images that are encoded once per study."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.generation import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from transformers.modeling_outputs import ModelOutput

from ..layers.decoder_interface import check_sequence_length, longest_sequence
from ..layers.given_inputs import IMAGE_ARGUMENTS
from ..layers.image_features import ImageFeatures

DEFAULT_MAX_NEW_TOKENS = 256
"""Longest report where neither the call nor the model's generation settings name a length; transformers' own default
would cut it after 20 tokens."""
_ASSISTANT = "image of the assistant"


def generation_settings_of(decoder: PreTrainedModel) -> GenerationConfig:
    """A decoder's own generation settings, with room for a report where they name no length."""
    settings = GenerationConfig.from_dict(decoder.generation_config.to_dict())
    if settings.max_new_tokens is None and settings.max_length in (None, 20):
        settings.max_new_tokens = DEFAULT_MAX_NEW_TOKENS
    return settings


class ReportGenerationMixin(GenerationMixin):
    """For report generators: what is theirs in `generate`, and what they find for a prompt before it is written.

    Attributes:
        supports_continuous_generation: whether the decoder's cache alone carries a study from one token to the next,
            so that studies may come and go (`continuous_generation.py`). A system that keeps more says False.
    """

    supports_continuous_generation = True

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
        names = [*IMAGE_ARGUMENTS, *self.study_inputs]
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
        if not isinstance(assistant, ReportGenerationMixin):
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
                if name in (*IMAGE_ARGUMENTS, *assistant.study_inputs) and name != "visual_tokens"
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
        room = longest_sequence(self.config.text_config) - prompt
        check_sequence_length(prompt, self.config)
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
        if new > room and self._decoder_interface.has_position_table:
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
            # First, so that what picks or scales by rank and sum, such as top-k, does so among the others.
            processors.insert(0, SuppressTokensLogitsProcessor(suppressed, device=self.device))
        return processors

    def _expand_multimodal_outputs(
        self, input_ids: Tensor, mm_encoder_output: dict[str, Any], expand_size: int = 1, **kwargs: Any
    ) -> dict[str, Any]:
        expanded = super()._expand_multimodal_outputs(input_ids, mm_encoder_output, expand_size, **kwargs)
        features = expanded.get("image")
        if features is not None and features.get("prior_output") is not None:
            features.prior_output = [each for each in features.prior_output for _ in range(expand_size)]
        return expanded


__all__ = ["DEFAULT_MAX_NEW_TOKENS", "ReportGenerationMixin", "generation_settings_of"]
