"""Size, time of building and time per query of a retrieval index as large as MIMIC-CXR's training split.

    python benchmarks/bench_retrieval.py
    python benchmarks/bench_retrieval.py --rows 50000 --ways ivf hnsw
    python benchmarks/bench_retrieval.py --ways --prefill

Vectors are made: clusters, as studies come in kinds, of the width of VMamba's tokens and 14 disease logits; a patient
has four studies. recall@1 is the share of queries whose best row is the one that the first way finds. On one thread the
processor's time is taken, which other programs change less. The goal is less than 5 ms a query at batch 64.

`--prefill` times what an exemplar in the prompt costs a decoder before the first word: a Llama of few layers and random
weights, with 50 image tokens and 30 of words, without and with exemplars of some lengths, as a ratio.
"""

import argparse
import time
from collections.abc import Callable

import torch
from measure import print_machine, timed
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from mambaxray.modeling_mambaxray.layers.exemplar_retriever import ExemplarRetriever
from mambaxray.modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory, TrainingSplit

WAYS = {
    "exact, torch": {},
    "exact, faiss": {"use_faiss": True},
    "ivf": {"index": "ivf"},
    "hnsw": {"index": "hnsw"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=270_790)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, default=192)
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--prefill", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(options.seed)
    print_machine()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    if options.ways:
        compare_indices(options, generator, clock)
    if options.prefill:
        compare_prompts(options, clock)


def compare_indices(options: argparse.Namespace, generator: torch.Generator, clock: Callable[[], float]) -> None:
    print(f"{options.rows} rows of {options.width} + 14, threads {options.threads}, seed {options.seed}")

    centres = torch.randn(1000, options.width + 14, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        kinds = torch.randint(len(centres), (count,), generator=generator)
        vectors = centres[kinds] + torch.randn(count, centres.shape[1], generator=generator)
        return vectors.split([options.width, 14], dim=1)

    studies = [f"s{row}" for row in range(options.rows)]
    patients = [f"p{row // 4}" for row in range(options.rows)]
    visual, disease = draw(options.rows)
    memory = StudyMemory(
        {"visual": visual, "disease": disease},
        studies,
        patients,
        MemorySource("made", "made"),
        TrainingSplit(dict(zip(studies, patients, strict=True)), {}, {}),
    )
    print(f"{sum(tensor.nbytes for tensor in memory.vectors.values()) / 2**20:.0f} MiB of vectors\n")
    queries = draw(options.queries)
    names = [f"q{row}" for row in range(options.queries)]
    owners = patients[: options.queries]

    print("| index | size, MiB | build, s | ms a query, batch 1 | batch 64 | recall@1 |\n|---|---|---|---|---|---|")
    best = None
    for way in options.ways:
        made: list[ExemplarRetriever] = []
        built = timed(lambda made=made, way=way: made.append(ExemplarRetriever(memory, **WAYS[way])), clock=clock)
        cells, rows = [], []
        for batch, count in ((1, 16), (64, options.queries)):
            rows.clear()

            def search(batch: int = batch, count: int = count, made: list = made, rows: list = rows) -> None:
                for first in range(0, count, batch):
                    part = slice(first, min(count, first + batch))
                    rows.append(made[0].search(*(q[part] for q in queries), names[part], owners[part]).rows)

            cells.append(f"{1000 * timed(search, clock=clock) / count:.2f}")
        found = torch.cat(rows)
        best = found if best is None else best
        print(
            f"| {way} | {size_of(made[0]) / 2**20:.0f} | {built:.1f} |",
            " | ".join(cells),
            f"| {float((found == best).float().mean()):.3f} |",
            flush=True,
        )


def size_of(retriever: ExemplarRetriever) -> int:
    """Bytes of what is searched: the keys themselves, or faiss' index as it would be written."""
    if retriever._index is None:
        return retriever._keys.nbytes
    import faiss

    return faiss.serialize_index(retriever._index).nbytes


def compare_prompts(options: argparse.Namespace, clock: Callable[[], float]) -> None:
    image, words = 50, 30
    sizes = {"hidden_size": 1024, "intermediate_size": 2752, "num_attention_heads": 16, "num_hidden_layers": 4}
    torch.manual_seed(options.seed)
    decoder = LlamaForCausalLM(LlamaConfig(vocab_size=1000, **sizes)).eval()
    print(
        f"\na Llama of {sizes['num_hidden_layers']} layers, width {sizes['hidden_size']}, prompts of {image} + {words}"
    )
    print("\n| exemplar, tokens | batch 1, ms | ratio | batch 4, ms | ratio |\n|---|---|---|---|---|")
    without: dict[int, float] = {}
    for exemplar in (0, 60, 100, 150):
        cells = []
        for batch in (1, 4):
            embeddings = torch.randn(batch, image + words + exemplar, sizes["hidden_size"])

            def prefill(embeddings: Tensor = embeddings) -> None:
                with torch.inference_mode():
                    decoder(inputs_embeds=embeddings, logits_to_keep=1)

            prefill()
            taken = min(timed(prefill, clock=clock) for _ in range(3))
            cells += [f"{1000 * taken:.0f}", f"{taken / without.setdefault(batch, taken):.2f}"]
        print(f"| {exemplar} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
