"""The views of a study through a vision encoder: each by itself, then their mean."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder, ViTMAEEmbeddings

from .uncalled_weights import bring_weights, put_weights_back


def encode_images(vision_encoder: PreTrainedModel, images: Tensor) -> Tensor:
    """Visual tokens `(images, tokens, vision_hidden)` of images `(images, channels, height, width)`, in the encoder's
    dtype."""
    images = images.to(vision_encoder.dtype)
    if vision_encoder.config.model_type == "vit_mae":
        return _all_patches_of_masked_autoencoder(vision_encoder, images)
    features = vision_encoder(pixel_values=images).last_hidden_state
    # A convolutional encoder gives a map (images, hidden, rows, columns).
    return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features


def _all_patches_of_masked_autoencoder(encoder: PreTrainedModel, images: Tensor) -> Tensor:
    """A `ViTMAEModel` drops and shuffles patches by a ratio in its configuration, which is not ours to change: its
    layers are called one by one (transformers 5.24)."""
    embeddings = encoder.embeddings
    bring_weights(embeddings)
    cls, patches = embeddings.position_embeddings.split([1, embeddings.patch_embeddings.num_patches], dim=1)
    cls = (embeddings.cls_token + cls).expand(len(images), -1, -1)
    hidden_states = torch.cat([cls, embeddings.patch_embeddings(images) + patches], dim=1)
    put_weights_back(embeddings)
    for layer in encoder.layers:
        hidden_states = layer(hidden_states, None)
    return encoder.layernorm(hidden_states)


def keep_constants(model: nn.Module) -> None:
    """Takes out of training what a ViT-MAE does not train: the fixed sine positions, and the token of masked patches
    where none is masked. transformers makes both trainable when it loads weights (5.24)."""
    for module in model.modules():
        if isinstance(module, ViTMAEEmbeddings):
            module.position_embeddings.requires_grad_(False)
        elif isinstance(module, ViTMAEDecoder):
            module.decoder_pos_embed.requires_grad_(False)
            module.mask_token.requires_grad_(False)


def one_mask(view_mask: Tensor | None, pixel_attention_mask: Tensor | None) -> Tensor | None:
    """The mask over views, whichever of its names it came under."""
    if view_mask is None or pixel_attention_mask is None:
        return pixel_attention_mask if view_mask is None else view_mask
    if not torch.compiler.is_compiling() and not torch.equal(view_mask.bool(), pixel_attention_mask.bool()):
        raise ValueError("view_mask and pixel_attention_mask are two names of one mask, but they differ")
    return view_mask


def present_views(pixel_values: Tensor, view_mask: Tensor | None = None) -> tuple[Tensor, int | Tensor]:
    """The images of a batch that are there, and the number of views of each study.

    Args:
        pixel_values: `(batch, views, channels, height, width)`, or without `views` for one view each.
        view_mask: `(batch, views)` bool, False where a view is missing; all present when not given.

    Returns:
        `(images, channels, height, width)` in the order of the studies, and how many of them belong to each study:
        `(batch,)`, or one number for all without a mask.

    Raises:
        ValueError: the shapes do not fit, or a study has no view at all.
    """
    if pixel_values.ndim == 4:
        pixel_values = pixel_values.unsqueeze(1)
    if pixel_values.ndim != 5:
        raise ValueError(
            "pixel_values must be (batch, views, channels, height, width) or (batch, channels, height, width), "
            f"got shape {tuple(pixel_values.shape)}"
        )
    batch, views = pixel_values.shape[:2]
    if view_mask is None:
        return pixel_values.flatten(0, 1), views
    view_mask = view_mask.to(device=pixel_values.device, dtype=torch.bool)
    if view_mask.shape != (batch, views):
        raise ValueError(
            f"view_mask {tuple(view_mask.shape)} does not fit pixel_values {tuple(pixel_values.shape)}: "
            "both start with (batch, views)"
        )
    views_per_study = view_mask.sum(dim=1)
    if not views_per_study.all():
        missing = (views_per_study == 0).nonzero().flatten().tolist()
        raise ValueError(f"studies without any view in the batch, at positions {missing}")
    # Missing views are not encoded at all.
    return pixel_values[view_mask], views_per_study


def mean_over_views(tokens: Tensor, views_per_study: int | Tensor) -> Tensor:
    """From the visual tokens of each present view `(images, tokens, hidden)` to their mean for each study
    `(batch, tokens, hidden)`; both arguments in the order of `present_views`.

    Source: CXPMRG-Bench (MambaXray-VL), stages 2 and 3.
    """
    if isinstance(views_per_study, int):
        return tokens.unflatten(0, (-1, views_per_study)).mean(dim=1)
    study = torch.repeat_interleave(views_per_study, output_size=len(tokens))
    total = tokens.new_zeros(len(views_per_study), *tokens.shape[1:]).index_add(0, study, tokens)
    return total / views_per_study[:, None, None].to(total.dtype)


def encode_views(vision_encoder: PreTrainedModel, pixel_values: Tensor, view_mask: Tensor | None = None) -> Tensor:
    """Visual tokens of each study `(batch, tokens, vision_hidden)`, the mean over its present views.

    Arguments and errors as in `present_views`.
    """
    images, views_per_study = present_views(pixel_values, view_mask)
    return mean_over_views(encode_images(vision_encoder, images), views_per_study)


__all__ = [
    "encode_images",
    "encode_views",
    "keep_constants",
    "mean_over_views",
    "one_mask",
    "present_views",
]
