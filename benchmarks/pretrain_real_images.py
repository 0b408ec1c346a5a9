"""Stage 1 on real X-rays with a small encoder: prints the loss and leaves pictures of what is predicted.

    python benchmarks/pretrain_real_images.py --images FOLDER [FOLDER ...] --output runs/stage1

Every picture below the folders is an image; one in ten is kept apart for the validation loss.
"""

import argparse
import time
from pathlib import Path

import torch
from datasets import Dataset, Features, Image
from transformers import Trainer, TrainingArguments, set_seed

from mambaxray import (
    ImageCollator,
    MambaXrayForPreTraining,
    MambaXrayImageProcessor,
    MambaXrayPreTrainingConfig,
    PatchPredictionCallback,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    set_seed(options.seed)
    suffixes = {".png", ".jpg", ".jpeg"}
    files = sorted(str(path) for folder in options.images for path in folder.rglob("*") if path.suffix in suffixes)
    rows = Dataset.from_dict({"image": files}, features=Features({"image": Image()}))
    split = rows.train_test_split(0.1, seed=options.seed)
    config = MambaXrayPreTrainingConfig(
        hidden_size=128, num_hidden_layers=6, image_size=128, patch_size=8, decoder_hidden_size=128
    )
    model = MambaXrayForPreTraining(config)
    collator = ImageCollator(MambaXrayImageProcessor(size={"height": 128, "width": 128}))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(options.output),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=1e-3,
            weight_decay=0.05,
            adam_beta2=0.95,
            warmup_steps=options.steps // 10,
            lr_scheduler_type="cosine",
            logging_steps=25,
            eval_strategy="steps",
            eval_steps=100,
            save_strategy="no",
            remove_unused_columns=False,
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=options.seed,
        ),
        train_dataset=split["train"],
        eval_dataset=split["test"],
        data_collator=collator,
        callbacks=[PatchPredictionCallback(collator(list(split["test"].select(range(4))))["pixel_values"], 100)],
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(split['train'])} images to train, {len(split['test'])} to validate, {parameters:,} parameters")
    start = time.perf_counter()
    trainer.train()
    print(f"{(time.perf_counter() - start) / options.steps:.2f} s per step")
    for entry in trainer.state.log_history:
        for name in ("loss", "eval_loss"):
            if name in entry:
                print(f"step {entry['step']:4d}  {name:9s} {float(entry[name]):.4f}")
    trainer.save_model(str(options.output / "model"))


if __name__ == "__main__":
    main()
