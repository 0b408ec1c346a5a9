"""AM-MRG, stage 2: a report generator with disease queries that recall from memories of training studies."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init

from ..configuration.configuration_ammrg import MEMORIES, AMMRGConfig
from ..configuration.observations import OBSERVATIONS
from ..configuration.vision_tokens import patch_positions, visual_width
from .layers.disease_queries import DiseaseQueries, DiseaseQueriesOutput
from .layers.hopfield import HopfieldAssociation, HopfieldProjection
from .layers.image_features import Evidence, ImageFeatures, RelatedStudy
from .layers.study_memories import StudyMemoriesMixin
from .layers.study_memory import StudyMemory
from .modeling_mambaxray import MambaXrayForConditionalGeneration


class MemoryAssociations(nn.Module):
    """A Hopfield association for each memory of a model, `visual` and `report`, with the memories as it reads them.

    Args:
        config: the model's.
    """

    def __init__(self, config: AMMRGConfig):
        super().__init__()
        for name, size in config.memory_sizes.items():
            association = HopfieldAssociation(
                config.query_hidden_size,
                size,
                num_heads=config.hopfield_heads,
                head_size=config.hopfield_head_size,
                value_size=config.hopfield_value_size,
                beta=config.hopfield_beta,
                update_steps=config.hopfield_update_steps,
            )
            self.add_module(name, association)
        self._banks: dict[str, tuple[StudyMemory, Tensor]] = {}

    def forward(
        self, states: Tensor, memories: Mapping[str, StudyMemory], output_weights: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Recalls from each memory.

        Args:
            states: `(batch, diseases, width)`.
            memories: one for each association, with `vectors["values"]`.
            output_weights: whether to return how much of each row is recalled.

        Returns:
            By memory what is recalled, `(batch, diseases, width)`, and the weights `(batch, heads, diseases, rows)`.
        """
        recalled, weights = {}, {}
        for name, memory in memories.items():
            association = self.get_submodule(name)
            bank = self.bank(name, memory, states.device)
            recalled[name], found = association(states, bank, output_weights=output_weights, are_standardized=True)
            if found is not None:
                weights[name] = found
        return recalled, weights

    def bank(self, name: str, memory: StudyMemory, device: torch.device) -> Tensor:
        """The vectors of a memory `(rows, width)`, standardized, on a device and in the dtype that its association
        needs.

        They depend on no weight, so they are kept until the memory, the device or the dtype is another one.
        """
        association = self.get_submodule(name)
        dtype = association.k_proj.weight.dtype
        kept, bank = self._banks.get(name, (None, None))
        if kept is not memory or bank.device != device or bank.dtype != dtype:
            # What is made in inference mode could never be trained with.
            with torch.inference_mode(False), torch.no_grad():
                exact = memory.vectors["values"].to(device)
                bank = F.layer_norm(exact, exact.shape[-1:], eps=association.layer_norm_eps).to(dtype)
            self._banks[name] = (memory, bank)
        return bank


class AMMRGForConditionalGeneration(StudyMemoriesMixin, MambaXrayForConditionalGeneration):
    """A report generator that shows the decoder, behind the image, what it knows of each disease.

    A Q-Former with one query per disease looks at the visual tokens. What a query finds recalls from two memories of
    training studies, one of image regions and one of reports, by a Hopfield association each. The decoder reads
    `[image | queries | recalled regions | recalled reports]`: 197 + 14 + 14 + 14 tokens for 224 px.

    The memories are not weights. They are saved in the folder of the model that is never pushed by default; a model
    without them writes no reports (`MissingMemoryError`).

    Attributes:
        num_recalled_studies: how many rows of each memory the evidence names for a disease.

    Source: AM-MRG, section III, stage 2.
    """

    config_class = AMMRGConfig
    projection_parts = ("qformer_projection", "output_projection", "projector", "layer_norm")
    parts_that_can_freeze = ("vision_encoder", "disease_queries")
    num_recalled_studies = 3

    def __init__(self, config: AMMRGConfig):
        super().__init__(config)
        width = visual_width(config.vision_config)
        to_queries = config.encoder_hidden_size
        self.qformer_projection = None if to_queries is None else nn.Linear(width, to_queries)
        self.disease_queries = DiseaseQueries.as_qformer(
            config,
            width if to_queries is None else to_queries,
            config.num_queries,
            classify=config.queries_from_stage1,
        )
        self.associations = MemoryAssociations(config)
        self.output_projection = nn.Linear(config.query_hidden_size, width)
        if config.queries_from_stage1:
            for part in (self.disease_queries, self.qformer_projection):
                if part is not None:
                    part.requires_grad_(False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, HopfieldProjection):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
            return
        super()._init_weights(module)
        if isinstance(module, DiseaseQueries):
            init.normal_(module.queries, std=module.qformer.config.initializer_range)

    @classmethod
    def for_released_weights(cls, weights: Mapping[str, Tensor]) -> tuple[type[Self], dict[str, Any]]:
        """All sizes but those of heads, which are the released ones (12 in the Q-Former, 6 in each recall)."""
        layer = "disease_queries.qformer.encoder.layer."
        heads = 6
        core = next(
            (f"associations.{name}." for name in MEMORIES if f"associations.{name}.q_proj.weight" in weights), None
        )
        fields: dict[str, Any] = {
            "query_hidden_size": weights["disease_queries.queries"].shape[-1],
            "query_intermediate_size": weights[f"{layer}0.intermediate_query.dense.weight"].shape[0],
            "query_hidden_layers": 1
            + max(int(name.removeprefix(layer).split(".")[0]) for name in weights if name.startswith(layer)),
            "encoder_hidden_size": weights["qformer_projection.weight"].shape[0],
        }
        for name in MEMORIES:
            keys = weights.get(f"associations.{name}.k_proj.weight")
            fields[f"{name}_memory_size"] = None if keys is None else keys.shape[1]
        if core is not None:
            fields |= {
                "hopfield_heads": heads,
                "hopfield_head_size": weights[f"{core}q_proj.weight"].shape[0] // heads,
                "hopfield_value_size": weights[f"{core}v_proj.weight"].shape[0] // heads,
            }
        return cls, fields

    # ------------------------------------------------------------------------------------ stage 1 and memories

    @classmethod
    def fields_from_stage1(cls, stage1: PreTrainedModel) -> dict[str, Any]:
        """The sizes of its disease queries."""
        queries = _queries_of(stage1)
        sizes = queries.qformer.config
        projection = getattr(stage1, "qformer_projection", None)
        return {
            "query_hidden_size": sizes.hidden_size,
            "query_hidden_layers": sizes.num_hidden_layers,
            "query_attention_heads": sizes.num_attention_heads,
            "query_intermediate_size": sizes.intermediate_size,
            "query_dropout": sizes.hidden_dropout_prob,
            "cross_attention_frequency": sizes.cross_attention_frequency,
            "encoder_hidden_size": None if projection is None else sizes.encoder_hidden_size,
            "queries_from_stage1": True,
        }

    def start_from_stage1(self, stage1: PreTrainedModel) -> None:
        """Takes over the disease queries, their Q-Former, projection and classifier, which are frozen here.

        Raises:
            ValueError: stage 1 has no disease queries, or its sizes are not those of this model's configuration.
        """
        if not self.config.queries_from_stage1:
            raise ValueError("queries_from_stage1 is false, so the disease queries start anew: leave stage 1 out")
        parts = {"disease_queries": _queries_of(stage1)}
        if self.qformer_projection is not None:
            parts["qformer_projection"] = stage1.qformer_projection
        for name, part in parts.items():
            own = getattr(self, name)
            shapes = {key: tuple(weight.shape) for key, weight in own.state_dict().items()}
            for key, weight in part.state_dict().items():
                if shapes.get(key) != tuple(weight.shape):
                    raise ValueError(
                        f"{name}.{key} of stage 1 is {tuple(weight.shape)}, this model's {shapes.get(key)}: the two "
                        "need the same sizes and vision encoders of the same width"
                    )
            own.load_state_dict(part.state_dict())

    @classmethod
    def fields_from_memories(cls, memories: Mapping[str, StudyMemory]) -> dict[str, Any]:
        """The width of each."""
        values = {name: memories[name].vectors.get("values") for name in MEMORIES if name in memories}
        return {f"{name}_memory_size": found.shape[1] for name, found in values.items() if found is not None}

    @property
    def memory_vectors(self) -> Mapping[str, Mapping[str, int]]:
        return {name: {"values": size} for name, size in self.config.memory_sizes.items()}

    # ------------------------------------------------------------------------------------------ the middle

    def fuse(self, visual_tokens: Tensor) -> ImageFeatures:
        """From visual tokens `(batch, tokens, vision_hidden)` to `(batch, config.num_image_tokens, llm_hidden)`.

        Evidence is given outside of training: the probability of each disease, where stage 1 has learned the queries;
        a map of their cross-attention to the image, the mean over layers and heads; and the rows of each memory that
        are recalled most, weights the mean over heads.

        Raises:
            MissingMemoryError: the model has not the memories that its configuration says.
        """
        tokens = visual_tokens.to(self.output_projection.weight.dtype)
        is_explained = not (self.training or torch.compiler.is_compiling())
        found = self.disease_queries(
            tokens if self.qformer_projection is None else self.qformer_projection(tokens),
            output_attentions=is_explained,
        )
        states = found.last_hidden_state
        memories = {name: self.memory(name) for name in self.config.memory_sizes}
        recalled, weights = self.associations(states, memories, output_weights=is_explained)
        blocks = [states, *recalled.values()]
        # (batch, diseases, blocks, width) or (batch, blocks, diseases, width)
        shown = torch.stack(blocks, dim=2 if self.config.token_order == "interleaved" else 1).flatten(1, 2)
        features = super().fuse(torch.cat([tokens, self.output_projection(shown)], dim=1))
        if is_explained:
            features.evidence = self._evidence(found, weights)
        return features

    @torch.no_grad()
    def _evidence(self, found: DiseaseQueriesOutput, weights: Mapping[str, Tensor]) -> list[list[Evidence]]:
        batch, diseases = found.last_hidden_state.shape[:2]
        probabilities = [[None] * diseases] * batch if found.logits is None else found.logits.sigmoid().tolist()
        maps = self._maps(found.cross_attentions)
        recalled = {name: self._most_recalled(name, of_memory) for name, of_memory in weights.items()}
        return [
            [
                Evidence(
                    observation,
                    probabilities[study][disease],
                    None if maps is None else maps[study, disease],
                    tuple(related for of_memory in recalled.values() for related in of_memory[study][disease]),
                )
                for disease, observation in enumerate(OBSERVATIONS)
            ]
            for study in range(batch)
        ]

    def _maps(self, attentions: tuple[Tensor, ...]) -> Tensor | None:
        """Each query's attention to the patches `(batch, diseases, rows, columns)`; None where they form no square."""
        try:
            patches = patch_positions(self.config.vision_config)
        except ValueError:
            return None
        # Layers without cross-attention give none.
        layers = [layer.float() for layer in attentions if layer is not None and layer.numel()]
        attended = torch.stack(layers).mean(dim=(0, 2))[..., patches]
        side = round(len(patches) ** 0.5)
        return attended.unflatten(-1, (side, side)).cpu()

    def _most_recalled(self, name: str, weights: Tensor) -> list[list[list[RelatedStudy]]]:
        """By study and disease, the rows of a memory with the largest of weights `(batch, heads, diseases, rows)`."""
        memory = self.memory(name)
        best = weights.float().mean(dim=1).topk(min(self.num_recalled_studies, len(memory)))
        return [
            [
                [
                    RelatedStudy(
                        memory.study_ids[row],
                        weight,
                        None if memory.reports is None else memory.reports[row],
                        name,
                        memory.observations[row],
                    )
                    for row, weight in zip(*of_disease, strict=True)
                ]
                for of_disease in zip(*of_study, strict=True)
            ]
            for of_study in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def _queries_of(stage1: PreTrainedModel) -> DiseaseQueries:
    queries = getattr(stage1, "disease_queries", None)
    if not isinstance(queries, DiseaseQueries) or not queries.is_whole_qformer:
        raise ValueError(f"a {type(stage1).__name__} has no Q-Former with disease queries, as AM-MRG's stage 1 has")
    return queries


__all__ = ["AMMRGForConditionalGeneration"]
