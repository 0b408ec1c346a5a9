"""Configuration of EMRRG: a report generator some of whose decoder layers look at the visual tokens directly."""

from typing import Any

from .configuration_mambaxray import MambaXrayConfig

HYBRID_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2")
"""Families of language models whose layers can be made hybrid."""
GATE_ACTIVATIONS = ("tanh", "identity")
WARM_UPS = ("tanh", "identity", "none")
ATTENDING_TOKENS = ("text", "text_after_image", "all")
_PAPERS_LAYERS = (0, 8, 16, 24)


class EMRRGConfig(MambaXrayConfig):
    r"""What an `EMRRGForConditionalGeneration` is made of.

    Args:
        hybrid_layers: which layers of the language model, counted from 0, have cross-attention to the visual tokens;
            when not given those of 0, 8, 16 and 24 that exist.
        gate_activation: what follows the gate's linear map of each token, `"tanh"` or `"identity"`.
        gate_warm_up: how the gate is scaled as a whole, by a learned scalar that starts at 0: through `"tanh"`, by
            itself (`"identity"`), or `"none"`, where the gate's linear map starts at 0 in its place.
        attending_tokens: which positions attend to the visual tokens: `"text"` (all but image placeholders),
            `"text_after_image"` (the prompt's beginning does not), or `"all"`.
        kwargs: the fields of `MambaXrayConfig`. The language model must be of one of the families in
            `HYBRID_DECODERS`.

    Raises:
        ValueError: a value is out of its range, or the language model is of another family.

    Source: EMRRG, section "Hybrid decoder layers", for the defaults; the others are settings of its released code.
    """

    model_type = "emrrg"

    def __init__(
        self,
        *args: Any,
        hybrid_layers: list[int] | None = None,
        gate_activation: str = "tanh",
        gate_warm_up: str = "tanh",
        attending_tokens: str = "text",
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        num_layers = self.text_config.num_hidden_layers
        if hybrid_layers is None:
            hybrid_layers = [layer for layer in _PAPERS_LAYERS if layer < num_layers]
        self.hybrid_layers = list(hybrid_layers)
        self.gate_activation = gate_activation
        self.gate_warm_up = gate_warm_up
        self.attending_tokens = attending_tokens
        family = self.text_config.model_type
        if family not in HYBRID_DECODERS:
            raise ValueError(
                f"hybrid layers can't be made of a {family!r} language model, only of {', '.join(HYBRID_DECODERS)}"
            )
        if not self.hybrid_layers or sorted(set(self.hybrid_layers)) != self.hybrid_layers:
            raise ValueError(f"hybrid_layers must be some layers in ascending order, got {self.hybrid_layers!r}")
        if not 0 <= self.hybrid_layers[0] <= self.hybrid_layers[-1] < num_layers:
            raise ValueError(
                f"hybrid_layers must be from 0 to {num_layers - 1}, the layers of the language model; "
                f"got {self.hybrid_layers!r}"
            )
        for name, choices in (
            ("gate_activation", GATE_ACTIVATIONS),
            ("gate_warm_up", WARM_UPS),
            ("attending_tokens", ATTENDING_TOKENS),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


__all__ = ["HYBRID_DECODERS", "EMRRGConfig"]
