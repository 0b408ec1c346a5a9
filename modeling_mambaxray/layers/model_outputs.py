"""What a report generator returns, with its decoder's head and without."""

from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput

from .image_features import Evidence


@dataclass
class MambaXrayModelOutput(ModelOutput):
    """Output of `MambaXrayModel`.

    Attributes:
        last_hidden_state: `(batch, sequence, llm_hidden)`, what the decoder's head is applied to.
        cache: the decoder's cache of keys and values.
        hidden_states: the decoder's hidden states, when asked for.
        attentions: the decoder's attention weights, when asked for.
        image_hidden_states: image embeddings `(batch, image_tokens, llm_hidden)`, when an image was encoded.
        losses: what `fuse` gave, by name and not weighted.
        evidence: what `fuse` gave.
        metrics: what `fuse` gave.
    """

    last_hidden_state: Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    evidence: list[list[Evidence]] | None = None
    metrics: dict[str, Tensor] | None = None


@dataclass
class MambaXrayOutput(ModelOutput):
    """Output of `MambaXrayForConditionalGeneration`.

    Attributes:
        loss: scalar, the sum of the losses times their weights, when there are any.
        logits: `(batch, sequence, vocabulary)`, or the last positions when `logits_to_keep` was given.
        cache: the decoder's cache of keys and values.
        hidden_states: the decoder's hidden states, when asked for.
        attentions: the decoder's attention weights, when asked for.
        image_hidden_states: image embeddings `(batch, image_tokens, llm_hidden)`, when an image was encoded.
        losses: each loss by its name, not weighted: `"report"`, the mean over supervised tokens, when labels were
            given, and what `fuse` gave.
        evidence: what `fuse` gave.
        metrics: what `fuse` gave.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    evidence: list[list[Evidence]] | None = None
    metrics: dict[str, Tensor] | None = None


__all__ = ["MambaXrayModelOutput", "MambaXrayOutput"]
