"""A system that is no part of mambaxray: what `docs/adding_a_system.md` builds, and the tests of the seams use.

Beside the image it shows the decoder two learned query tokens, which attend to the visual tokens and tell which of the
14 observations are present. It learns that from the labels, says it as evidence, recalls the most similar study that it
has seen, and adds a sentence about the view to the prompt.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from mambaxray import (
    Evidence,
    Family,
    ImageFeatures,
    MambaXrayConfig,
    MambaXrayForConditionalGeneration,
    MambaXrayProcessor,
    StudyInput,
    register_family,
)
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.modeling_mambaxray.layers.image_features import RelatedStudy

# 1 present, 0 absent, -1 not mentioned or uncertain, which the loss leaves out.
STUDY_INPUTS = {"finding_labels": StudyInput((len(OBSERVATIONS),), padding=-1, for_training_only=True)}


class QueryConfig(MambaXrayConfig):
    """With `num_queries` query tokens, which the decoder sees behind the visual tokens."""

    model_type = "outside_query"
    loss_names = ("report", "findings")

    def __init__(self, *args: Any, num_queries: int = 2, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.num_queries = num_queries

    @property
    def num_image_tokens(self) -> int:
        return self.visual_sequence_length + self.num_queries


class SeenStudies:
    """The mean visual token of some training studies, and their ids."""

    def __init__(self, study_ids: list[str], keys: Tensor):
        self.study_ids, self.keys = study_ids, keys

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"keys": self.keys.contiguous()}, folder / "keys.safetensors")
        (folder / "studies.json").write_text(json.dumps(self.study_ids), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "SeenStudies":
        study_ids = json.loads((folder / "studies.json").read_text(encoding="utf-8"))
        return cls(study_ids, load_file(folder / "keys.safetensors")["keys"])

    def most_similar(self, mean_token: Tensor) -> RelatedStudy:
        similarity = F.cosine_similarity(self.keys, mean_token.float().cpu(), dim=-1)
        best = int(similarity.argmax())
        return RelatedStudy(self.study_ids[best], similarity[best].item())


class QueryForConditionalGeneration(MambaXrayForConditionalGeneration):
    """The report generator with query tokens."""

    config_class = QueryConfig
    study_inputs = STUDY_INPUTS
    memory_class = SeenStudies

    def __init__(self, config: QueryConfig):
        super().__init__(config)
        hidden = config.vision_config.hidden_size
        self.queries = nn.Parameter(torch.empty(config.num_queries, hidden))
        self.classifier = nn.Linear(config.num_queries * hidden, len(OBSERVATIONS))
        self.register_buffer("scale", torch.tensor([hidden**-0.5]))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QueryForConditionalGeneration):
            init.normal_(module.queries, std=0.02)
            init.constant_(module.scale, self.config.vision_config.hidden_size**-0.5)

    def fuse(self, visual_tokens: Tensor, finding_labels: Tensor | None = None) -> ImageFeatures:
        tokens = visual_tokens.to(self.queries.dtype)
        weights = (self.scale * tokens @ self.queries.T).softmax(dim=1)
        queried = weights.mT @ tokens
        logits = self.classifier(queried.flatten(1))
        losses = {} if finding_labels is None else {"findings": _loss(logits, finding_labels)}
        features = super().fuse(torch.cat([tokens, queried], dim=1))
        return ImageFeatures(features.embeddings, losses, self._evidence(logits, visual_tokens))

    def _evidence(self, logits: Tensor, visual_tokens: Tensor) -> list[list[Evidence]]:
        found = []
        for probabilities, tokens in zip(logits.detach().sigmoid().tolist(), visual_tokens.detach(), strict=True):
            recalled = () if self.study_memory is None else (self.study_memory.most_similar(tokens.mean(dim=0)),)
            found.append([Evidence(o, p, None, recalled) for o, p in zip(OBSERVATIONS, probabilities, strict=True)])
        return found


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that are known of binary cross-entropies; 0 when none is."""
    known = labels >= 0
    losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits.dtype), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


class QueryProcessor(MambaXrayProcessor):
    """Tells the model the findings' labels, and names the views in the prompt."""

    study_inputs = STUDY_INPUTS

    def prompt_for(self, study: Mapping[str, Any], instruction: str | None = None) -> str:
        views = [view for view in study.get("views") or () if view]
        said = self.instruction_for(study) if instruction is None else instruction
        return super().prompt_for(study, f"{said} Views: {', '.join(views)}." if views else said)

    def study_inputs_for(self, study: Mapping[str, Any]) -> dict[str, Any]:
        labels = study.get("labels")
        if labels is None:
            return {}
        known = {None: -1.0, -1: -1.0}
        return {"finding_labels": [known.get(labels[name], labels[name]) for name in OBSERVATIONS]}


register_family(
    Family(
        config="outside_system:QueryConfig",
        model="outside_system:QueryForConditionalGeneration",
        auto_classes=("AutoModel", "AutoModelForImageTextToText"),
        processor="outside_system:QueryProcessor",
        stage="finetune",
        papers=("@misc{outside,\n  title = {Query tokens, as an example}\n}",),
    )
)
