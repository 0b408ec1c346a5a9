"""The most similar studies of a memory, by image and by diseases."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .study_memory import StudyMemory

INDEX_KINDS = ("exact", "ivf", "hnsw")
# Products of queries and rows that the search without faiss makes at a time.
_PRODUCTS = 2**24


@dataclass(frozen=True)
class Exemplars:
    """The rows that were found for each query, the most similar first.

    Attributes:
        rows: `(queries, k)`, indices into the memory.
        scores: `(queries, k)`, `weight * visual + (1 - weight) * disease`.
        visual: `(queries, k)`, cosines of the visual vectors.
        disease: `(queries, k)`, cosines of the disease vectors.
    """

    rows: Tensor
    scores: Tensor
    visual: Tensor
    disease: Tensor


class ExemplarRetriever:
    r"""Finds a memory's most similar rows, never of the query's own study or patient.

    The similarity is one inner product: with `v` and `d` the visual and disease vectors at length 1,

        weight cos(v, v') + (1 - weight) cos(d, d') = [weight v; (1 - weight) d] . [v'; d'],

    the paper's product of `[sqrt(weight) v; sqrt(1 - weight) d]`s. As the weight is on the query alone, one index
    serves every weight.

    Args:
        memory: with `vectors["visual"]` (mean visual tokens) and `vectors["disease"]` (disease logits).
        weight: the paper's lambda, of the visual similarity; ours, since the paper states none.
        index: "exact"; "ivf" and "hnsw" are approximate and need faiss.
        use_faiss: whether an exact search is faiss', too, which finds the same. The product of PyTorch is faster where
            faiss comes with a slow BLAS, as in its wheels (docs/layers.md has the times).

    Raises:
        ImportError: faiss is needed and not installed.
        ValueError: the weight is not between 0 and 1, the index is unknown, or the memory lacks the vectors.

    Source: the dual-stage paper, equation 8 (DMSR).
    """

    def __init__(self, memory: StudyMemory, weight: float = 0.5, *, index: str = "exact", use_faiss: bool = False):
        if index not in INDEX_KINDS:
            raise ValueError(f"index must be one of {INDEX_KINDS}, got {index!r}")
        missing = {"visual", "disease"} - memory.vectors.keys()
        if missing:
            raise ValueError(
                f"the memory has no vectors {', '.join(sorted(missing))}; it has {', '.join(memory.vectors)}"
            )
        self.memory, self.weight = memory, weight
        self._keys = torch.cat([_unit(memory.vectors["visual"]), _unit(memory.vectors["disease"])], dim=1)
        self._visual_width = memory.vectors["visual"].shape[1]
        self._rows_of_study, self._rows_of_patient = _positions(memory.study_ids), _positions(memory.patient_ids)
        self._index = _build_index(self._keys, index) if use_faiss or index != "exact" else None

    @property
    def weight(self) -> float:
        """Of the visual similarity, the paper's lambda; it can be changed at any time."""
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"weight must be between 0 and 1, got {value!r}")
        self._weight = float(value)

    def search(
        self,
        visual: Tensor,
        disease: Tensor,
        study_ids: Sequence[str | None],
        patient_ids: Sequence[str | None],
        k: int = 1,
    ) -> Exemplars:
        """The `k` most similar rows of each query among those of other studies and other patients.

        Args:
            visual: mean visual tokens, `(queries, width)`.
            disease: disease logits, `(queries, diseases)`.
            study_ids: study of each query; None where it has none, so that nothing is excluded by it.
            patient_ids: patient of each query, likewise.
            k: how many rows. With several rows per study, such as its views, a study can be found more than once.

        Raises:
            ValueError: shapes do not fit, or there are fewer than `k` rows of other studies and patients.
        """
        if not 1 <= k <= len(self.memory):
            raise ValueError(f"k must be between 1 and the memory's {len(self.memory)} rows, got {k}")
        widths = self._visual_width, self._keys.shape[1] - self._visual_width
        count = len(study_ids)
        for name, given, width in (("visual", visual, widths[0]), ("disease", disease, widths[1])):
            if tuple(given.shape) != (count, width):
                raise ValueError(
                    f"{name} must be ({count}, {width}) to fit the ids and the memory, got {tuple(given.shape)}"
                )
        if len(patient_ids) != count:
            raise ValueError(f"{len(patient_ids)} patients were given for {count} studies")
        visual, disease = _unit(visual), _unit(disease)
        queries = torch.cat([self.weight * visual, (1 - self.weight) * disease], dim=1)
        excluded = [
            {*self._rows_of_study.get(study, ()), *self._rows_of_patient.get(patient, ())}
            for study, patient in zip(study_ids, patient_ids, strict=True)
        ]
        rows = (
            self._search_torch(queries, excluded, k)
            if self._index is None
            else self._search_faiss(queries, excluded, k)
        )
        found = self._keys[rows]
        cosines = [
            (part * each.unsqueeze(1)).sum(-1)
            for part, each in zip(found.split(widths, dim=-1), (visual, disease), strict=True)
        ]
        return Exemplars(rows, self.weight * cosines[0] + (1 - self.weight) * cosines[1], *cosines)

    def _search_torch(self, queries: Tensor, excluded: Sequence[set[int]], k: int) -> Tensor:
        found = []
        step = max(1, _PRODUCTS // len(self._keys))
        for start in range(0, len(queries), step):
            scores = queries[start : start + step] @ self._keys.T
            for row, others in zip(scores, excluded[start : start + step], strict=True):
                if len(self._keys) - len(others) < k:
                    raise ValueError(
                        f"the memory has {len(self._keys) - len(others)} rows of other studies and patients, {k} were "
                        "asked for"
                    )
                row[list(others)] = -torch.inf
            found.append(scores.topk(k, dim=1).indices)
        return torch.cat(found) if found else torch.empty(0, k, dtype=torch.long)

    def _search_faiss(self, queries: Tensor, excluded: Sequence[set[int]], k: int) -> Tensor:
        """As many rows more as may have to go are asked for, so what is left is what a search without them finds."""
        if not len(queries):
            return torch.empty(0, k, dtype=torch.long)
        asked = min(len(self._keys), k + max(map(len, excluded)))
        _, candidates = self._index.search(queries.numpy(), asked)
        rows = torch.empty(len(queries), k, dtype=torch.long)
        for query, (found, others) in enumerate(zip(candidates.tolist(), excluded, strict=True)):
            allowed = [row for row in found if row >= 0 and row not in others]
            if len(allowed) < k:  # an approximate index looked where nothing else was
                one = slice(query, query + 1)
                allowed = self._search_torch(queries[one], excluded[one], k)[0].tolist()
            rows[query] = torch.tensor(allowed[:k])
        return rows


def exemplar_table(
    retriever: ExemplarRetriever, k: int = 1, study_ids: Collection[str] | None = None
) -> dict[str, Exemplars]:
    """The exemplars of the studies of a memory themselves, so that a training step costs no search.

    They are of other studies and other patients. A study with several rows, such as one per view, has the exemplars of
    its first row.

    Args:
        retriever: over the memory.
        k: exemplars of a study.
        study_ids: of which studies; those that the memory does not have are left out. All when not given.

    Returns:
        By study id, of one query each.

    Raises:
        ValueError: there are fewer than `k` rows of other studies and patients.
    """
    memory = retriever.memory
    first = {study: row for row, study in reversed(list(enumerate(memory.study_ids)))}
    if study_ids is not None:
        first = {study: first[study] for study in study_ids if study in first}
    rows = list(first.values())
    found = retriever.search(
        memory.vectors["visual"][rows],
        memory.vectors["disease"][rows],
        [memory.study_ids[row] for row in rows],
        [memory.patient_ids[row] for row in rows],
        k,
    )
    parts = (found.rows, found.scores, found.visual, found.disease)
    return {study: Exemplars(*(part[i : i + 1] for part in parts)) for i, study in enumerate(first)}


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.detach().float().cpu(), dim=-1)


def _positions(names: Sequence[str]) -> Mapping[str, list[int]]:
    positions = defaultdict(list)
    for row, name in enumerate(names):
        positions[name].append(row)
    return dict(positions)


def _build_index(keys: Tensor, kind: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("this index needs faiss: pip install faiss-cpu") from error
    rows, width = keys.shape
    if kind == "ivf":
        # About the square root of the rows, as faiss' guidelines have it, of which a twentieth are looked into.
        lists = max(1, round(rows**0.5))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(1, lists // 20)
        index.train(keys.numpy())
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = 128
    else:
        index = faiss.IndexFlatIP(width)
    index.add(keys.numpy())
    return index


__all__ = ["INDEX_KINDS", "ExemplarRetriever", "Exemplars", "exemplar_table"]
