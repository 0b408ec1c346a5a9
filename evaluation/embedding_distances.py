"""How far visual embeddings lie from a language model's word embeddings (bidirectional learning, figure 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from .nearest_words import nearest_words

_EXTRA_NORMS = {"generated_embedding_norm": "E_g"}


@dataclass(frozen=True)
class EmbeddingDistances:
    """What a model's visual embeddings of a split are like.

    Attributes:
        name: of the model.
        distances: of each visual embedding, to the nearest word embedding, `(embeddings,)` in float32.
        norms: mean Euclidean norms by name: of the visual embeddings (`E_v`), of the word embeddings, and of the
            embeddings made of reports (`E_g`) where the model has the parts that make them.
        nearest: how many different words are the nearest one of some embedding.
    """

    name: str
    distances: Tensor
    norms: Mapping[str, float]
    nearest: int

    def summary(self) -> dict[str, float]:
        """Numbers of the distances: mean, median, and the quarters."""
        low, median, high = torch.quantile(self.distances.double(), torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
        return {"mean": self.distances.double().mean().item(), "median": median, "25 %": low, "75 %": high}


@torch.no_grad()
def embedding_distances(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    studies: Sequence[Mapping[str, Any]],
    *,
    name: str,
    batch_size: int = 8,
) -> EmbeddingDistances:
    """The smallest distance of each visual embedding of some studies to the language model's word embeddings.

    Embeddings of a batch are compared and dropped, so that memory does not grow with the studies but by a number for
    each embedding.

    Args:
        model: a report generator.
        processor: its processor.
        studies: of the package's schema; with `report` where the model has its training parts.
        name: what the model is called.
        batch_size: studies that are encoded at once.

    Raises:
        ValueError: there are no studies.
    """
    if not len(studies):
        raise ValueError("there are no studies to look at")
    model.eval()
    words: Any = model.get_input_embeddings().weight.detach()
    special = {*processor.tokenizer.all_special_ids}
    # A vocabulary is padded with rows that no token has, and special tokens are no words.
    kept = [index for index in range(min(len(words), len(processor.tokenizer))) if index not in special]
    words = words[torch.tensor(kept, device=words.device)]
    # What reports become is known where the parts that read them are there.
    with_reports = getattr(model, "text_encoder", None) is not None and bool(studies[0].get("report"))
    distances: list[Tensor] = []
    seen: set[int] = set()
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for start in range(0, len(studies), batch_size):
        some = [studies[index] for index in range(start, min(start + batch_size, len(studies)))]
        batch = processor.prepare_studies(some, with_reports=with_reports).to(model.device)
        inputs = {key: batch[key] for key in ("pixel_values", "view_mask", *model.study_inputs) if key in batch}
        features = model.get_image_features(**inputs)
        embeddings = torch.cat(list(features.pooler_output)).float()
        smallest, ids = nearest_words(embeddings, words)
        distances.append(smallest[:, 0].cpu())
        seen.update(ids.flatten().tolist())
        found = {"E_v": embeddings.norm(dim=1).mean().item()}
        metrics = features.metrics or {}
        found |= {shown: metrics[key].item() for key, shown in _EXTRA_NORMS.items() if key in metrics}
        for key, value in found.items():
            sums[key] = sums.get(key, 0.0) + len(some) * value
            counts[key] = counts.get(key, 0) + len(some)
    norms = {key: sums[key] / counts[key] for key in sums}
    norms["words"] = torch.stack([part.float().norm(dim=1).sum() for part in words.split(4096)]).sum().item() / len(
        words
    )
    return EmbeddingDistances(name, torch.cat(distances), norms, len(seen))


__all__ = ["EmbeddingDistances", "embedding_distances"]
