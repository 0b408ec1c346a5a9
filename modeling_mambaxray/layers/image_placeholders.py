"""Image embeddings in place of a prompt's placeholders, those of a study's images and of its prior study's."""

import torch
from torch import Tensor, nn

from ...configuration.configuration_mambaxray import MambaXrayConfig


def placeholder_mask(input_ids: Tensor, config: MambaXrayConfig) -> Tensor:
    """Where a prompt `(batch, sequence)` has placeholders, of the study's images or of its prior's: bool."""
    is_image = input_ids == config.image_token_id
    if config.prior_image_token_id is not None:
        is_image = is_image | (input_ids == config.prior_image_token_id)
    return is_image


def merge_image_embeddings(
    input_ids: Tensor,
    token_embeddings: nn.Module,
    image_embeds: Tensor | None,
    prior_embeds: list[Tensor] | None,
    config: MambaXrayConfig,
) -> Tensor:
    """Token embeddings `(batch, sequence, llm_hidden)` with image embeddings in place of the placeholders.

    Args:
        input_ids: `(batch, sequence)` with `image_token_id` at the placeholders, and `prior_image_token_id` at those of
            prior images.
        token_embeddings: the decoder's.
        image_embeds: `(batch, image_tokens, llm_hidden)`, or None when there is no image.
        prior_embeds: of each study `(prior_image_tokens, llm_hidden)`, or of length 0; None when no study has prior
            images.
        config: the model's, for both ids.

    Raises:
        ValueError: a row's number of placeholders is not the number of image tokens.
    """
    is_image = input_ids == config.image_token_id
    # The placeholder's own embedding is never used, and its id may lie outside the vocabulary.
    embeds = token_embeddings(input_ids.masked_fill(placeholder_mask(input_ids, config), 0))
    if config.prior_image_token_id is not None:
        is_prior = input_ids == config.prior_image_token_id
        if not torch.compiler.is_compiling():
            _check_prior_placeholders(is_prior, prior_embeds, config)
        if prior_embeds is not None:
            embeds = embeds.masked_scatter(is_prior.unsqueeze(-1), torch.cat(prior_embeds).to(embeds))
    if image_embeds is None:
        if not torch.compiler.is_compiling() and is_image.any():
            raise ValueError("the prompt has image placeholders but no pixel_values were given")
        return embeds
    if not torch.compiler.is_compiling():
        _check_placeholders(is_image, image_embeds, config)
    return embeds.masked_scatter(is_image.unsqueeze(-1), image_embeds.to(embeds))


def _check_placeholders(is_image: Tensor, image_embeds: Tensor, config: MambaXrayConfig) -> None:
    counts = is_image.sum(dim=1).tolist()
    if len(counts) != len(image_embeds):
        raise ValueError(f"{len(image_embeds)} studies were given for {len(counts)} prompts")
    if not any(counts):
        raise ValueError(
            f"the prompts hold no placeholder (id {config.image_token_id}) for the image. The processor fills in "
            "another id: make both with build_generator, or set model.config.image_token_id = processor.image_token_id"
        )
    if any(count != image_embeds.shape[1] for count in counts):
        raise ValueError(
            f"the model makes {image_embeds.shape[1]} image tokens per study, but the prompts have {counts} "
            f"placeholders (id {config.image_token_id}); make the processor with this model's "
            f"num_image_tokens={config.num_image_tokens}"
        )


def _check_prior_placeholders(is_prior: Tensor, prior_embeds: list[Tensor] | None, config: MambaXrayConfig) -> None:
    counts = is_prior.sum(dim=1).tolist()
    given = [0] * len(counts) if prior_embeds is None else [len(embeds) for embeds in prior_embeds]
    if counts != given:
        raise ValueError(
            f"the prompts have {counts} placeholders for prior images (id {config.prior_image_token_id}), but the "
            f"prior images that were given make {given} tokens; let the processor's prepare_studies make both"
        )


__all__ = ["merge_image_embeddings", "placeholder_mask"]
