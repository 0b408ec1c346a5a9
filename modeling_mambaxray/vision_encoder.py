"""What every system does with its vision encoder: load it, freeze it, and encode the views of a study."""

from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ..configuration.configuration_mambaxray import count_visual_tokens
from .modeling_mambaxray_pretraining import MambaXrayForPreTraining, encoder_from_pretraining
from .modeling_vision_mamba import VisionMambaModel, resize_encoder

# Arguments of `from_pretrained` that say where a model is, and so hold for its configuration, too.
_WHERE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


def load_vision_encoder(name_or_path: str, *, image_size: int | None = None, **kwargs: Any) -> PreTrainedModel:
    """Loads a vision encoder from wherever an earlier stage left it.

    Args:
        name_or_path: folder or Hub id of any `AutoModel` vision encoder; of a `MambaXrayForPreTraining` (stage 1,
            see `encoder_from_pretraining`); or of a model that has a vision encoder, such as a
            `MambaXrayDualEncoder` (stage 2), of which it is taken.
        image_size: height and width of the images to come, in pixels; as it was when not given.
        kwargs: passed to `from_pretrained`.

    Raises:
        ValueError: the encoder was taken out of another model and cannot change its image size.
    """
    config = AutoConfig.from_pretrained(name_or_path, **{name: kwargs[name] for name in _WHERE if name in kwargs})
    is_part = "vision_config" in config.sub_configs
    if image_size is not None and not is_part and config.model_type != MambaXrayForPreTraining.config_class.model_type:
        kwargs["image_size"] = image_size
    model = AutoModel.from_pretrained(name_or_path, **kwargs)
    if isinstance(model, MambaXrayForPreTraining):
        return encoder_from_pretraining(model, image_size)
    if not is_part:
        return model
    encoder = model.get_encoder("image")
    if image_size in (None, encoder.config.image_size):
        return encoder
    if encoder.config.model_type == "vmamba":
        encoder.config.image_size = image_size  # it has no positions, so nothing else depends on the size
        return encoder
    if not isinstance(encoder, VisionMambaModel):
        raise ValueError(
            f"the {encoder.config.model_type} encoder of {name_or_path} takes images of {encoder.config.image_size} "
            f"px; to use {image_size} px, save that encoder alone and load it with image_size={image_size}"
        )
    return resize_encoder(encoder, image_size)


class FrozenVisionEncoderMixin:
    """For models with a `vision_encoder`: while it is frozen, it stays as it is used."""

    def train(self, mode: bool = True) -> Self:
        """As usual, but a vision encoder without any parameter to train stays as it is used: no dropout, and no new
        running statistics of batch norms."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.vision_encoder.parameters()):
            self.vision_encoder.eval()
        return self


def encode_views(vision_encoder: PreTrainedModel, pixel_values: Tensor, view_mask: Tensor | None = None) -> Tensor:
    """Visual tokens of each study, the mean over its present views.

    Args:
        vision_encoder: any `AutoModel` vision encoder.
        pixel_values: `(batch, views, channels, height, width)`, or without `views` for one view each.
        view_mask: `(batch, views)` bool, False where a view is missing; all present when not given.

    Returns:
        `(batch, tokens, vision_hidden)`.

    Raises:
        ValueError: the shapes do not fit, or a study has no view at all.

    Source: CXPMRG-Bench (MambaXray-VL), stages 2 and 3.
    """
    if pixel_values.ndim == 4:
        pixel_values = pixel_values.unsqueeze(1)
    if pixel_values.ndim != 5:
        raise ValueError(
            "pixel_values must be (batch, views, channels, height, width) or (batch, channels, height, width), "
            f"got shape {tuple(pixel_values.shape)}"
        )
    if view_mask is None:
        tokens = _encode_images(vision_encoder, pixel_values.flatten(0, 1))
        return tokens.unflatten(0, pixel_values.shape[:2]).mean(dim=1)
    view_mask = view_mask.to(device=pixel_values.device, dtype=torch.bool)
    if view_mask.shape != pixel_values.shape[:2]:
        raise ValueError(
            f"view_mask {tuple(view_mask.shape)} does not fit pixel_values {tuple(pixel_values.shape)}: "
            "both start with (batch, views)"
        )
    views_per_study = view_mask.sum(dim=1)
    if not views_per_study.all():
        missing = (views_per_study == 0).nonzero().flatten().tolist()
        raise ValueError(f"studies without any view in the batch, at positions {missing}")
    # Missing views are not encoded at all.
    present = _encode_images(vision_encoder, pixel_values[view_mask])
    study = view_mask.nonzero()[:, 0]
    total = present.new_zeros(len(view_mask), *present.shape[1:]).index_add(0, study, present)
    return total / views_per_study[:, None, None].to(total.dtype)


def _encode_images(vision_encoder: PreTrainedModel, images: Tensor) -> Tensor:
    images = images.to(vision_encoder.dtype)
    extra = {}
    if vision_encoder.config.model_type == "vit_mae":
        # A masked autoencoder drops and shuffles patches at random unless told to keep them all, in order.
        vision_encoder.config.mask_ratio = 0.0
        num_patches = count_visual_tokens(vision_encoder.config) - 1
        extra["noise"] = torch.arange(num_patches, device=images.device).float().expand(len(images), -1)
    return vision_encoder(pixel_values=images, **extra).last_hidden_state


__all__ = ["FrozenVisionEncoderMixin", "encode_views", "load_vision_encoder"]
