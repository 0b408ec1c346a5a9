"""A report generator and its processor from parts, in one call that hands on what one has to know of the other."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..configuration.families import families
from ..modeling_mambaxray.parts.vision_encoder import load_vision_encoder
from .image_processing_mambaxray import MambaXrayImageProcessor
from .processing_mambaxray import MambaXrayProcessor
from .study_prompts import DEFAULT_INSTRUCTION, DEFAULT_PROMPT_TEMPLATE


def build_generator(
    vision_encoder: str | PreTrainedModel,
    language_model: str | PreTrainedModel,
    tokenizer: str | PreTrainedTokenizerBase | None = None,
    *,
    system: str = "mambaxray",
    image_size: int | None = None,
    crop_from: int | None = None,
    instruction: str = DEFAULT_INSTRUCTION,
    prompt_template: str = DEFAULT_PROMPT_TEMPLATE,
    processor_kwargs: Mapping[str, Any] | None = None,
    vision_kwargs: Mapping[str, Any] | None = None,
    text_kwargs: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
    **config_kwargs: Any,
) -> tuple[PreTrainedModel, MambaXrayProcessor]:
    """Puts a pre-trained vision encoder and a pre-trained language model together, with the processor for both.

    The image's placeholder is the first token behind the tokenizer's own, also where the decoder has more embeddings
    than the tokenizer has tokens. Images have the encoder's size, and a prompt holds as many placeholders as the model
    makes image tokens.

    Args:
        vision_encoder: folder or Hub name of any `AutoModel` vision encoder that makes a sequence of tokens or a
            feature map, or such a model.
        language_model: folder or Hub name of any attention-based `AutoModelForCausalLM`, or such a model.
        tokenizer: the language model's, or its folder or Hub name; by default from where the language model is.
        system: name of the family of the model, such as `"mambaxray"`, `"emrrg"` or `"ammrg"`.
        image_size: side of the images in pixels; the encoder's own when not given.
        crop_from: resize images to this many pixels on the shorter edge, and cut the square out of the middle; when not
            given, whole images are stretched to the square.
        instruction, prompt_template: what the processor asks for, see `MambaXrayProcessor`.
        processor_kwargs: further arguments of the system's processor, such as `context`; with prior images among it,
            the model takes them.
        vision_kwargs, text_kwargs: passed to the parts' `from_pretrained` (`revision`, `dtype`, …).
        parts: further pre-trained parts that the system takes, by name: folder or Hub name, or the part.
        config_kwargs: fields of the model's configuration.

    Returns:
        The model, with projection and whatever else the system adds newly initialised, and its processor.

    Raises:
        ValueError: an unknown system, no tokenizer, or a part that does not fit.

    Example:
        >>> model, processor = build_generator("facebook/convnextv2-tiny-22k-224", "Qwen/Qwen2.5-0.5B")
    """
    family = families().get(system)
    if family is None or family.stage != "finetune":
        known = [name for name, each in families().items() if each.stage == "finetune"]
        raise ValueError(f"system must be one of {', '.join(known)}, got {system!r}")
    text_options, vision_options = dict(text_kwargs or {}), dict(vision_kwargs or {})
    tokenizer = _tokenizer(tokenizer, language_model, text_options.get("revision"))
    encoder = vision_encoder
    if not isinstance(encoder, PreTrainedModel):
        encoder = load_vision_encoder(encoder, image_size=image_size, **vision_options)
    elif image_size is not None and getattr(encoder.config, "image_size", None) is None:
        encoder.config.image_size = image_size
    side = getattr(encoder.config, "image_size", None)
    if not isinstance(side, int):
        raise ValueError(f"the {encoder.config.model_type} encoder names no size of a square image: give image_size")
    if image_size is not None and image_size != side:
        raise ValueError(
            f"the {encoder.config.model_type} encoder takes images of {side} px, not {image_size}: give it by its "
            "folder or Hub name, or leave image_size out"
        )
    square = {"height": side, "width": side}
    sizes: dict[str, Any] = {"size": square}
    if crop_from is not None:
        sizes = {"size": {"shortest_edge": crop_from}, "do_center_crop": True, "crop_size": square}
    processor = family.processor_class.from_parts(
        MambaXrayImageProcessor(**sizes),
        tokenizer,
        parts or {},
        instruction=instruction,
        prompt_template=prompt_template,
        **(processor_kwargs or {}),
    )
    if processor.prior_image_token_id is not None:
        config_kwargs["prior_image_token_id"] = processor.prior_image_token_id
    model = family.model_class.from_encoder_decoder_pretrained(
        encoder,
        language_model,
        image_token_id=processor.image_token_id,
        text_kwargs=text_options or None,
        **(parts or {}),
        **config_kwargs,
    )
    processor.fit_to(model.config)
    processor.num_prior_image_tokens = model.config.num_prior_image_tokens or None
    return model, processor


def _tokenizer(
    tokenizer: str | PreTrainedTokenizerBase | None, language_model: str | PreTrainedModel, revision: str | None
) -> PreTrainedTokenizerBase:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    source = tokenizer
    if source is None:
        source = language_model.name_or_path if isinstance(language_model, PreTrainedModel) else language_model
    if not source:
        raise ValueError("the language model was not loaded, so its tokenizer isn't known: give tokenizer")
    return AutoTokenizer.from_pretrained(source, revision=revision if tokenizer is None else None)


__all__ = ["build_generator"]
