"""Whether a decoder's logits are what others make of its last hidden states and its head.

Trainers and servers that never hold all logits at once take the head from `get_output_embeddings()` and the scales and
soft caps from the decoder's configuration. That is right for most decoders, and silently wrong for one whose head does
anything else.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel


class HeadRulesError(ValueError):
    """A decoder's logits are not its head, scale and soft cap applied to its last hidden states."""


def apply_head(hidden_states: Tensor, head: nn.Module, config: PreTrainedConfig) -> Tensor:
    """Logits `(batch, sequence, vocabulary)` by the rules that TRL applies.

    Args:
        hidden_states: `(batch, sequence, llm_hidden)`, the decoder's last.
        head: the decoder's output embeddings.
        config: the decoder's configuration: `logit_scale`, `output_multiplier`, `lm_head_multiplier` or
            `logits_scaling` (a divisor but for HyperCLOVA X), then `final_logit_softcapping`.

    Source: TRL 1.16, `trainer/utils.py`, `add_fused_lm_head`.
    """
    logits = F.linear(hidden_states, head.weight, head.bias)
    named = (getattr(config, name, None) for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"))
    scale = next((value for value in named if value is not None), None)
    divisor = getattr(config, "logits_scaling", None)
    if scale is None and divisor is not None:
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    if scale is not None:
        logits = logits * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.no_grad()
def check_head_rules(language_model: PreTrainedModel) -> None:
    """Compares a decoder's own logits with `apply_head`, on a few tokens.

    Raises:
        HeadRulesError: they differ, or the head has an adapter, which the rules do not see.
    """
    head, name = language_model.get_output_embeddings(), type(language_model).__name__
    problem = None
    if not hasattr(head, "weight") or not hasattr(head, "bias"):
        problem = "its head is not a linear map"
    elif hasattr(head, "base_layer"):
        problem = "its head has an adapter; leave the head out of the adapter's target_modules"
    else:
        logits, hidden_states = _probe(language_model)
        expected = apply_head(hidden_states.to(head.weight.dtype), head, language_model.config).float()
        tolerance = 1e-4 if logits.dtype == head.weight.dtype == torch.float32 else 2e-2
        logits = logits.float()
        if expected.shape != logits.shape or (expected - logits).abs().max() > tolerance * logits.abs().max():
            problem = "its logits are not its output embeddings applied to its last hidden states"
    if problem is not None:
        raise HeadRulesError(
            f"{name} does not work with trainers that apply the head themselves, such as TRL's: {problem}"
        )


def _probe(language_model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """A decoder's own logits of a few tokens, and its last hidden states, both without dropout."""
    vocabulary = language_model.get_input_embeddings().num_embeddings
    tokens = torch.arange(min(4, vocabulary), device=language_model.device)[None]
    modes = {module: module.training for module in language_model.modules()}
    language_model.eval()
    try:
        logits = language_model(input_ids=tokens, use_cache=False).logits
        return logits, language_model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    finally:
        for module, mode in modes.items():
            module.training = mode


__all__ = ["HeadRulesError", "apply_head", "check_head_rules"]
