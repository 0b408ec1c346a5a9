"""Configuration of the report generator: a vision encoder, a projection and a causal language model."""

from typing import Any, ClassVar

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .configuration_vision_mamba import VisionMambaConfig
from .loss_weights import check_loss_weights
from .saved_parts import PrivatePathsMixin, read_separate_parts, without_earlier_fields
from .sub_configs import as_config, keeping_attention
from .value_checks import check_positive_integer
from .vision_tokens import count_visual_tokens, patch_positions


class MambaXrayConfig(PrivatePathsMixin, PreTrainedConfig):
    r"""What a `MambaXrayForConditionalGeneration` is made of.

    Args:
        vision_config: configuration (or dict) of any `AutoModel` vision encoder whose `last_hidden_state` is
            `(batch, tokens, hidden)`; a base `VisionMambaConfig` when not given.
        text_config: configuration (or dict) of any attention-based `AutoModelForCausalLM`; a `LlamaConfig` when
            not given.
        image_token_id: id of the placeholder that image embeddings replace. It may lie outside the language
            model's vocabulary, since its embedding is never looked up.
        prior_image_token_id: id of the placeholder that the embeddings of the prior study's images replace, under the
            same rules; None for a model that takes no prior images.
        num_visual_tokens: length of the vision encoder's output for one image; derived for the vision Mamba, VMamba,
            the ViT family and Swin, and needed for others.
        projector_layer_norm_eps: epsilon of the layer norm after the projection.
        loss_weights: factor of each named loss in the total, by its name; 1 for a loss that is not named. The names
            are the family's `loss_names`.
        report_reduction: `"mean"` for the mean negative log-likelihood of the supervised tokens as the report's loss,
            `"sum"` for their sum over each report, and the mean over the batch's reports.
        separate_parts: the parts that a saved model leaves out, by name, each a dict of its `source` (Hub name; None
            when it came from a folder of the author's machine), `revision`, `dtype` and `fingerprint`, a digest of
            the weights that were left out. Written by `save_pretrained`.
        memory_models: by memory of training studies, a digest of the model that made the vectors that this model was
            trained with; a memory of another one is refused. Written by `save_pretrained`.
        training_parts: whether the model has the parts that only training needs, where its class has such. Written by
            `save_pretrained`.

    Attributes:
        loss_names: the losses of the family's model: `"report"`, the negative log-likelihood of the supervised
            tokens, and what a system adds.

    Raises:
        TypeError: a sub-configuration is neither a configuration nor a dict.
        ValueError: a value is out of range, or the number of visual tokens cannot be derived.

    Source: CXPMRG-Bench (MambaXray-VL), stage 3; R2GenGPT for the layer norm after the projection.
    """

    model_type = "mambaxray"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    loss_names: ClassVar[tuple[str, ...]] = ("report",)
    prior_image_token_id: int | None = None

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        image_token_id: int = 32000,
        num_visual_tokens: int | None = None,
        projector_layer_norm_eps: float = 1e-5,
        loss_weights: dict[str, float] | None = None,
        report_reduction: str = "mean",
        separate_parts: dict[str, dict[str, str | None]] | None = None,
        memory_models: dict[str, str] | None = None,
        training_parts: bool = True,
        prior_image_token_id: int | None = None,
        **kwargs: Any,
    ):
        self.vision_config = as_config(vision_config, VisionMambaConfig)
        self.text_config = as_config(text_config, LlamaConfig)
        self.image_token_id = image_token_id
        self.num_visual_tokens = num_visual_tokens
        self.projector_layer_norm_eps = projector_layer_norm_eps
        self.loss_weights = check_loss_weights(loss_weights, self.loss_names)
        self.report_reduction = report_reduction
        self.separate_parts = read_separate_parts(
            kwargs | {"separate_parts": separate_parts, "text_config": self.text_config}
        )
        self.memory_models = dict(memory_models or {})
        self.training_parts = training_parts
        kwargs = without_earlier_fields(kwargs)
        if not isinstance(image_token_id, int) or image_token_id < 0:
            raise ValueError(f"image_token_id must be a non-negative integer, got {image_token_id!r}")
        if report_reduction not in ("mean", "sum"):
            raise ValueError(f"report_reduction must be mean or sum, got {report_reduction!r}")
        if prior_image_token_id is not None:
            if not isinstance(prior_image_token_id, int) or prior_image_token_id < 0:
                raise ValueError(f"prior_image_token_id must be a non-negative integer, got {prior_image_token_id!r}")
            if prior_image_token_id == image_token_id:
                raise ValueError(f"prior_image_token_id and image_token_id are the same, {image_token_id}")
            self.prior_image_token_id = prior_image_token_id
        if num_visual_tokens is not None:
            check_positive_integer("num_visual_tokens", num_visual_tokens)
        # Not `num_image_tokens`: a subclass may count with fields that it sets later.
        if self.visual_sequence_length < 1:
            raise ValueError(f"the vision encoder must make at least one token, got {self.visual_sequence_length}")
        if not __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            # The pipeline in the repository is for those who lack this package, which has its own.
            kwargs.pop("custom_pipelines", None)
        # Weights are tied inside the language model, as its own configuration says.
        kwargs.setdefault("tie_word_embeddings", getattr(self.text_config, "tie_word_embeddings", False))
        super().__init__(**keeping_attention(self, kwargs))

    @property
    def visual_sequence_length(self) -> int:
        """Visual tokens of one image, and of a study, since views are averaged."""
        if self.num_visual_tokens is not None:
            return self.num_visual_tokens
        return count_visual_tokens(self.vision_config)

    @property
    def image_patch_positions(self) -> list[int]:
        """Which image tokens of a study are patches, in the order of a square grid's rows.

        Raises:
            ValueError: as `patch_positions`.
        """
        return patch_positions(self.vision_config)

    @property
    def num_image_tokens(self) -> int:
        """Placeholders that one study takes in the prompt: the embeddings that the model's `fuse` makes."""
        return self.visual_sequence_length

    @property
    def num_prior_image_tokens(self) -> int:
        """Placeholders that the images of a prior study take in the prompt; 0 for a model that takes none."""
        return 0 if self.prior_image_token_id is None else self.visual_sequence_length


__all__ = ["MambaXrayConfig"]
