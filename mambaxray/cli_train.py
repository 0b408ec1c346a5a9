"""The commands that train, one per stage, as `mambaxray classify`; and `mambaxray recipes`."""

from pathlib import Path
from typing import Annotated

import typer

from .console import error_console, failure, result_console

_Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        help="Recipe: a name listed by mambaxray recipes, or a YAML file.",
    ),
]
_Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the model, checkpoints and results.")
]
_Restart = Annotated[
    bool,
    typer.Option("--restart", help="Delete the run in the folder (no other files) and start again."),
]
_Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]",
        help="Values that override the recipe's, such as data.source=my/folder training.max_steps=100.",
        show_default=False,
    ),
]


def recipes() -> None:
    """List the training recipes that come with the package."""
    from rich.table import Table

    from .train.recipe import list_recipes, read_recipe

    table = Table(box=None, pad_edge=False)
    for title in ("recipe", "stage", "description"):
        table.add_column(title, overflow="fold", no_wrap=title == "recipe")
    for name in list_recipes():
        # As their files have it: to check them would take seconds.
        recipe = read_recipe(name)
        table.add_row(name, recipe["stage"], recipe["description"])
    result_console().print(table)


def pretrain(recipe: _Recipe, output: _Output, overrides: _Overrides = None, restart: _Restart = False) -> None:
    """Pre-train a vision encoder on X-rays without reports (stage 1).

    The encoder learns to predict parts of each image from other parts. FOLDER receives the model (FOLDER/model), images
    of the predictions (FOLDER/pictures), checkpoints, the resolved recipe, the environment and the results. The same
    command resumes an interrupted run; more steps extend a finished one. Monitor with: tensorboard --logdir FOLDER.

    \b
    Examples:
      mambaxray pretrain --recipe pretrain_phantoms --output runs/1
      mambaxray pretrain --recipe mambaxray_base_pretrain --output runs/1 \\
        data.folders=[my/xrays,more/xrays]
    """
    _run("pretrain", recipe, output, overrides, restart)


def contrast(recipe: _Recipe, output: _Output, overrides: _Overrides = None, restart: _Restart = False) -> None:
    """Train a vision encoder contrastively on X-rays with reports (stage 2).

    FOLDER receives the model (FOLDER/model), checkpoints, the resolved recipe, the environment and the results, with
    the recall of retrieval from image to report and from report to image. The same command resumes an interrupted run.
    Monitor with: tensorboard --logdir FOLDER.

    \b
    Examples:
      mambaxray contrast --recipe contrast_phantoms --output runs/2
      mambaxray contrast --recipe mambaxray_base_contrast --output runs/2 \\
        data.source=my/studies model.vision_encoder=runs/1/model
    """
    _run("contrast", recipe, output, overrides, restart)


def classify(recipe: _Recipe, output: _Output, overrides: _Overrides = None, restart: _Restart = False) -> None:
    """Train a vision encoder and disease queries on labels (stage 1 of AM-MRG and of the dual-stage system).

    FOLDER receives the model (FOLDER/model), AUROC and F1 of each observation with intervals (FOLDER/classification.md
    and .json), checkpoints, the resolved recipe, the environment and the results. The same command resumes an
    interrupted run. Monitor with: tensorboard --logdir FOLDER.

    \b
    Examples:
      mambaxray classify --recipe ammrg_stage1_phantoms --output runs/1
      mambaxray classify --recipe ammrg_stage1_mimic --output runs/1 \\
        data.source=prepared/mimic
    """
    _run("classify", recipe, output, overrides, restart)


def finetune(recipe: _Recipe, output: _Output, overrides: _Overrides = None, restart: _Restart = False) -> None:
    """Fine-tune a report generator on X-rays with reports (stage 3).

    FOLDER receives the model (FOLDER/model), checkpoints, the resolved recipe, the environment and the results. The
    same command resumes an interrupted run. Monitor with: tensorboard --logdir FOLDER.

    Several GPUs or processes: torchrun --nproc_per_node 2 --no-python mambaxray finetune ...

    \b
    Examples:
      mambaxray finetune --recipe finetune_phantoms --output runs/phantoms
      mambaxray finetune --recipe mambaxray_base_iu --output runs/iu \\
        data.source=path/to/iu_xray
    """
    _run("finetune", recipe, output, overrides, restart)


def align(recipe: _Recipe, output: _Output, overrides: _Overrides = None, restart: _Restart = False) -> None:
    """Train a report generator with rewards for what its reports say (after stage 3).

    The model writes several reports for each study, and learns to prefer those that rewards like: findings, their side
    and size, no contradictions (method=grpo or method=dpo). Needs the extra [rl] (TRL). FOLDER receives the model
    (FOLDER/model), the reports of the validation studies before and after, all scores of both with what else has
    changed (FOLDER/guard), the preference pairs of dpo (FOLDER/pairs.jsonl), checkpoints, the resolved recipe, the
    environment and the results. The same command resumes an interrupted run.

    \b
    Examples:
      mambaxray align --recipe align_phantoms --output runs/aligned \\
        model.checkpoint=demo/model
      mambaxray align --recipe align_mimic --output runs/mimic \\
        data.source=prepared/mimic model.checkpoint=runs/3/model
    """
    from .train.alignment_result import alignment_rows, read_alignment

    _run("align", recipe, output, overrides, restart)
    try:
        rows = alignment_rows(read_alignment(output))
    except FileNotFoundError:  # no validation studies
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("held-out studies", "before", "after", "difference, or references"):
        table.add_column(title, justify="right" if title in ("before", "after") else "left")
    for row in rows:
        table.add_row(*row)
    result_console().print(table)


def _run(stage: str, recipe: str, output: Path, overrides: list[str] | None, restart: bool) -> None:
    from .train.recipe import RecipeError, make_recipe, read_recipe
    from .train.run_result import finished_result

    console = error_console()
    try:
        values = read_recipe(recipe, overrides or ())
        if values.get("stage") != stage:
            make_recipe(values)
            raise RecipeError(
                f"{recipe} is a recipe for {values['stage']}: run mambaxray {values['stage']} --recipe {recipe}"
            )
        result = None if restart else finished_result(values, output)
        if result is None:
            from .train.parameter_table import parameter_table
            from .train.run import run_recipe

            result = run_recipe(
                make_recipe(values),
                output,
                restart=restart,
                on_start=lambda model: console.print(parameter_table(model)),
            )
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes")
        raise typer.Exit(130) from None
    except (OSError, TypeError, ValueError) as error:
        raise failure(error) from error
    share = f"{result.trained_parameters:,} of {result.total_parameters:,} parameters"
    console.print(f"{result.steps} steps, {share}, {result.seconds / 60:.1f} minutes; model: {result.model_dir}")
    for name, value in result.metrics.items():
        console.print(f"  {name}: {value:.4g}")
