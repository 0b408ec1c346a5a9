"""`ReportTrainer`: what the plain `Trainer` lacks for models that write reports.

The plain `Trainer` trains every model of this package. This one adds reports written at evaluation, so that metrics of
texts can choose the best checkpoint and stop the training, label smoothing that fits these models, and named losses in
the log.
"""

import glob
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor, nn
from transformers import GenerationConfig, ProcessorMixin
from transformers.trainer_utils import EvalPrediction, HubStrategy
from transformers.utils import PushInProgress

from ..modeling_mambaxray.hub.published_files import published_files
from ..modeling_mambaxray.hub.separate_parts import check_can_be_published
from .collator import GENERATION_KEYS
from .named_losses import NamedLossTrainer

# What a run needs to go on from a checkpoint on the Hub, which is pushed where `hub_strategy` asks for checkpoints.
_TRAINING_STATE = (
    *("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
    *("trainer_state.json", "training_args.bin"),
)


class ReportTrainer(NamedLossTrainer):
    """A `Trainer` that generates at evaluation, and logs named losses. PEFT-wrapped models go through it as through the
    plain one.

    Use it with `ReportCollator(processor, for_generation=True)` and `remove_unused_columns=False`.

    Args:
        processing_class: the processor, which decodes what was generated and is saved with every checkpoint.
        generation_config: how to generate at evaluation; what it leaves open the model's own decides.
        compute_metrics: takes an `EvalPrediction` whose `predictions` are the generated reports and whose `label_ids`
            are the complete reference reports, both lists of str in the order of the data set, and returns named
            numbers. Any of them can be `metric_for_best_model`. Without it no reports are written.
        kwargs: those of `Trainer`.
    """

    push_in_progress: Any  # transformers' own, None before the first push

    def __init__(
        self,
        *,
        processing_class: ProcessorMixin,
        generation_config: GenerationConfig | None = None,
        compute_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None = None,
        **kwargs: Any,
    ):
        self._metrics_of_texts = compute_metrics or (lambda prediction: {})
        super().__init__(
            compute_metrics=None if compute_metrics is None else self._decode_and_compute,
            processing_class=processing_class,
            **kwargs,
        )
        self.generation_config = generation_config
        # The plain Trainer shifts labels for the causal language models that it knows by name, and ours is not one.
        self.label_smoother = None

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As usual, which is at the start when the model is to be pushed.

        Raises:
            LocalPartError: nobody else could load it, for it needs a model that is in a folder of this machine.
        """
        check_can_be_published(self.accelerator.unwrap_model(self.model))
        super().init_hf_repo(*args, **kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As usual, but of the folder only the files that belong to a model are pushed (see `published_files`).

        Arguments as in `Trainer.push_to_hub`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        model_name = kwargs.pop("model_name", None) or self.hub_model_id.split("/")[-1]
        self.create_model_card(model_name=model_name, **kwargs)
        self._finish_current_push()
        revision = self.args.hub_revision if revision is None else revision
        return self._upload(Path(self.args.output_dir), commit_message, token, not blocking, revision)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        in_progress = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if in_progress and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        checkpoint, output = Path(checkpoint_folder), Path(self.args.output_dir)
        # A checkpoint may be deleted before it is uploaded, so the model is uploaded from the folder above.
        for name in published_files(checkpoint):
            (output / name).parent.mkdir(exist_ok=True)
            shutil.copy(checkpoint / name, output / name)
        message = f"Training in progress, step {self.state.global_step}"
        options = (self.args.hub_token, True, self.args.hub_revision)
        jobs: list[Any] = [self._upload(output, message, *options)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            jobs.append(self._upload(checkpoint, f"{message}, checkpoint", *options, place, _TRAINING_STATE))
        if in_progress:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)

    def _upload(
        self,
        folder: Path,
        message: str | None,
        token: str | None,
        as_future: bool,
        revision: str | None,
        place: str | None = None,
        further: Sequence[str] = (),
    ) -> Any:
        files = [glob.escape(name.as_posix()) for name in published_files(folder)]
        # Its overloads distinguish the literals of `run_as_future`, which is a variable here.
        return HfApi(token=token).upload_folder(  # type: ignore[call-overload]
            repo_id=self.hub_model_id,
            folder_path=folder,
            path_in_repo=place,
            commit_message=message,
            run_as_future=as_future,
            allow_patterns=[*files, *further],
            revision=revision,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The model's loss; in training smoothed by `label_smoothing_factor`."""
        inputs = {name: value for name, value in inputs.items() if name not in GENERATION_KEYS}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and self.args.label_smoothing_factor:
            # Scaled over the processes as the Trainer scales the loss itself.
            scale = self._processes_per_mean(num_items_in_batch)
            reduction = self.accelerator.unwrap_model(model).config.report_reduction
            loss = loss + scale * smoothing_term(
                outputs.logits, inputs["labels"], self.args.label_smoothing_factor, num_items_in_batch, reduction
            )
        return (loss, outputs) if return_outputs else loss

    def _processes_per_mean(self, num_items_in_batch: Tensor | int | None) -> int:
        averaged = self.args.average_tokens_across_devices and num_items_in_batch is not None
        return self.accelerator.num_processes if averaged else 1

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss of a batch and, unless that is all that is wanted, generated ids and the reports' bytes."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).detach()
            if prediction_loss_only:
                return loss, None, None
            missing = [name for name in GENERATION_KEYS if name not in inputs]
            if missing:
                raise ValueError(
                    f"the batch has no {', '.join(missing)}, which writing reports at evaluation needs: "
                    "use ReportCollator(processor, for_generation=True)"
                )
            prompt = inputs["prompt_input_ids"]
            generator = self.accelerator.unwrap_model(model)
            names = ["pixel_values", "view_mask"]
            names += [name for name, each in generator.study_inputs.items() if not each.for_training_only]
            tokens = generator.generate(
                input_ids=prompt,
                attention_mask=inputs["prompt_attention_mask"],
                generation_config=self.generation_config,
                **{name: inputs[name] for name in names if name in inputs},
            )
        return loss, tokens[:, prompt.shape[1] :], inputs["reference_bytes"]

    def _decode_and_compute(self, prediction: EvalPrediction) -> dict[str, float]:
        references = [bytes(row[row >= 0].astype("uint8")).decode() for row in prediction.label_ids]
        # Rows are filled up with -100 where processes or batches generated for different lengths.
        ids = [row[row >= 0] for row in prediction.predictions]
        hypotheses = self.processing_class.post_process_image_text_to_text(ids)
        return dict(self._metrics_of_texts(EvalPrediction(predictions=hypotheses, label_ids=references)))


def smoothing_term(
    logits: Tensor,
    labels: Tensor,
    factor: float,
    num_items_in_batch: Tensor | int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """What label smoothing adds to the cross-entropy of a causal language model.

    The smoothed target mixes the label with the uniform distribution, so its loss is `(1 - factor) * nll + factor *
    uniform`, and the difference from the plain `nll` is `factor * (uniform - nll)` (Szegedy et al., CVPR 2016,
    section 7).

    Args:
        logits: `(batch, sequence, vocabulary)`.
        labels: `(batch, sequence)`, not shifted, -100 where nothing is supervised.
        factor: weight of the uniform distribution.
        num_items_in_batch: what the sum over tokens is divided by; the number of supervised tokens when not given.
        reduction: the configuration's `report_reduction`.
    """
    targets = labels[:, 1:]
    supervised = targets != -100
    log_probabilities = logits[:, :-1][supervised].float().log_softmax(dim=-1)
    of_target = log_probabilities.gather(1, targets[supervised].unsqueeze(1)).squeeze(1)
    count = supervised.sum() if num_items_in_batch is None else num_items_in_batch
    per_token = factor * (of_target - log_probabilities.mean(dim=-1)).sum() / count
    return per_token * (supervised.sum() / len(labels)) if reduction == "sum" else per_token


__all__ = ["ReportTrainer", "smoothing_term"]
