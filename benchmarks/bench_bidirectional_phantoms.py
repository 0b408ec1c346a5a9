"""What do the branches of bidirectional learning add to vision-to-text, at equal steps, on drawn X-rays?

python benchmarks/bench_bidirectional_phantoms.py
python benchmarks/bench_bidirectional_phantoms.py --data FOLDER --seeds 1   # other studies: what `load_studies` takes

Makes, in runs/bidirectional, drawn X-rays and a pre-trained language model: a small report generator is trained whole
and its language model is kept. Around that model, frozen, it trains with three seeds the rows of the paper's table 3:
vision-to-text alone (V2T), with the contrastive loss (+CLIP), with text-to-vision (+T2V), and with reconstruction too
(+T2V+REC). It prints, by the loss of reports on validation studies, when each was best, how far training and validation
were apart there, and text-to-vision's distance beside that for the wrong studies' reports. It goes on where it was
interrupted.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

from bench_stages import draw
from transformers import AutoModelForImageTextToText, AutoProcessor

from mambaxray.train.recipe import load_recipe
from mambaxray.train.run import RunResult, run_recipe

FOLDER = Path("runs/bidirectional")
# 97.5 % quantiles of Student's t with one degree of freedom less than there are seeds, for 95 % intervals of a mean.
T_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
ROWS = {
    "V2T": "{text_to_vision: 0, reconstruction: 0}",
    "+CLIP": "{text_to_vision: 0, reconstruction: 0, contrastive: 1}",
    "+T2V": "{reconstruction: 0}",
    "+T2V+REC": "{}",
}
_SIZES = "intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4"
_ENCODER = f"{{model_type: vit_mae, hidden_size: 64, {_SIZES}, image_size: 48, patch_size: 16, initializer_range: 0.1}}"
_DECODER = f"{{model_type: llama, hidden_size: 64, {_SIZES}, max_position_embeddings: 256, initializer_range: 0.125, "
_DECODER += "tie_word_embeddings: true}"
_TEXT = f"{{model_type: bert, hidden_size: 64, {_SIZES}, max_position_embeddings: 160}}"
_STUDIES = 160


def overrides(data: Path, steps: int) -> list[str]:
    """What all runs share: ten steps are an epoch, and each epoch is evaluated."""
    return [
        *(f"data.source={data}", "data.options={}", f"data.max_train={_STUDIES}", "data.max_validation=48"),
        *("model.crop_from=54", "model.max_report_length=60", "metrics=null", f"training.max_steps={steps}"),
        *("training.eval_strategy=epoch", "training.logging_steps=10", "training.save_strategy=no"),
        *("training.per_device_eval_batch_size=16", "training.report_to=[]", "training.disable_tqdm=true"),
        f"model.options.text_encoder_config={_TEXT}",
    ]


def make_language_model(data: Path, folder: Path) -> Path:
    """A language model that has read the training reports, and its tokenizer."""
    if (folder / "config.json").is_file():
        return folder
    given = [*overrides(data, 150), f"model.vision_encoder={_ENCODER}", f"model.language_model={_DECODER}"]
    given += [f"model.options.loss_weights={ROWS['V2T']}"]
    result = run_recipe(load_recipe("bidirectional_phantoms", given), folder.parent / "pretrained")
    AutoProcessor.from_pretrained(result.model_dir).tokenizer.save_pretrained(folder)
    AutoModelForImageTextToText.from_pretrained(result.model_dir).language_model.save_pretrained(folder)
    return folder


def train(row: str, seed: int, data: Path, language_model: Path, folder: Path, steps: int) -> RunResult:
    given = [*overrides(data, steps), f"seed={seed}", f"model.options.loss_weights={ROWS[row]}"]
    given += [f"model.vision_encoder={_ENCODER}", f"model.language_model={language_model}"]
    given += ["model.freeze=[language_model]"]
    return run_recipe(load_recipe("bidirectional_phantoms", given), folder / "rows" / f"{row}-{seed}")


def summary(result: RunResult) -> dict[str, float]:
    """The losses of reports at the best epoch, in nats per report, and of embeddings at the end."""

    # The Trainer leaves a loss that stands alone to the total.
    def values(name: str) -> list[float]:
        found = [entry[name] for entry in result.history if name in entry]
        other = f"{name.rpartition('report')[0]}loss"
        return found or [entry[other] for entry in result.history if other in entry]

    trained, validated = values("report"), values("eval_report")
    best = min(range(len(trained)), key=validated.__getitem__)
    found = {"best": validated[best], "epochs": best + 1.0, "gap": validated[best] - trained[best]}
    found["last"], found["last_gap"] = validated[len(trained) - 1], validated[len(trained) - 1] - trained[-1]
    for name in ("text_to_vision", "text_to_vision_shuffled", "reconstruction", "visual_embedding_norm"):
        if any(f"eval_{name}" in entry for entry in result.history):
            found[name] = values(f"eval_{name}")[-1]
    return found


def spread(values: list[float], digits: int = 2) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def interval(differences: list[float]) -> str:
    if len(differences) not in T_QUANTILES:
        return f"{statistics.mean(differences):+.2f}"
    half = T_QUANTILES[len(differences)] * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.2f} ± {half:.2f}"


def print_table(found: dict[str, list[dict[str, float]]]) -> None:
    print("| row | best validation loss | epochs to best | gap there | loss at the end | gap at the end |", end=" ")
    print("best loss less V2T's, same seed, 95 % |\n|---|---:|---:|---:|---:|---:|---:|")
    for row, runs in found.items():
        columns: list[Callable[[dict[str, float]], float]] = [
            lambda run, name=name: run[name] for name in ("best", "epochs", "gap", "last", "last_gap")
        ]
        cells = [spread([column(run) for run in runs]) for column in columns]
        pairs = [run["best"] - base["best"] for run, base in zip(runs, found["V2T"], strict=True)]
        print(f"| {row} | {' | '.join(cells)} | {'–' if row == 'V2T' else interval(pairs)} |")
    print("\n| row | TVC | TVC with the next study's report | their difference | REC | norm of E_v |")
    print("|---|---:|---:|---:|---:|---:|")
    for row, runs in found.items():
        if "text_to_vision" not in runs[0]:
            continue
        differences = [run["text_to_vision_shuffled"] - run["text_to_vision"] for run in runs]
        cells = [spread([run[n] for run in runs], 3) for n in ("text_to_vision", "text_to_vision_shuffled")]
        cells += [", ".join(f"{difference:+.4f}" for difference in differences)]
        cells += [spread([run[n] for run in runs], 3) if n in runs[0] else "–" for n in ("reconstruction",)]
        cells += [spread([run["visual_embedding_norm"] for run in runs])]
        print(f"| {row} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="studies to learn from in place of drawn ones")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    arguments = parser.parse_args()
    folder = FOLDER if arguments.data is None else FOLDER / arguments.data.name
    data = arguments.data or FOLDER / "phantoms"
    if arguments.data is None:
        draw(data, 300)
    language_model = make_language_model(data, folder / "language_model")
    found: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for seed in range(arguments.seeds):
        for row, runs in found.items():
            runs.append(summary(train(row, seed, data, language_model, folder, arguments.steps)))
            print(row, seed, {name: round(value, 4) for name, value in runs[-1].items()}, flush=True)
    print_table(found)


if __name__ == "__main__":
    main()
