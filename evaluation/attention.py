"""Where a report generator looks while it writes: attention to the image and gates, word by word."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from ..modeling_mambaxray.generation.recalled_prompts import prepare_for_generation
from ..modeling_mambaxray.layers.hybrid_attention import GatedCrossAttention
from ..modeling_mambaxray.layers.image_features import Evidence
from .seen_views import as_seen

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True)
class AttentionMaps:
    """What one kind of attention looked at.

    Attributes:
        name: which layers.
        maps: `(words, side, side)`; each map sums up to the share of the attention that the patches got.
        gates: one number per word for a hybrid layer, by which its cross-attention was multiplied; None elsewhere.
    """

    name: str
    maps: np.ndarray
    gates: np.ndarray | None = None


@dataclass(frozen=True)
class Explanation:
    """A report and where each of its words looked.

    Attributes:
        words: the report's words.
        views: the images with the detail that the model saw, in the aspect ratio of the films. The model sees them
            stretched to a square, and maps are laid over them in the same way. Where the processor cuts a square out of
            them, that.
        sources: the decoder's self-attention, and then each hybrid layer's cross-attention.
        evidence: what the report rests on, by observation, for systems that give it.
    """

    words: list[str]
    views: list[Image.Image]
    sources: list[AttentionMaps]
    evidence: list[Evidence] = field(default_factory=list)


@torch.no_grad()
def explain_report(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    views: Sequence["Image.Image | str | PathLike"],
    *,
    prompt: str | None = None,
    **generate_kwargs: Any,
) -> Explanation:
    """Writes a report and looks at it once more, to see what each word attended to when it was chosen.

    A word's map is the attention of the position that predicts it, the mean over heads and over the word's tokens; the
    self-attention is the mean over layers, too. Views are averaged before the decoder sees them, so a map belongs to
    all of them.

    Args:
        model: a report generator.
        processor: its processor.
        views: the study's images, anything that the processor reads.
        prompt: instruction, in place of the processor's own.
        generate_kwargs: arguments of `model.generate`.

    Raises:
        ImageReadError, FileNotFoundError: an image that can't be read.
        ValueError: the model wrote nothing, or its visual tokens do not form a square of patches.
    """
    inputs = prepare_for_generation(model, processor, [{"images": list(views)}], prompt)
    options = generate_kwargs | {"num_return_sequences": 1, "return_dict_in_generate": True}
    generated = model.generate(**inputs, **options)
    tokens, (evidence,) = generated.sequences, generated.get("evidence") or [[]]
    length = inputs["input_ids"].shape[1]
    words, owners = words_of_tokens(processor.tokenizer, tokens[0, length:].tolist())
    if not words:
        raise ValueError("the model wrote nothing for this study, so there is nothing to explain")
    patches = model.config.image_patch_positions
    # The row that predicts a token is the one before it; nothing behind the last word is of interest.
    last = max(index for index, owner in enumerate(owners) if owner is not None)
    inputs |= {
        "input_ids": tokens[:, : length + last],
        "attention_mask": torch.ones_like(tokens[:, : length + last]),
    }
    with _recorded(model) as crossed, _eager(model.language_model):
        attentions = model(**inputs, output_attentions=True, use_cache=False).attentions
    image = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().flatten()[patches]
    rows = slice(length - 1, None)
    owners = owners[: last + 1]
    own = torch.stack([layer[0, :, rows].float().mean(dim=0)[:, image] for layer in attentions]).mean(dim=0)
    sources = [
        AttentionMaps(
            f"Self-attention, mean of {len(attentions)} layer{'s' if len(attentions) > 1 else ''}",
            _by_word(own, owners, len(words)),
        )
    ]
    for index, (weights, gates) in crossed.items():
        maps = _by_word(weights[0, :, rows].float().mean(dim=0)[:, patches], owners, len(words))
        by_word = _mean_by_word(gates[0, rows].float().cpu().numpy(), owners, len(words))[:, 0]
        sources.append(AttentionMaps(f"Cross-attention of layer {index}", maps, by_word))
    seen = processor.prepare_images([{"images": list(views)}])["pixel_values"][0]
    return Explanation(words, as_seen(seen, processor.image_processor, views), sources, evidence)


def words_of_tokens(tokenizer: Any, ids: Sequence[int]) -> tuple[list[str], list[int | None]]:
    """The words that tokens spell, and for each token the number of its word (None: it spells nothing)."""
    words: list[str] = []
    owners: list[int | None] = []
    text, unread = "", 0
    for end in range(1, len(ids) + 1):
        owners.append(None)
        longer = tokenizer.decode(ids[:end], skip_special_tokens=True)
        unread += 1
        # A character of several tokens can be read with its last one only.
        if not longer.startswith(text) or (longer.endswith("\ufffd") and end < len(ids)):
            continue
        piece = longer[len(text) :]
        if piece.strip():
            if not words or piece[0].isspace() or text[-1:].isspace():
                words.append("")
            first, *others = piece.split()
            words[-1] += first
            words += others
            owners[-unread:] = [len(words) - 1] * unread
        text, unread = longer, 0
    return words, owners


@contextmanager
def _eager(language_model: PreTrainedModel) -> Iterator[None]:
    """The decoder with the attention implementation that returns its weights."""
    usual = language_model.config._attn_implementation
    language_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        language_model.set_attn_implementation(usual)


@contextmanager
def _recorded(model: PreTrainedModel) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """By hybrid layer: cross-attention weights `(1, heads, tokens, visual tokens)` and gates `(1, tokens, 1)`."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, GatedCrossAttention)]

    def record(index: int) -> Any:
        def hook(layer: GatedCrossAttention, arguments: tuple[Any, ...], output: Tensor) -> None:
            attended, query, states, _, scaling = arguments
            found[index] = layer.weights(query, states, scaling), layer.gate(attended.flatten(2))

        return hook

    handles = [layer.register_forward_hook(record(int(name.rpartition(".")[2]))) for name, layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _by_word(attention: Tensor, owners: Sequence[int | None], words: int) -> np.ndarray:
    """`(tokens, patches)` to `(words, side, side)`."""
    maps = _mean_by_word(attention.cpu().numpy(), owners, words)
    side = round(maps.shape[1] ** 0.5)
    return maps.reshape(words, side, side)


def _mean_by_word(values: np.ndarray, owners: Sequence[int | None], words: int) -> np.ndarray:
    of_word = [[index for index, owner in enumerate(owners) if owner == word] for word in range(words)]
    # A piece of several words belongs to the last of them; those before share its values.
    for word in range(words - 2, -1, -1):
        of_word[word] = of_word[word] or of_word[word + 1]
    return np.stack([values[rows].mean(axis=0) for rows in of_word])


__all__ = ["AttentionMaps", "Explanation", "explain_report", "words_of_tokens"]
