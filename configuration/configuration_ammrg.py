"""Configuration of AM-MRG: a report generator with disease queries and memories that they recall from."""

from typing import Any

from .configuration_mambaxray import MambaXrayConfig
from .observations import OBSERVATIONS
from .value_checks import check_positive_integer

TOKEN_ORDERS = ("blocks", "interleaved")
MEMORIES = ("visual", "report")


class AMMRGConfig(MambaXrayConfig):
    r"""What an `AMMRGForConditionalGeneration` is made of.

    The defaults are the sizes of the released code, for a large vision Mamba.

    Args:
        query_hidden_size: width of the disease queries.
        query_hidden_layers: layers of their Q-Former.
        query_attention_heads: its heads.
        query_intermediate_size: width of its feed-forward.
        query_dropout: of its hidden states and attention weights, in training.
        cross_attention_frequency: it attends to the image in its first layer and every N-th after it.
        encoder_hidden_size: width to which the visual tokens are projected for the Q-Former; None for none, where it
            attends to them as they are.
        queries_from_stage1: whether the disease queries were learned in stage 1 (`AMMRGForDiseaseClassification`). They
            are then frozen with their Q-Former, and their classifier, kept, gives probabilities as evidence. Set by
            `start_from_stage1`.
        visual_memory_size: width of the vectors in the visual memory; None for a model without that memory.
        report_memory_size: width of the vectors in the report memory, 4,096 for reports encoded by a language model of
            7 billion parameters; None for a model without that memory.
        hopfield_heads: heads of the recall from each memory.
        hopfield_head_size: width of queries and keys, of each head.
        hopfield_value_size: width of the values, of each head.
        hopfield_beta: inverse temperature of the recall.
        hopfield_update_steps: updates of the queries before the recall; until convergence when negative.
        token_order: of the tokens behind the image's: `"blocks"`, all queries, then all of the visual memory, then all
            of the report memory; or `"interleaved"`, the two or three tokens of each disease side by side.
        kwargs: the fields of `MambaXrayConfig`.

    Raises:
        ValueError: a value is out of its range.

    Source: AM-MRG, section III, and its released code, which has the sizes, `"blocks"`, and queries that start anew;
    `"interleaved"` is equations 8 and 9.
    """

    model_type = "ammrg"

    def __init__(
        self,
        *args: Any,
        query_hidden_size: int = 768,
        query_hidden_layers: int = 12,
        query_attention_heads: int = 12,
        query_intermediate_size: int = 3072,
        query_dropout: float = 0.1,
        cross_attention_frequency: int = 2,
        encoder_hidden_size: int | None = 1408,
        queries_from_stage1: bool = False,
        visual_memory_size: int | None = 768,
        report_memory_size: int | None = 768,
        hopfield_heads: int = 6,
        hopfield_head_size: int = 1024,
        hopfield_value_size: int = 768,
        hopfield_beta: float = 4.0,
        hopfield_update_steps: int = 0,
        token_order: str = "blocks",
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.query_hidden_size = query_hidden_size
        self.query_hidden_layers = query_hidden_layers
        self.query_attention_heads = query_attention_heads
        self.query_intermediate_size = query_intermediate_size
        self.query_dropout = query_dropout
        self.cross_attention_frequency = cross_attention_frequency
        self.encoder_hidden_size = encoder_hidden_size
        self.queries_from_stage1 = queries_from_stage1
        self.visual_memory_size = visual_memory_size
        self.report_memory_size = report_memory_size
        self.hopfield_heads = hopfield_heads
        self.hopfield_head_size = hopfield_head_size
        self.hopfield_value_size = hopfield_value_size
        self.hopfield_beta = hopfield_beta
        self.hopfield_update_steps = hopfield_update_steps
        self.token_order = token_order
        for name in (
            "query_hidden_size",
            "query_hidden_layers",
            "query_attention_heads",
            "query_intermediate_size",
            "cross_attention_frequency",
            "encoder_hidden_size",
            "visual_memory_size",
            "report_memory_size",
            "hopfield_heads",
            "hopfield_head_size",
            "hopfield_value_size",
        ):
            value = getattr(self, name)
            if value is not None or name not in ("encoder_hidden_size", "visual_memory_size", "report_memory_size"):
                check_positive_integer(name, value)
        if not 0 <= query_dropout < 1:
            raise ValueError(f"query_dropout must be at least 0 and below 1, got {query_dropout!r}")
        if not hopfield_beta > 0:
            raise ValueError(f"hopfield_beta must be positive, got {hopfield_beta!r}")
        if query_hidden_size % query_attention_heads:
            raise ValueError(
                f"query_hidden_size {query_hidden_size} is not a multiple of the {query_attention_heads} "
                "query_attention_heads"
            )
        if token_order not in TOKEN_ORDERS:
            raise ValueError(f"token_order must be one of {', '.join(TOKEN_ORDERS)}, got {token_order!r}")

    @property
    def num_queries(self) -> int:
        """One per observation of CheXpert."""
        return len(OBSERVATIONS)

    @property
    def memory_sizes(self) -> dict[str, int]:
        """Width of each memory that the model looks up, by its name, `"visual"` or `"report"`."""
        sizes = {name: getattr(self, f"{name}_memory_size") for name in MEMORIES}
        return {name: size for name, size in sizes.items() if size is not None}

    @property
    def num_image_tokens(self) -> int:
        """Placeholders of one study: visual tokens, and for each disease its query and what each memory recalls."""
        return self.visual_sequence_length + self.num_queries * (1 + len(self.memory_sizes))


__all__ = ["MEMORIES", "AMMRGConfig"]
