"""Size, time of building and time per query of a retrieval index as large as MIMIC-CXR's training split.

    python benchmarks/bench_retrieval.py
    python benchmarks/bench_retrieval.py --rows 50000 --ways ivf hnsw

Vectors are made: clusters, as studies come in kinds, of the width of VMamba's tokens and 14 disease logits; a patient
has four studies. recall@1 is the share of queries whose best row is the one that the first way finds. On one thread the
processor's time is taken, which other programs change less. The goal is less than 5 ms a query at batch 64.
"""

import argparse
import time

import torch
from measure import print_machine, timed
from torch import Tensor

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
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["exact, torch", "exact, faiss", "ivf"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(options.seed)
    print_machine()
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

    print("| index | build, s | ms a query, batch 1 | batch 64 | recall@1 |\n|---|---|---|---|---|")
    clock = time.process_time if options.threads == 1 else time.perf_counter
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
            f"| {way} | {built:.1f} |",
            " | ".join(cells),
            f"| {float((found == best).float().mean()):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
