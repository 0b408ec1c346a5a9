"""The commands that run a grid of models and show it as a table: `mambaxray bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .cli_group import command_group
from .console import error_console, failure, quiet_transformers, result_console

if TYPE_CHECKING:
    from .train.bench_grid import Cell
    from .train.bench_run import CellResult
    from .train.bench_steps import PlannedStep
    from .train.table_text import TableFormat

bench_app = command_group(
    "Train and compare encoders, decoders, data sets and variants in one table, with the stages before them."
)


@bench_app.command()
def run(
    bench: Annotated[
        str,
        typer.Argument(
            metavar="BENCH",
            help="YAML file that defines the grid (see docs/benchmark.md), or the name of one of the package's "
            "(mambaxray bench list).",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for models, reports and results.")
    ],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the cells, the steps before them and what is done, and run nothing."),
    ] = False,
) -> None:
    """Train and evaluate every cell of a grid: data set x vision encoder x decoder x variant x checkpoint.

    What a cell needs first, such as a pre-trained encoder or a memory, are its steps; each runs once for all cells that
    agree in it. The same command resumes an interrupted run. A cell whose data or weights are missing is marked with
    the reason and retried by the next run.

    \b
    Example:
      mambaxray bench run phantoms --output runs/bench
    """
    from datasets import disable_progress_bars

    from .train.bench_grid import load_bench
    from .train.bench_run import plan_bench, run_bench

    quiet_transformers()
    disable_progress_bars()
    console = error_console()

    def show(cell: "Cell", result: "CellResult | None") -> None:
        if result is None:
            console.print(f"{cell.title} ...")
        elif result.state == "done":
            console.print(f"{cell.title}: done")
        else:
            console.print(f"{cell.title}: {result.state}: {result.reason}")

    def show_step(cell: "Cell", step: "PlannedStep") -> None:
        console.print(f"{cell.title}: step {step.name} ...")

    try:
        if dry_run:
            _print_plan(*plan_bench(load_bench(bench), output))
            return
        results = run_bench(load_bench(bench), output, progress=show, on_step=show_step)
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes")
        raise typer.Exit(130) from None
    except (OSError, TypeError, ValueError) as error:
        raise failure(error) from error
    done = sum(result.state == "done" for _, result in results)
    console.print(f"{done} of {len(results)} cells are done; the table: mambaxray bench table {output}")
    if any(result.state == "failed" for _, result in results):
        raise typer.Exit(1)


@bench_app.command("list")
def list_() -> None:
    """List the benches that come with the package."""
    from .train.bench_grid import list_benches

    benches = list_benches()
    width = max(map(len, benches))
    for name, description in benches.items():
        typer.echo(f"{name:{width}}  {description}")


def _print_plan(steps: "list[tuple[PlannedStep, str]]", results: "list[tuple[Cell, CellResult]]") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("cell", "state", "steps before it"):
        table.add_column(name)
    for cell, result in results:
        table.add_row(cell.title, result.state, ", ".join(step.folder.name for step in cell.steps))
    console = result_console()
    if steps:
        before = Table(box=None, pad_edge=False)
        for name in ("step", "folder", "state", "for"):
            before.add_column(name)
        for step, state in steps:
            cells = sum(step.key in [each.key for each in cell.steps] for cell, _ in results)
            before.add_row(step.name, step.folder.name, state, f"{cells} {'cell' if cells == 1 else 'cells'}")
        console.print(before)
        console.print()
    console.print(table)
    console.print(f"\n{len(steps)} steps, {len(results)} cells")


@bench_app.command()
def table(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Output folder of mambaxray bench run.", show_default=False)
    ],
    form: Annotated[
        str, typer.Option("--format", "-f", metavar="FORMAT", help="Table format: markdown, latex or html.")
    ] = "markdown",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File for the table. Default: print it.")
    ] = None,
    observations: Annotated[
        bool,
        typer.Option("--observations", help="Show the recall of each observation, the most frequent first, instead."),
    ] = False,
) -> None:
    """Show the results of a grid, finished or not, beside the published numbers."""
    from .data.whole_file import write_whole
    from .train.bench_run import read_bench
    from .train.bench_table import render_observations, render_table

    try:
        render = render_observations if observations else render_table
        text = render(*read_bench(folder), cast("TableFormat", form))
        if output is not None:
            write_whole(output, text)
            return
    except (OSError, ValueError) as error:
        raise failure(error) from error
    typer.echo(text, nl=False)
