"""The command line `mambaxray`. What the commands do lies elsewhere and is imported when they run."""

import io
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .cli_analyse import analyse_app
from .cli_bench import bench_app
from .cli_compare import compare
from .cli_convert import convert
from .cli_evaluate import evaluate
from .cli_exemplars import analyze
from .cli_explain import explain
from .cli_generate import generate
from .cli_group import command_group
from .cli_hub import card, export, push, tiny
from .cli_memory import memory_app, retrieval_app
from .cli_options import MODEL_HELP, SeedOption
from .cli_prepare import prepare
from .cli_train import align, classify, contrast, finetune, pretrain, recipes
from .cli_views import views_app
from .console import SAFETY, failure, quiet_transformers

app = command_group(
    f"Generate radiology reports for chest X-rays, and train and evaluate models that do.\n\n{SAFETY}",
    name="mambaxray",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# What may be empty; an empty path would be the working directory.
_MAY_BE_EMPTY = ("--prompt", "--indication")


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal or file in another encoding gets what it can't show as an escape sequence.
            stream.reconfigure(errors="backslashreplace")
    for before, argument in pairwise(["", *sys.argv[1:]]):
        name, separator, value = argument.partition("=")
        option = name if separator and not value and name.startswith("--") else before if not argument else None
        if option is not None and option not in _MAY_BE_EMPTY:
            where = f" for {option}" if option.startswith("-") else ""
            raise SystemExit(failure(ValueError(f"an empty argument{where}: a variable that is not set?")).exit_code)
    try:
        app()
    except Exception as error:
        # Of a full disk or a damaged file: not an OSError, and of a package that few commands load.
        if type(error).__name__ != "SafetensorError":
            raise
        raise SystemExit(failure(error).exit_code) from error


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mambaxray {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="Python module that registers a system of your own, installed or in the working directory. Can be "
            "repeated.",
        ),
    ] = None,
) -> None:
    if plugin:
        from .configuration.families import import_plugins

        try:
            import_plugins(plugin)
        except ValueError as error:
            raise failure(error) from error


def demo(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the page, the model and the data.")] = Path(
        "demo"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of real X-rays with an annotation.json in R2Gen's format, instead of phantoms.",
        ),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Train a small model from scratch on drawn X-rays and show its reports.

    Draws artificial chest X-rays with known findings (phantoms), trains on them on the CPU in a few minutes, and writes
    OUTPUT/index.html: held-out phantoms with their reference and generated reports, and scores. The model is saved to
    OUTPUT/model.
    """
    from .demo import run_demo

    try:
        run_demo(output, data=data, seed=seed)
    except (OSError, ValueError) as error:
        raise failure(error) from error


def info(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False),
    ] = None,
) -> None:
    """Show a model's parts and sizes without loading its weights.

    Without MODEL: installed versions, the default device and the available implementations of the selective scan.
    """
    from .info import ModelLoadError, describe_environment, describe_model

    try:
        if model is not None:
            quiet_transformers()
        sections = describe_environment() if model is None else describe_model(model)
    except ModelLoadError as error:
        raise failure(error) from error
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for index, (title, rows) in enumerate(sections.items()):
        if index:
            table.add_row()
        table.add_row(title)
        for name, value in rows.items():
            table.add_row(f"  {name}", value, style="not bold")
    Console(highlight=False, markup=False).print(table)


# In the order of use, as --help shows them.
for _command in (
    *(demo, generate, prepare),
    *(recipes, pretrain, contrast, classify, finetune, align),
    *(evaluate, compare, explain),
    *(info, convert, card, push, export, tiny),
):
    app.command()(_command)
app.add_typer(memory_app, name="memory")
retrieval_app.command("analyze")(analyze)
app.add_typer(retrieval_app, name="retrieval")
app.add_typer(analyse_app, name="analyse")
app.add_typer(bench_app, name="bench")
app.add_typer(views_app, name="views")


if __name__ == "__main__":
    main()
