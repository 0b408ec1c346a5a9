"""What a decoder is called with, and how long its sequences may be."""

import inspect
import re
import sys
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import TransformersKwargs

from ...configuration.configuration_mambaxray import MambaXrayConfig

_POSITION_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings)$")


@dataclass(frozen=True)
class DecoderInterface:
    """What one decoder's `forward` takes.

    Attributes:
        arguments: names of its own arguments and of those that transformers hands on everywhere.
        takes_positions: whether `position_ids` is among its own.
        has_position_table: whether it looks positions up, so that none follows the last one.
    """

    arguments: frozenset[str]
    takes_positions: bool
    has_position_table: bool

    @classmethod
    def of(cls, decoder: PreTrainedModel) -> Self:
        """Reads it from a decoder.

        Raises:
            ValueError: the decoder keeps a recurrent state.
        """
        if getattr(decoder, "_is_stateful", False):
            raise ValueError(
                f"a {decoder.config.model_type} decoder ({type(decoder).__name__}) keeps a recurrent state, which can "
                "be neither cut nor put together as reports begin and end; give a decoder that keeps keys and values "
                "of attention, such as Llama or Qwen. As a vision encoder, Mamba is supported (VisionMambaModel)"
            )
        own = inspect.signature(decoder.forward).parameters
        tables = (module for name, module in decoder.named_modules() if _POSITION_TABLE.search(name))
        return cls(
            arguments=frozenset(own) | TransformersKwargs.__optional_keys__ | {"return_dict"},
            takes_positions="position_ids" in own,
            has_position_table=any(isinstance(module, nn.Embedding) for module in tables),
        )


def attention_arguments(text_config: PreTrainedConfig) -> set[str]:
    """What the function takes that the decoder attends with: a hybrid layer's, vLLM's, or a user's own."""
    registered = ALL_ATTENTION_FUNCTIONS.get(text_config._attn_implementation)
    named = set() if registered is None else set(inspect.signature(registered).parameters)
    return named | {"cross_attention", "attention_instances"}


def positions_of(attention_mask: Tensor, length: int, cache: Cache | None = None) -> Tensor | None:
    """Positions of new tokens, `(batch, length)`, counted from the first token of each row that is not padding.

    Args:
        attention_mask: `(batch, tokens)`, of what the cache holds and of the new tokens.
        length: new tokens.
        cache: what was computed before.

    Returns:
        None where the mask is too short to tell.
    """
    start = 0 if cache is None else int(cache.get_seq_length())
    if attention_mask.shape[-1] < start + length:
        return None
    left_padding = (attention_mask != 0).int().argmax(dim=-1, keepdim=True)
    tokens = torch.arange(start, start + length, device=attention_mask.device)
    return (tokens - left_padding).clamp(min=0)


def longest_sequence(text_config: PreTrainedConfig) -> int:
    """Number of positions that the decoder was made for."""
    limit = getattr(text_config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) else sys.maxsize


def check_sequence_length(length: int, config: MambaXrayConfig) -> None:
    """Refuses a sequence that is longer than the decoder's positions.

    Raises:
        ValueError: it is.
    """
    if length > (limit := longest_sequence(config.text_config)):
        raise ValueError(
            f"a sequence of {length} tokens is longer than the {limit} positions of the "
            f"{config.text_config.model_type} decoder: shorten the prompt or the reports "
            f"(the image takes {config.num_image_tokens} tokens)"
        )


__all__ = [
    "DecoderInterface",
    "attention_arguments",
    "check_sequence_length",
    "longest_sequence",
    "positions_of",
]
