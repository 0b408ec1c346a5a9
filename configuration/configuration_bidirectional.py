"""Configuration of bidirectional learning: from image to report, and from report to image embeddings and pixels."""

import math
from typing import Any

from transformers import AutoConfig, BertConfig, PreTrainedConfig, ViTMAEConfig

from .configuration_mambaxray import MambaXrayConfig
from .configuration_vision_mamba import VisionMambaConfig
from .study_inputs import StudyInput
from .sub_configs import as_config
from .vision_tokens import patch_positions, visual_width

TEXT_TO_VISION_MODES = ("teacher_forced", "queries")
GRADIENTS = ("both", "generated", "target")
REDUCTIONS = ("sum", "mean")
_DECODER_FIELDS = (
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
)
_SMALL_DECODER = dict(zip(_DECODER_FIELDS, (256, 2, 8, 1024), strict=True))

BIDIRECTIONAL_STUDY_INPUTS = {
    "report_input_ids": StudyInput((None, None), padding=-1, dtype="int64", for_training_only=True),
    "report_word_ids": StudyInput((None,), padding=-1, dtype="int64", for_training_only=True),
    "vision_prompt_ids": StudyInput((None,), padding=-1, dtype="int64", for_training_only=True),
}
"""What a study's report is to the training: for each view `(views, length)` the text encoder's tokens of the report and
a sentence about the view; the report in the language model's tokens `(length,)`; and the language model's prompt for
image embeddings `(length,)`, with `image_token_id` once, where the text goes. -1 is padding."""


class BidirectionalConfig(MambaXrayConfig):
    r"""What a `BidirectionalForConditionalGeneration` is made of.

    Args:
        text_encoder_config: configuration (or dict) of any `AutoModel` text encoder whose `last_hidden_state` is
            `(batch, tokens, hidden)`; a base `BertConfig` when not given. A dict without `vocab_size` takes the
            language model's, whose tokens the text encoder reads where the processor has no tokenizer of its own for
            it.
        loss_weights: factor of each loss in the total, by its name: `report` (from vision to text, VTC),
            `text_to_vision` (TVC), `reconstruction` (REC), and `contrastive`, the paper's CLIP row. 1 for the first
            three when not named, 0 for the last. A branch with weight 0 is not made at all.
        report_reduction: as in `MambaXrayConfig`, with the paper's `"sum"` as default (eq. 1).
        text_to_vision_mode: `"teacher_forced"`: each image embedding is predicted from the text and the true, detached
            embeddings before it, in one pass; `"queries"`: from the text and as many learned queries, in one pass.
        text_to_vision_reduction: `"sum"` for the squared distance summed over the embedding's width, `"mean"` for its
            mean; either is averaged over positions and images (eq. 2 and 5: `"sum"`).
        text_to_vision_gradients: which side of the distance is trained by it: `"both"`, only the `"generated"`
            embeddings, or only the `"target"`, the projected visual tokens.
        projector_layer_norm: whether a layer norm follows the projection, as in R2GenGPT. The paper has none.
        image_decoder_sizes: `decoder_hidden_size`, `decoder_num_hidden_layers`, `decoder_num_attention_heads` and
            `decoder_intermediate_size` of the decoder to pixels; those of the vision encoder when it is a ViT-MAE, and
            a small one otherwise.
        contrastive_width: width of the shared space of the contrastive loss.
        kwargs: the fields of `MambaXrayConfig`.

    Raises:
        TypeError: a sub-configuration is neither a configuration nor a dict.
        ValueError: a value is out of its range, or the image tokens do not form a square that covers the image.

    Source: the paper on bidirectional learning, equations 1 to 5; what is ours is named in `docs/bidirectional.md`.
    """

    model_type = "bidirectional_rrg"
    sub_configs = {**MambaXrayConfig.sub_configs, "text_encoder_config": AutoConfig}
    loss_names = ("report", "text_to_vision", "reconstruction", "contrastive")

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        image_token_id: int = 32000,
        text_encoder_config: PreTrainedConfig | dict[str, Any] | None = None,
        loss_weights: dict[str, float] | None = None,
        report_reduction: str = "sum",
        text_to_vision_mode: str = "teacher_forced",
        text_to_vision_reduction: str = "sum",
        text_to_vision_gradients: str = "both",
        projector_layer_norm: bool = False,
        image_decoder_sizes: dict[str, int] | None = None,
        contrastive_width: int = 512,
        **kwargs: Any,
    ):
        self.text_encoder_config = _text_encoder_config(text_encoder_config, text_config)
        self.text_to_vision_mode = text_to_vision_mode
        self.text_to_vision_reduction = text_to_vision_reduction
        self.text_to_vision_gradients = text_to_vision_gradients
        self.projector_layer_norm = projector_layer_norm
        self.contrastive_width = contrastive_width
        super().__init__(
            as_config(vision_config, VisionMambaConfig),
            text_config,
            image_token_id,
            loss_weights=dict.fromkeys(self.loss_names, 1.0) | {"contrastive": 0.0} | (loss_weights or {}),
            report_reduction=report_reduction,
            **kwargs,
        )
        decoder = dict(_SMALL_DECODER)
        if isinstance(self.vision_config, ViTMAEConfig):
            decoder = {name: getattr(self.vision_config, name) for name in _DECODER_FIELDS}
        if unknown := sorted((image_decoder_sizes or {}).keys() - set(_DECODER_FIELDS)):
            raise ValueError(
                f"image_decoder_sizes has no {', '.join(unknown)}; its fields are {', '.join(_DECODER_FIELDS)}"
            )
        self.image_decoder_sizes = decoder | (image_decoder_sizes or {})
        for name, choices in (
            ("text_to_vision_mode", TEXT_TO_VISION_MODES),
            ("text_to_vision_reduction", REDUCTIONS),
            ("text_to_vision_gradients", GRADIENTS),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if self.loss_weights["reconstruction"] and self.training_parts:
            self.image_decoder_config()

    @property
    def visual_sequence_length(self) -> int:
        """Visual tokens of one image: its patches, without `cls` and the like."""
        if self.num_visual_tokens is not None:
            return self.num_visual_tokens
        return len(patch_positions(self.vision_config))

    @property
    def encoder_positions(self) -> list[int] | None:
        """Which tokens of the vision encoder are kept; all where it is known only how many there are."""
        return None if self.num_visual_tokens is not None else patch_positions(self.vision_config)

    @property
    def image_patch_positions(self) -> list[int]:
        return list(range(self.visual_sequence_length))

    def image_decoder_config(self) -> ViTMAEConfig:
        """Configuration of the decoder from one embedding per patch to pixels.

        Raises:
            ValueError: the image tokens do not form a square that covers the image.
        """
        side, size = math.isqrt(self.visual_sequence_length), getattr(self.vision_config, "image_size", None)
        if side**2 != self.visual_sequence_length or not isinstance(size, int) or size % side:
            raise ValueError(
                f"{self.visual_sequence_length} image tokens are no square grid over an image of {size} px, so it "
                "can't be reconstructed from them: give loss_weights={'reconstruction': 0}"
            )
        width = visual_width(self.vision_config)
        return ViTMAEConfig(
            hidden_size=width,
            num_attention_heads=1,
            attn_implementation="sdpa",
            image_size=size,
            patch_size=size // side,
            num_channels=getattr(self.vision_config, "num_channels", 3),
            **self.image_decoder_sizes,
        )


def _text_encoder_config(given: Any, text_config: Any) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    values = text_config if isinstance(text_config, dict) else getattr(text_config, "__dict__", {})
    words = {"vocab_size": values["vocab_size"]} if values.get("vocab_size") else {}
    return as_config(words | (given or {}), BertConfig)


__all__ = ["BIDIRECTIONAL_STUDY_INPUTS", "BidirectionalConfig"]
