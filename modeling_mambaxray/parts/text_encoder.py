"""Loading a text encoder, also that of an image captioner."""

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    BlipForConditionalGeneration,
    PreTrainedModel,
)

from ..layers.report_encoder import without_pooler


def load_text_encoder(name_or_path: str) -> PreTrainedModel:
    """Loads a text encoder from a folder or the Hub.

    Args:
        name_or_path: any `AutoModel`, or a BLIP captioner, of which the text part is taken (`encoder_of_captioner`).
    """
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type == "blip":
        return encoder_of_captioner(BlipForConditionalGeneration.from_pretrained(name_or_path))
    return AutoModel.from_pretrained(name_or_path, **without_pooler(config))


def encoder_of_captioner(captioner: BlipForConditionalGeneration) -> BertModel:
    """The BERT inside of a BLIP captioner's text decoder, as a bidirectional encoder.

    Its self-attention sees the whole text instead of the words before, and its cross-attention to the image is left
    out, so it computes what neither of BLIP's own models does. Token type embeddings, which BLIP has not, are zero.

    Raises:
        ValueError: the captioner has weights that a BERT has no place for.
    """
    body, config = captioner.text_decoder.bert, captioner.text_decoder.config
    names = (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "initializer_range"),
        *("layer_norm_eps", "pad_token_id"),
    )
    encoder = BertModel(
        BertConfig(type_vocab_size=1, **{name: getattr(config, name) for name in names}), add_pooling_layer=False
    ).to(body.dtype)
    weights = {name: tensor for name, tensor in body.state_dict().items() if ".crossattention." not in name}
    loaded = encoder.load_state_dict(weights, strict=False)
    missing = set(loaded.missing_keys) - {"embeddings.token_type_embeddings.weight"}
    if missing or loaded.unexpected_keys:
        raise ValueError(f"a BLIP captioner whose text part is no BERT: {sorted(missing) or loaded.unexpected_keys}")
    with torch.no_grad():
        encoder.embeddings.token_type_embeddings.weight.zero_()
    return encoder.eval()


__all__ = ["encoder_of_captioner", "load_text_encoder"]
