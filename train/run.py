"""`run_recipe`: one training run, whatever its stage, from a recipe to a folder with a model.

A stage is a module with a function `make_trainer(recipe, arguments, output)` (`recipe.STAGES` lists them); everything
else is the same for all.
"""

import json
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import PartialState
from transformers import Trainer, TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from ..configuration.families import families_of_stage, import_plugins
from ..data.output_lock import locked_output
from ..data.whole_file import flush_to_disk, write_whole
from ..evaluation.score_tables import LOWER_IS_BETTER
from .checkpoints import CheckpointSeal, check_same_batches, last_complete_checkpoint
from .early_stopping import ResumableEarlyStopping
from .parameter_table import parameter_groups
from .recipe import STAGES
from .recipe_base import Recipe
from .recipe_text import RecipeError
from .run_folder import CHECKPOINTS, MODEL, check_run_folder, claim_run_folder, unchanged_if_refused
from .run_result import RESULT_FILE, RunResult, read_result

logger = logging.getLogger(__name__)


def run_recipe(
    recipe: Recipe,
    output: str | Path,
    *,
    restart: bool = False,
    on_start: Callable[[torch.nn.Module], None] | None = None,
) -> RunResult:
    """Trains as a recipe says and leaves everything in a folder.

    The folder gets `recipe.yaml` (resolved), `environment.json`, `checkpoints/`, `model/` and `result.json`, the first
    when training starts. When the same recipe was interrupted in this folder, training resumes from its last complete
    checkpoint, with the losses that it would have had; when it was finished, its result is returned. A recipe with more
    steps or epochs extends the run; a run that came to no checkpoint can be given again with any recipe.

    It can be called in every process of a group that `torchrun` or `accelerate launch` has started.

    Args:
        recipe: what `load_recipe` returns.
        output: the run's folder, made when absent.
        restart: delete the run that the folder holds, and nothing else in it, and begin again. A recipe that is refused
            deletes nothing.
        on_start: called in the first process with the model that is about to be trained.

    Raises:
        RecipeError: the folder holds another recipe's run or something else, or the recipe's parts do not fit each
            other.
        ValueError: a module of the recipe's `plugins` is absent.
        OutputInUseError: another process trains in this folder.
        FileNotFoundError: data or models that the recipe names are absent.
    """
    import_plugins(recipe.plugins)
    output = Path(output)
    arguments = training_arguments(recipe, output / CHECKPOINTS)
    try:
        # The trainer is gone when this returns: what it holds of the group must not outlive the group.
        return _run(recipe, arguments, output, restart, on_start)
    finally:
        if torch.distributed.is_initialized():
            # A process that leaves early takes the group's connections down with it.
            torch.distributed.destroy_process_group()


def _run(
    recipe: Recipe,
    arguments: TrainingArguments,
    output: Path,
    restart: bool,
    on_start: Callable[[torch.nn.Module], None] | None,
) -> RunResult:
    state = PartialState()
    with ExitStack() as locks:
        if state.is_main_process:
            locks.enter_context(locked_output(output, is_folder=True))
        with unchanged_if_refused(output, restart=restart) if state.is_main_process else nullcontext():
            state.wait_for_everyone()
            finished = check_run_folder(output, recipe)
            # The folder changes when all have looked at it.
            state.wait_for_everyone()
            if finished:
                return read_result(output)
            checkpoint = last_complete_checkpoint(Path(arguments.output_dir))
            if checkpoint is not None:
                _check_going_on(checkpoint, arguments)
            trainer = _make_trainer(recipe, arguments, output, on_start)
        return _train(trainer, output, checkpoint)


def _make_trainer(
    recipe: Recipe,
    arguments: TrainingArguments,
    output: Path,
    on_start: Callable[[torch.nn.Module], None] | None,
) -> Trainer:
    """The stage's trainer, ready to train, and the folder as the run's."""
    set_seed(recipe.seed)
    make_trainer: Callable[[Recipe, TrainingArguments, Path], Trainer]
    make_trainer = import_module(STAGES[recipe.stage].module, __package__).make_trainer
    try:
        trainer = make_trainer(recipe, arguments, output)
    except ValueError as error:
        if "eval_dataset" not in str(error):
            raise
        raise RecipeError(
            f"the data has no validation studies, but training.eval_strategy is {arguments.eval_strategy.value}: give "
            "training.eval_strategy=no, or data with a validation split"
        ) from error
    trainer.add_callback(CheckpointSeal(trainer.args.save_total_limit))
    trainer.args.save_total_limit = None
    if recipe.early_stopping_patience is not None:
        trainer.add_callback(ResumableEarlyStopping(recipe.early_stopping_patience))
    if trainer.is_world_process_zero():
        if on_start is not None:
            on_start(trainer.model)
        claim_run_folder(output, recipe)
    return trainer


def _train(trainer: Trainer, output: Path, checkpoint: Path | None) -> RunResult:
    if checkpoint is not None:
        _train_no_further(trainer, checkpoint)
    started = perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = perf_counter() - started
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    trainer.save_model(str(output / MODEL))
    if trainer.is_world_process_zero():
        # A pickle with this machine's paths does not belong to a model that others receive; the recipe lies beside it.
        (output / MODEL / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        flush_to_disk([*(path for path in (output / MODEL).iterdir() if path.is_file()), output / MODEL])
    groups = parameter_groups(trainer.model)
    result = RunResult(
        model_dir=output / MODEL,
        metrics=metrics,
        history=trainer.state.log_history,
        steps=trainer.state.global_step,
        seconds=seconds,
        trained_parameters=sum(group.trained for group in groups),
        total_parameters=sum(group.total for group in groups),
    )
    if trainer.is_world_process_zero():
        write_whole(output / RESULT_FILE, json.dumps(asdict(result) | {"model_dir": "model"}, indent=1))
    trainer.accelerator.wait_for_everyone()
    return result


def _check_going_on(checkpoint: Path, arguments: TrainingArguments) -> None:
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    if not 0 < arguments.max_steps <= state.global_step:
        check_same_batches(checkpoint, arguments)


def _train_no_further(trainer: Trainer, checkpoint: Path) -> None:
    """Lets a run that was killed after its last step only end: in the middle of an epoch, the Trainer would take one
    step beyond `max_steps`, and some more where it had stopped early (transformers 5.24)."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    stopping = [c for c in trainer.callback_handler.callbacks if isinstance(c, ResumableEarlyStopping)]
    if not (0 < trainer.args.max_steps <= state.global_step or any(each.has_stopped(state) for each in stopping)):
        return
    trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0
    if not hasattr(trainer.train_dataset, "__len__"):
        # Epochs need an end, which a stream has not; nothing of it is read any more.
        trainer.train_dataset = [None]


def training_arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """The arguments of a recipe's Trainer, with defaults that depend on the machine.

    Raises:
        RecipeError: the best model may be in no checkpoint.
        ValueError: transformers finds that they contradict each other.
    """
    values: dict[str, Any] = {"report_to": ["tensorboard"]}
    if find_spec("tensorboard") is None:
        values = {"report_to": []}
        if "report_to" not in recipe.training:
            logger.warning("No curves are written: TensorBoard is not installed (pip install tensorboard)")
    if not torch.cuda.is_available():
        # Without both of these, several processes on the CPU silently train apart (accelerate 1.15).
        values |= {"use_cpu": True, "dataloader_pin_memory": False}
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            values |= {"ddp_backend": "gloo"}
    values |= {"ddp_find_unused_parameters": False} | recipe.fixed_arguments() | recipe.training
    if (metric := values.get("metric_for_best_model")) and values.get("greater_is_better") is None:
        values["greater_is_better"] = not _is_better_low(metric, recipe.stage)
    arguments = recipe.arguments_class()(str(folder), seed=recipe.seed, remove_unused_columns=False, **values)
    by_steps = arguments.load_best_model_at_end and arguments.save_strategy == "steps"
    if by_steps and arguments.save_steps != arguments.eval_steps:
        raise RecipeError(
            f"training.load_best_model_at_end needs a checkpoint of each evaluation, or the best model may be in none: "
            f"training.save_steps is {arguments.save_steps}, training.eval_steps {arguments.eval_steps}"
        )
    return arguments


def _is_better_low(metric: str, stage: str) -> bool:
    """The Trainer takes all for better high whose name does not end in `loss` (5.24)."""
    losses = {n for family in families_of_stage(stage).values() for n in getattr(family.config_class, "loss_names", ())}
    name = metric.removeprefix("eval_")
    return name.endswith("loss") or name in losses or name in LOWER_IS_BETTER


__all__ = ["RunResult", "read_result", "run_recipe", "training_arguments"]
