"""Does EMRRG learn more than a frozen encoder and language model in equally many steps, and with few parameters?

python benchmarks/bench_emrrg.py

Makes, in runs/emrrg, drawn X-rays and pre-trained parts: a small report generator is trained whole, and its encoder and
language model are kept, its projection is not. From these parts it trains, with three seeds, the baseline (only the
projection learns) and EMRRG (partial LoRA, hybrid layers, projection), cells of the bench `emrrg_components`, which can
run whole afterwards: mambaxray bench run emrrg_components --output runs/emrrg/components. It goes on where it was
interrupted.
"""

import statistics
from pathlib import Path

from bench_stages import draw
from transformers import AutoModelForImageTextToText, AutoProcessor

from mambaxray.train.bench_grid import load_bench
from mambaxray.train.recipe import load_recipe
from mambaxray.train.run import RunResult, run_recipe

FOLDER = Path("runs/emrrg")
BASELINE, EMRRG = ("frozen", "L2"), ("LoRAp(X)", "L2+HDL")
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


def train_both() -> dict[tuple[str, str], list[RunResult]]:
    """The results of both ways, a seed after the other."""
    results: dict[tuple[str, str], list[RunResult]] = {BASELINE: [], EMRRG: []}
    for cell in load_bench("emrrg_components").cells():
        way = cell.names["vision_encoder"], cell.names["decoder"]
        if way in results:
            results[way].append(run_recipe(cell.recipe, FOLDER / "both" / cell.folder))
    return results


def main() -> None:
    make_parts()
    results = train_both()
    print("| trained | validation loss by seed | mean | trained parameters | of all |")
    print("|---|---|---:|---:|---:|")
    for way, runs in results.items():
        losses = [run.metrics["eval_loss"] for run in runs]
        trained, total = runs[0].trained_parameters, runs[0].total_parameters
        by_seed = ", ".join(f"{loss:.4f}" for loss in losses)
        print(
            f"| {' / '.join(way)} | {by_seed} | {statistics.mean(losses):.4f} | {trained:,} | {trained / total:.2%} |"
        )
    gains = [b.metrics["eval_loss"] - e.metrics["eval_loss"] for b, e in zip(*results.values(), strict=True)]
    print(f"EMRRG's loss is lower by {statistics.mean(gains):.4f} (standard deviation {statistics.stdev(gains):.4f}),")
    print(f"with {sum(gain > 0 for gain in gains)} of {len(gains)} seeds, after {results[EMRRG][0].steps} steps each.")


if __name__ == "__main__":
    main()
