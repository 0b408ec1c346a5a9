"""The disease-aware dual-stage report generator: features of diseases fused with the image, and a retrieved report."""

import functools
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ..configuration.configuration_disease_aware import EXEMPLAR_INPUTS, DiseaseAwareConfig
from ..configuration.observations import OBSERVATIONS
from ..configuration.vision_tokens import patch_positions, visual_width
from .layers.disease_queries import DiseaseQueries, DiseaseQueriesOutput
from .layers.disease_visual_fusion import AllFeatures, DiseaseVisualFusion, MeanFeature
from .layers.exemplar_retriever import ExemplarRetriever, Exemplars, exemplar_table
from .layers.image_features import Evidence, ImageFeatures, RelatedStudy
from .layers.retrieval_keys import retrieval_keys
from .layers.study_memories import StudyMemoriesMixin
from .layers.study_memory import StudyMemory
from .modeling_mambaxray import MambaXrayForConditionalGeneration

_MEMORY = "retrieval"
_STAGE1 = "disease_aware_pretraining"
_logger = logging.getLogger(__name__)


class DiseaseAwareForConditionalGeneration(StudyMemoriesMixin, MambaXrayForConditionalGeneration):
    """Writes a report from visual tokens, what disease-aware semantic tokens (DASTs) find in them, and the report of
    the most similar training study.

    The DASTs are stage 1's. Their features and the visual tokens become one more image token (DVAF). A similar study is
    looked up in a memory by image and by disease logits (DMSR) before the prompt is written (`recall`), and its report
    stands in the prompt. What stage 1 trained is frozen, as is the fusion with `trainable="projection"`.

    Attributes:
        disease_queries: the DASTs.
        fusion: what makes further image tokens of their features; None with `fusion="none"`.

    Source: the dual-stage paper, sections III-B to III-D.
    """

    config_class = DiseaseAwareConfig
    study_inputs = EXEMPLAR_INPUTS
    parts_that_can_freeze = ("vision_encoder", "disease_queries")

    def __init__(self, config: DiseaseAwareConfig):
        super().__init__(config)
        width = visual_width(config.vision_config)
        self.disease_queries = DiseaseQueries.as_semantic_tokens(config, width, len(OBSERVATIONS))
        self.fusion = _fusion(config, width)
        self._retriever: ExemplarRetriever | None = None
        self._freeze_stage1()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DiseaseQueries):
            init.normal_(module.queries, std=module.qformer.config.initializer_range)

    def _freeze_stage1(self) -> None:
        frozen = [self.vision_encoder, self.disease_queries]
        if self.config.trainable == "projection" and self.fusion is not None:
            frozen.append(self.fusion)
        for part in frozen:
            part.requires_grad_(False)

    def start_from_stage1(self, stage1: PreTrainedModel) -> None:
        """Takes the DASTs of a `DiseaseAwareForPreTraining`, and its vision encoder's weights.

        Raises:
            ValueError: it is another model, or one of other sizes.
        """
        if stage1.config.model_type != _STAGE1:
            raise ValueError(
                f"{type(self).__name__} starts from a {_STAGE1} model, got a {stage1.config.model_type} model"
            )
        for name in ("query_hidden_size", "query_attention_heads", "query_dropout"):
            own, other = getattr(self.config, name), getattr(stage1.config, name)
            if own != other:
                raise ValueError(f"its {name} is {other}, this model's {own}: give it as a field of the configuration")
        names = tuple(stage1.config.id2label.values())
        if names != OBSERVATIONS:
            raise ValueError(f"its observations must be {', '.join(OBSERVATIONS)}, got {', '.join(names)}")
        for name in ("vision_encoder", "disease_queries"):
            try:
                getattr(self, name).load_state_dict(getattr(stage1, name).state_dict())
            except RuntimeError as error:
                raise ValueError(f"its {name} does not fit: {error}") from error

    # Fusion

    def fuse(
        self,
        visual_tokens: Tensor,
        exemplar_row: Tensor | None = None,
        exemplar_similarities: Tensor | None = None,
    ) -> ImageFeatures:
        """As in the base class, with the fusion's tokens behind the visual tokens and with evidence: of each disease
        the probability, where its DAST looked, and the study whose report is in the prompt.

        Raises:
            ValueError: nobody has said which exemplars are in the prompts.
        """
        if self.config.exemplars and exemplar_row is None:
            raise ValueError(
                f"{type(self).__name__} writes from prompts that hold a retrieved report, and these were written "
                "without looking any up: prepare studies with prepare_for_generation(model, processor, studies), which "
                "the pipeline, the commands and evaluate_model do by themselves, or set config.exemplars to False"
            )
        tokens = visual_tokens.to(self.disease_queries.queries.dtype)
        is_explained = not (self.training or torch.compiler.is_compiling())
        diseases = self.disease_queries(tokens, output_attentions=is_explained)
        fused = visual_tokens
        if self.fusion is not None:
            tokens = visual_tokens.to(self.projector.weight.dtype)
            further = self.fusion(diseases.last_hidden_state.to(tokens.dtype), tokens)
            fused = torch.cat([tokens, further], dim=1)
        features = super().fuse(fused)
        if is_explained:
            features.evidence = self._evidence(diseases, exemplar_row, exemplar_similarities)
        return features

    def _evidence(
        self, diseases: DiseaseQueriesOutput, rows: Tensor | None, similarities: Tensor | None
    ) -> list[list[Evidence]]:
        """For each study, of each disease."""
        probabilities = diseases.logits.detach().float().sigmoid().tolist()
        # The mean over the heads, (batch, diseases, tokens).
        maps = self._maps(diseases.cross_attentions[-1].detach().float().mean(dim=1))
        exemplars = self._exemplars_shown(rows, similarities) or [()] * len(probabilities)
        return [
            [Evidence(*each, studies) for each in zip(OBSERVATIONS, of_study, where, strict=True)]
            for of_study, where, studies in zip(probabilities, maps, exemplars, strict=True)
        ]

    def _maps(self, attention: Tensor) -> Any:
        """`(batch, diseases, rows, columns)` of attention to all visual tokens; None each where they form no grid."""
        try:
            patches = patch_positions(self.config.vision_config)
        except ValueError:
            return [[None] * attention.shape[1]] * len(attention)
        side = math.isqrt(len(patches))
        return attention[..., patches].unflatten(-1, (side, side))

    def _exemplars_shown(self, rows: Tensor | None, similarities: Tensor | None) -> list[tuple[RelatedStudy, ...]]:
        """The study of each prompt's exemplar; empty where nothing is known of it."""
        if rows is None or self.study_memory is None:
            return []
        memory, weight = self.study_memory[_MEMORY], self.config.retrieval_weight
        found = [(0.0, 0.0)] * len(rows) if similarities is None else similarities.tolist()
        return [
            ()
            if row < 0
            else (
                RelatedStudy(
                    memory.study_ids[row],
                    weight * visual + (1 - weight) * disease,
                    None if memory.reports is None else memory.reports[row],
                    similarities={"visual": visual, "disease": disease},
                ),
            )
            for row, (visual, disease) in zip(rows.tolist(), found, strict=True)
        ]

    # Retrieval

    @property
    def memory_vectors(self) -> Mapping[str, Mapping[str, int]]:
        """The retrieval memory, where prompts hold exemplars."""
        if not self.config.exemplars:
            return {}
        widths = {"visual": visual_width(self.config.vision_config), "disease": len(OBSERVATIONS)}
        return {_MEMORY: widths}

    def set_memories(self, memories: Mapping[str, StudyMemory]) -> None:
        """As in the base class; the memory must hold reports."""
        super().set_memories(memories)
        if _MEMORY in memories and memories[_MEMORY].reports is None:
            self.study_memory = None
            raise ValueError(f"the memory {_MEMORY} holds no reports, so there is nothing to put into a prompt")

    @property
    def retriever(self) -> ExemplarRetriever:
        """Of the model's memory, with the configuration's weight. The index is built when it is first asked for.

        Raises:
            ValueError: there is no memory.
        """
        if self.study_memory is None:
            raise ValueError(_WITHOUT_MEMORY)
        memory = self.study_memory[_MEMORY]
        if self._retriever is None or self._retriever.memory is not memory:
            self._retriever = ExemplarRetriever(memory, index=self.config.retrieval_index)
        self._retriever.weight = self.config.retrieval_weight
        return self._retriever

    @property
    def recalls(self) -> bool:
        return self.config.exemplars

    @torch.no_grad()
    def recall(self, visual_tokens: Tensor, studies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each study's `exemplar`: a dict of the `report` that goes into its prompt, its `row` in the memory, its
        `study_id`, and its `visual` and `disease` similarity. Never one of the study itself or of its patient.

        Without a memory, which a model from the Hub does not have, it is None, which is warned of. A study that has an
        `exemplar` keeps it.

        Args:
            visual_tokens: `(batch, tokens, vision_hidden)`.
            studies: their `study_id` and `patient_id`, where they have any.
        """
        if self.study_memory is None:
            _warn_once(_WITHOUT_MEMORY)
            return [{"exemplar": study.get("exemplar")} for study in studies]
        logits = self.disease_queries(visual_tokens.to(self.disease_queries.queries.dtype)).logits
        ids, patients = ([study.get(name) for study in studies] for name in ("study_id", "patient_id"))
        keys = retrieval_keys(visual_tokens, logits)
        found = self.retriever.search(keys["visual"], keys["disease"], ids, patients)
        return [
            {"exemplar": study["exemplar"]} if "exemplar" in study else self._recalled(found, query)
            for query, study in enumerate(studies)
        ]

    def recall_for_training(self, studies: Sequence[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any] | None]:
        """The same for training studies from their own vectors in the memory, so that no image is looked at; None for
        a study that is not in it.

        It is the most similar one, or one of `config.training_exemplars` that the seed and the study's id choose.
        """
        count = self.config.training_exemplars
        table = exemplar_table(self.retriever, count, [study["study_id"] for study in studies])
        recalled: list[dict[str, Any] | None] = []
        for study in studies:
            name = study["study_id"]
            found = table.get(name)
            recalled.append(None if found is None else self._recalled(found, 0, _draw(seed, name, count)))
        return recalled

    def _recalled(self, found: Exemplars, query: int, rank: int = 0) -> dict[str, Any]:
        memory = self.retriever.memory
        row = int(found.rows[query, rank])
        exemplar = {"report": memory.reports[row], "row": row, "study_id": memory.study_ids[row]}
        exemplar |= {name: float(getattr(found, name)[query, rank]) for name in ("visual", "disease")}
        return {"exemplar": exemplar}


_WITHOUT_MEMORY = (
    "this model was trained with retrieved reports in its prompts, and its memory is not here, as for every model from "
    "the Hub: give it one with --memory retrieval=FOLDER, or model.set_memories({'retrieval': "
    "StudyMemory.from_pretrained(FOLDER)})"
)


@functools.cache
def _warn_once(message: str) -> None:
    _logger.warning("%s; reports are written without retrieved ones, and are worse for it", message)


def _fusion(config: DiseaseAwareConfig, width: int) -> nn.Module | None:
    features = config.query_hidden_size
    if config.fusion == "dvaf":
        return DiseaseVisualFusion(width, features, config.fusion_attention_heads)
    other = {"mean": MeanFeature, "concatenation": AllFeatures}.get(config.fusion)
    return None if other is None else other(width, features)


def _draw(seed: int, study_id: str, count: int) -> int:
    """A number below `count` that the seed and the study decide, in every process and order alike."""
    digest = hashlib.blake2b(f"{seed} {study_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % count


__all__ = ["DiseaseAwareForConditionalGeneration"]
