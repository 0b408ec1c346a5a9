"""Loading a vision encoder from wherever an earlier stage left it."""

from typing import Any

from transformers import AutoConfig, AutoModel, PreTrainedModel

from ..hub.model_location import location_in
from ..modeling_mambaxray_pretraining import MambaXrayForPreTraining, encoder_from_pretraining
from ..modeling_vision_mamba import VisionMambaModel, resize_encoder


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
    config = AutoConfig.from_pretrained(name_or_path, **location_in(kwargs, "trust_remote_code"))
    is_part = "vision_config" in config.sub_configs
    if image_size is not None and not is_part and config.model_type != MambaXrayForPreTraining.config_class.model_type:
        if not hasattr(config, "image_size"):  # a ResNet, which takes any
            model = AutoModel.from_pretrained(name_or_path, **kwargs)
            model.config.image_size = image_size
            return model
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


__all__ = ["load_vision_encoder"]
