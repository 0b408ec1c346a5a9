"""Does EMRRG learn more than a frozen encoder and language model, with few parameters? Its two ablations on phantoms.

python benchmarks/bench_emrrg.py [components] [tuned_parts]

Makes, in runs/emrrg, drawn X-rays and pre-trained parts: a small report generator is trained whole, and its encoder and
language model are kept, its projection is not. Then it runs the grids `emrrg_components` and `emrrg_tuned_parts`, which
start from these parts and train equally many steps in every cell, with three seeds, and prints their tables and each
cell's validation loss. It goes on where it was interrupted.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench_stages import draw
from transformers import AutoModelForImageTextToText, AutoProcessor

from mambaxray.train.bench_grid import Cell, load_bench
from mambaxray.train.bench_run import CellResult, run_bench
from mambaxray.train.bench_table import render_table
from mambaxray.train.recipe import load_recipe
from mambaxray.train.run import read_result, run_recipe

FOLDER = Path("runs/emrrg")
_ENCODER = "{model_type: vision_mamba, hidden_size: 96, num_hidden_layers: 3, image_size: 64, patch_size: 16, "
_ENCODER += "state_size: 4, initializer_range: 0.1}"
_DECODER = "{model_type: llama, hidden_size: 128, intermediate_size: 344, num_hidden_layers: 4, "
_DECODER += "num_attention_heads: 4, num_key_value_heads: 1, max_position_embeddings: 512, initializer_range: 0.088, "
_DECODER += "tie_word_embeddings: true}"


def make_parts() -> None:
    """A pre-trained encoder and language model, and the phantoms that they were trained on."""
    parts = FOLDER / "parts"
    draw(FOLDER / "phantoms", 600)
    if (parts / "language_model" / "config.json").is_file():
        return
    overrides = [f"data.source={FOLDER / 'phantoms'}", "data.options={}", "metrics=null", "training.max_steps=200"]
    overrides += [f"model.vision_encoder={_ENCODER}", f"model.language_model={_DECODER}", "model.max_report_length=100"]
    overrides += ["training.eval_strategy=no", "training.save_strategy=no", "training.report_to=[]"]
    result = run_recipe(load_recipe("finetune_phantoms", overrides), parts / "run")
    print(
        f"the parts: trained whole for {result.steps} steps to a validation loss of {result.metrics['eval_loss']:.4f}"
    )
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    model.vision_encoder.save_pretrained(parts / "encoder")
    AutoProcessor.from_pretrained(result.model_dir).tokenizer.save_pretrained(parts / "language_model")
    model.language_model.save_pretrained(parts / "language_model")


def run_grid(name: str) -> None:
    bench = load_bench(f"emrrg_{name}")
    output = FOLDER / name

    def tell(cell: Cell, result: CellResult | None) -> None:
        if result is not None:
            print(f"{cell.title}: {result.state} {result.reason}", flush=True)

    results = run_bench(bench, output, progress=tell)
    print(render_table(bench, results, "markdown"))
    print("| cell | validation loss, by seed | mean | trained | of all parameters |")
    print("|---|---|---:|---:|---:|")
    runs: dict[str, list] = {}
    for cell, result in results:
        if result.state == "done":
            title = " / ".join(value for value in cell.names.values() if value)
            runs.setdefault(title, []).append(read_result(output / cell.folder / "run"))
    for title, of_cell in runs.items():
        losses = [run.metrics["eval_loss"] for run in of_cell]
        trained, total = of_cell[0].trained_parameters, of_cell[0].total_parameters
        print(
            f"| {title} | {', '.join(f'{loss:.4f}' for loss in losses)} | {statistics.mean(losses):.4f} "
            f"| {trained:,} | {trained / total:.2%} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="*", default=["components", "tuned_parts"])
    given = parser.parse_args(arguments)
    make_parts()
    for name in given.grids:
        run_grid(name)


if __name__ == "__main__":
    main()
