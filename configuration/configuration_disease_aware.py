"""Configuration of the disease-aware dual-stage report generator."""

from typing import Any

from transformers import PreTrainedConfig

from .configuration_mambaxray import MambaXrayConfig
from .observations import OBSERVATIONS
from .study_inputs import StudyInput, StudyInputs

_FUSIONS = ("dvaf", "mean", "concatenation", "none")
_TRAINABLE = ("fusion", "projection")
_INDEX_KINDS = ("exact", "ivf", "hnsw")

EXEMPLAR_INPUTS: StudyInputs = {
    "exemplar_row": StudyInput((), padding=-1, dtype="int64"),
    "exemplar_similarities": StudyInput((2,)),
}
"""What a study hands the model beside its images and prompt: the row of the memory whose report is in the prompt, -1
for none, and its visual and its disease similarity."""


class DiseaseAwareConfig(MambaXrayConfig):
    """What a `DiseaseAwareForConditionalGeneration` is made of.

    Args:
        vision_config, text_config, image_token_id, num_visual_tokens, projector_layer_norm_eps, loss_weights,
            separate_parts: as in `MambaXrayConfig`. The paper's vision encoder is a VMamba.
        query_hidden_size, query_attention_heads, query_dropout: of the disease-aware semantic tokens (DASTs), as in
            `DiseaseAwarePreTrainingConfig`; those of stage 1.
        fusion: what is appended to the visual tokens: `"dvaf"`, the paper's one fusion token; `"mean"`, the mean of the
            diseases' features; `"concatenation"`, all of them; `"none"`, nothing (tables 4 and 5).
        fusion_attention_heads: heads of the fusion's attentions; ours, since the paper states none.
        trainable: `"fusion"` trains the fusion, the projection and their norms; `"projection"`, the paper's words,
            trains the projection and its norm alone, so that the fusion stays as it was drawn at random. What stage 1
            trained is frozen in either case; the language model is what the recipe says.
        exemplars: whether a retrieved report stands in the prompt (DMSR). Such a model refuses prompts of which nobody
            has said what was retrieved for them.
        training_exemplars: of how many most similar studies one is drawn for each training study; ours, the paper takes
            the most similar one.
        retrieval_weight: the paper's lambda, of the visual similarity; ours, since the paper states none. It can be
            changed at any time.
        retrieval_index: `"exact"`, `"ivf"` or `"hnsw"`; the last two are approximate and need faiss.

    Raises:
        TypeError: a sub-configuration is neither a configuration nor a dict.
        ValueError: a value is out of range.

    Source: the dual-stage paper, sections III-B to III-D.
    """

    model_type = "disease_aware"

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        *args: Any,
        query_hidden_size: int = 768,
        query_attention_heads: int = 12,
        query_dropout: float = 0.1,
        fusion: str = "dvaf",
        fusion_attention_heads: int = 8,
        trainable: str = "fusion",
        exemplars: bool = True,
        training_exemplars: int = 1,
        retrieval_weight: float = 0.5,
        retrieval_index: str = "exact",
        **kwargs: Any,
    ):
        super().__init__(vision_config, *args, **kwargs)
        self.query_hidden_size = query_hidden_size
        self.query_attention_heads = query_attention_heads
        self.query_dropout = query_dropout
        self.fusion = fusion
        self.fusion_attention_heads = fusion_attention_heads
        self.trainable = trainable
        self.exemplars = exemplars
        self.training_exemplars = training_exemplars
        self.retrieval_weight = retrieval_weight
        self.retrieval_index = retrieval_index
        if fusion not in _FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(_FUSIONS)}, got {fusion!r}")
        if trainable not in _TRAINABLE:
            raise ValueError(f"trainable must be one of {', '.join(_TRAINABLE)}, got {trainable!r}")
        if retrieval_index not in _INDEX_KINDS:
            raise ValueError(f"retrieval_index must be one of {', '.join(_INDEX_KINDS)}, got {retrieval_index!r}")
        if training_exemplars < 1:
            raise ValueError(f"training_exemplars must be positive, got {training_exemplars!r}")
        if not 0 <= retrieval_weight <= 1:
            raise ValueError(f"retrieval_weight must be between 0 and 1, got {retrieval_weight!r}")

    @property
    def num_fusion_tokens(self) -> int:
        """Tokens that stand behind the visual tokens."""
        return {"dvaf": 1, "mean": 1, "concatenation": len(OBSERVATIONS), "none": 0}[self.fusion]

    @property
    def num_image_tokens(self) -> int:
        return self.visual_sequence_length + self.num_fusion_tokens


__all__ = ["EXEMPLAR_INPUTS", "DiseaseAwareConfig"]
