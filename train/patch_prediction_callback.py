"""Watching pre-training: the predicted patches as an image every N steps."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..evaluation.pages.patch_predictions import draw_patches, predict_patches


class PatchPredictionCallback(TrainerCallback):
    """Draws what a pre-training model predicts, into the run's folder and into TensorBoard.

    The files are `pictures/step-000100.png` and so on in the run's folder. When `report_to` has TensorBoard, the
    drawings appear there as a run of their own, `pictures`, beside the Trainer's.

    Args:
        pixel_values: a few images `(batch, channels, height, width)`, as the collator makes them.
        every_n_steps: how often.
        folder: the run's folder; the Trainer's `output_dir` when not given.

    Raises:
        ValueError: the images have another shape, or `every_n_steps` is not positive.
    """

    def __init__(self, pixel_values: Tensor, every_n_steps: int = 100, folder: str | Path | None = None):
        if pixel_values.ndim != 4:
            raise ValueError(f"pixel_values must be (batch, channels, height, width), got {tuple(pixel_values.shape)}")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be positive, got {every_n_steps}")
        self._pixel_values = pixel_values
        self._every_n_steps = every_n_steps
        self._folder = folder
        self._writer: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and "tensorboard" in args.report_to:
            from torch.utils.tensorboard import SummaryWriter

            # Where the Trainer's own logs go, too.
            folder = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or Path(args.output_dir) / "runs")
            self._writer = SummaryWriter(log_dir=str(folder / "pictures"))

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        if state.global_step % self._every_n_steps:
            return
        # Every process computes it: a sharded model needs them all.
        prediction = predict_patches(model, self._pixel_values)
        if not state.is_world_process_zero:
            return
        picture = draw_patches(prediction)
        file = Path(self._folder or args.output_dir) / "pictures" / f"step-{state.global_step:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
        if self._writer is not None:
            self._writer.add_image("patches", np.asarray(picture), state.global_step, dataformats="HW")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


__all__ = ["PatchPredictionCallback"]
