"""What a study is found by in a retrieval memory, and what it looks others up with."""

from torch import Tensor


def retrieval_keys(visual_tokens: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """The two vectors of each study, in float32, not L2-normalised: `ExemplarRetriever` does that.

    Keys of a memory and queries are made by this function alone, so they fit each other.

    Args:
        visual_tokens: of a stage-1 classifier, `(batch, tokens, hidden)`.
        logits: its logits of the diseases, `(batch, diseases)`.

    Returns:
        `"visual"` `(batch, hidden)`, the mean visual token, and `"disease"` `(batch, diseases)`.

    Source: the disease-aware dual-stage paper, section III-D and equation 8.
    """
    return {"visual": visual_tokens.float().mean(dim=1), "disease": logits.float()}


__all__ = ["retrieval_keys"]
