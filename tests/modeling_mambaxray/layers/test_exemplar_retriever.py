"""Retrieval of similar studies: equal to the equation, for every weight, and never of the query's own patient."""

import importlib.util
import sys

import pytest
import torch
from torch.nn import functional as F

from mambaxray.modeling_mambaxray.layers.exemplar_retriever import ExemplarRetriever
from mambaxray.modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory, TrainingSplit

HAS_FAISS = importlib.util.find_spec("faiss") is not None
WAYS = [pytest.param(True, marks=pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed")), False]
ROWS, VISUAL, DISEASES = 60, 8, 5


def make_memory():
    """60 rows: views of 30 studies of 10 patients."""
    generator = torch.Generator().manual_seed(0)
    studies = [f"s{row // 2}" for row in range(ROWS)]
    patients = [f"p{row // 6}" for row in range(ROWS)]
    vectors = {
        "visual": torch.randn(ROWS, VISUAL, generator=generator),
        "disease": torch.randn(ROWS, DISEASES, generator=generator),
    }
    split = TrainingSplit(dict(zip(studies, patients, strict=True)), {}, {})
    return StudyMemory(vectors, studies, patients, MemorySource("made", "made"), split)


MEMORY = make_memory()


def queries(count=7):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, VISUAL, generator=generator), torch.randn(count, DISEASES, generator=generator)


def equation_8(visual, disease, weight):
    """lambda cos(v, v') + (1 - lambda) cos(d, d') of every query and row."""
    cosines = [
        F.cosine_similarity(query[:, None], MEMORY.vectors[name][None], dim=-1)
        for name, query in (("visual", visual), ("disease", disease))
    ]
    return weight * cosines[0] + (1 - weight) * cosines[1], cosines


@pytest.mark.parametrize("use_faiss", WAYS)
def test_the_best_rows_of_equation_8_are_found_for_every_weight_by_one_index(use_faiss):
    retriever = ExemplarRetriever(MEMORY, use_faiss=use_faiss)
    visual, disease = queries()
    nobody = [None] * len(visual)
    rankings = set()
    for weight in (0.0, 0.3, 0.5, 1.0):
        retriever.weight = weight
        found = retriever.search(visual, disease, nobody, nobody, k=4)
        scores, (visual_cosines, disease_cosines) = equation_8(visual, disease, weight)
        best = scores.topk(4)
        assert torch.equal(found.rows, best.indices)
        torch.testing.assert_close(found.scores, best.values)
        torch.testing.assert_close(found.visual, visual_cosines.gather(1, best.indices))
        torch.testing.assert_close(found.disease, disease_cosines.gather(1, best.indices))
        rankings.add(tuple(found.rows.flatten().tolist()))
    assert len(rankings) == 4


def test_the_product_is_that_of_vectors_weighted_by_square_roots():
    """The paper's form: both sides are [sqrt(lambda) v; sqrt(1 - lambda) d]."""
    visual, disease = queries()
    weight = 0.3

    def keys(v, d):
        return torch.cat([weight**0.5 * F.normalize(v, dim=1), (1 - weight) ** 0.5 * F.normalize(d, dim=1)], dim=1)

    scores = keys(visual, disease) @ keys(MEMORY.vectors["visual"], MEMORY.vectors["disease"]).T
    nobody = [None] * len(visual)
    found = ExemplarRetriever(MEMORY, weight, use_faiss=False).search(visual, disease, nobody, nobody, k=ROWS)
    torch.testing.assert_close(found.scores, scores.gather(1, found.rows))


@pytest.mark.parametrize("use_faiss", WAYS)
def test_the_querys_own_study_and_patient_are_never_found(use_faiss):
    """Every row of the memory looks for itself, which would be the best."""
    retriever = ExemplarRetriever(MEMORY, use_faiss=use_faiss)
    visual, disease = MEMORY.vectors["visual"], MEMORY.vectors["disease"]
    nobody = [None] * ROWS
    assert torch.equal(retriever.search(visual, disease, nobody, nobody).rows[:, 0], torch.arange(ROWS))
    # A study has two rows, its views; the patient is not told.
    by_study = retriever.search(visual, disease, MEMORY.study_ids, nobody, k=ROWS - 2)
    for own, rows in zip(MEMORY.study_ids, by_study.rows.tolist(), strict=True):
        assert own not in {MEMORY.study_ids[row] for row in rows}
        assert len(set(rows)) == ROWS - 2
    by_patient = retriever.search(visual, disease, MEMORY.study_ids, MEMORY.patient_ids, k=ROWS - 6)
    for own, rows in zip(MEMORY.patient_ids, by_patient.rows.tolist(), strict=True):
        assert own not in {MEMORY.patient_ids[row] for row in rows}
    # A new study of a patient whose earlier ones are remembered.
    new = retriever.search(visual, disease, ["new"] * ROWS, MEMORY.patient_ids)
    assert all(MEMORY.patient_ids[r] != own for r, own in zip(new.rows[:, 0].tolist(), MEMORY.patient_ids, strict=True))


@pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed")
def test_faiss_and_torch_find_the_same():
    visual, disease = MEMORY.vectors["visual"] + 0.3, MEMORY.vectors["disease"]
    found = [
        ExemplarRetriever(MEMORY, 0.4, use_faiss=use_faiss).search(
            visual, disease, MEMORY.study_ids, MEMORY.patient_ids, k=5
        )
        for use_faiss in (True, False)
    ]
    assert torch.equal(found[0].rows, found[1].rows)
    torch.testing.assert_close(found[0].scores, found[1].scores)


@pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed")
@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_an_approximate_index_excludes_the_patient_too(index):
    retriever = ExemplarRetriever(MEMORY, index=index)
    visual, disease = MEMORY.vectors["visual"], MEMORY.vectors["disease"]
    found = retriever.search(visual, disease, MEMORY.study_ids, MEMORY.patient_ids, k=20)
    for own, rows in zip(MEMORY.patient_ids, found.rows.tolist(), strict=True):
        assert own not in {MEMORY.patient_ids[row] for row in rows}
        assert len(set(rows)) == 20


def test_a_memory_too_small_for_what_is_asked_says_so():
    part = MEMORY.select(range(6))  # one patient's
    retriever = ExemplarRetriever(part, use_faiss=False)
    visual, disease = queries(1)
    with pytest.raises(ValueError, match="has 0 rows of other studies and patients, 1 were asked for"):
        retriever.search(visual, disease, [None], ["p0"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ExemplarRetriever(MEMORY, 1.5), "weight must be between 0 and 1"),
        (lambda: ExemplarRetriever(MEMORY, index="pq"), "index must be one of"),
        (lambda: ExemplarRetriever(MEMORY).search(*queries(2), [None], [None]), r"visual must be \(1, 8\)"),
        (lambda: ExemplarRetriever(MEMORY).search(*queries(1), [None], [None], k=61), "memory's 60 rows"),
        (lambda: ExemplarRetriever(MEMORY).search(*queries(1), [None], []), "0 patients were given for 1 studies"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("options", [{"index": "ivf"}, {"use_faiss": True}])
def test_an_index_of_faiss_without_it_says_what_to_install(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        ExemplarRetriever(MEMORY, **options)
    nobody = [None] * 2
    assert ExemplarRetriever(MEMORY).search(*queries(2), nobody, nobody).rows.shape == (2, 1)
