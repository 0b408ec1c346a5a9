"""Time, memory and size of building memories of training studies from phantoms, in one process and in several.

    python benchmarks/bench_memory.py
    python benchmarks/bench_memory.py --studies 2000 --processes 1 2

All studies are training studies. The classifier and the report encoder are tiny and have random weights, so the numbers
are those of the engine, of reading images and of a small model; a real one adds its own forward passes, of which the
table says how many there are. Every number of processes must give the same files, which is checked. CPU time is that of
all processes together, and changes less than the wall's clock where other programs run.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import peak_memory, print_machine
from transformers import AutoModel, BertConfig

from mambaxray import AMMRGForDiseaseClassification, MambaXrayImageProcessor, VisionMambaConfig, make_phantoms
from mambaxray.configuration.configuration_ammrg_classification import AMMRGClassificationConfig
from mambaxray.modeling_mambaxray.layers.study_memory import StudyMemory
from mambaxray.train.build_memories import build_am_mrg_memories, build_retrieval_memory
from mambaxray.train.tokenizer import train_report_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=96, help="of the vision Mamba, which has 4 layers")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kinds", nargs="+", default=["visual", "report", "retrieval"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print_machine()
    print(f"{options.studies} phantoms of {options.image_size} px, batch {options.batch_size}, seed {options.seed}")
    start = time.perf_counter()
    data = make_phantoms(options.studies, seed=options.seed, image_size=options.image_size, splits={"train": 1.0})
    stored = sum(len(image["bytes"]) for row in data["train"].with_format("arrow") for image in _images(row))
    print(f"drawn in {time.perf_counter() - start:.0f} s, {stored / 2**20:.0f} MiB of PNG files in memory\n")

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        classifier = _save_classifier(base / "classifier", options.image_size, options.width, options.seed)
        encoder = _save_text_encoder(base / "encoder", list(data["train"]["report"][:500]), options.seed)

        def build(kind: str, output: Path, processes: int) -> StudyMemory:
            settings = {"batch_size": options.batch_size, "processes": processes}
            if kind == "retrieval":
                return build_retrieval_memory(output, classifier, data, **settings)
            return build_am_mrg_memories(
                output, classifier, data, kinds=[kind], report_encoder=encoder, seed=options.seed, **settings
            )[kind]

        print("| memory | processes | rows | studies | wall, s | CPU, s | peak, MiB | of a worker | folder, MiB |")
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        for kind in options.kinds:
            files = []
            for processes in options.processes:
                output = base / f"{kind}-{processes}"
                print(_row(kind, processes, output, lambda k=kind, o=output, p=processes: build(k, o, p)), flush=True)
                files.append({path.name: path.read_bytes() for path in output.rglob("memory.*")})
            if any(each != files[0] for each in files):
                raise RuntimeError(f"the {kind} memories of {options.processes} processes differ")
    print("\nthe files are the same for every number of processes")


def _images(row: object) -> list[dict[str, bytes]]:
    return row["images"].to_pylist()[0]


def _row(kind: str, processes: int, output: Path, build: Callable[[], StudyMemory]) -> str:
    built: list[StudyMemory] = []
    seconds, cpu = time.perf_counter(), sum(os.times()[:4])
    peak = peak_memory(lambda: built.append(build()))
    seconds, cpu = time.perf_counter() - seconds, sum(os.times()[:4]) - cpu
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 if processes > 1 else None
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) / 2**20
    counts = built[0].counts()
    return (
        f"| {kind} | {processes} | {counts['rows']:,} | {counts['studies']:,} | {seconds:.0f} | {cpu:.0f} | "
        f"{'–' if peak is None else f'{peak:.0f}'} | {'–' if worker is None else f'{worker:.0f}'} | {size:.1f} |"
    )


def _save_classifier(folder: Path, side: int, width: int, seed: int) -> str:
    torch.manual_seed(seed)
    vision = VisionMambaConfig(
        hidden_size=width, num_hidden_layers=4, image_size=side, patch_size=side // 8, state_size=8
    )
    config = AMMRGClassificationConfig(
        vision_config=vision,
        query_hidden_size=96,
        query_attention_heads=4,
        query_hidden_layers=2,
        query_intermediate_size=192,
        encoder_hidden_size=None,
    )
    AMMRGForDiseaseClassification(config).save_pretrained(folder)
    MambaXrayImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)


def _save_text_encoder(folder: Path, reports: list[str], seed: int) -> str:
    tokenizer = train_report_tokenizer(reports, 1000)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()
