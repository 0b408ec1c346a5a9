"""Run the cells of a benchmark: what they need first, train, write the test split's reports, score them.

Each is done once, and resumable. A cell that is interrupted resumes where it was; one that lacks data or weights, or
fails, says why and leaves the others alone, and is tried again by the next run. So does a step, together with the cells
that need it.
"""

import gc
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import find_executable_batch_size
from transformers import AutoConfig

from ..data.output_lock import locked_output
from ..data.studies import first_studies
from ..data.whole_file import write_whole
from ..evaluation.copying import copying
from ..evaluation.evaluate_model import generate_predictions, score_predictions
from ..evaluation.pages.evaluation_page import write_evaluation_page
from ..evaluation.radeval_metrics import RADEVAL_METRICS
from ..evaluation.report_files import read_reports
from ..evaluation.study_report import StudyReport
from .bench_grid import LARGEST_BATCH, Bench, Cell, make_bench
from .bench_step_run import is_current, is_stale, part_digests, run_step
from .bench_steps import PlannedStep, resolved
from .finetune import make_generator
from .learning_curve import best_evaluation
from .processes import run_in_processes
from .recipe import make_recipe
from .recipe_finetune import FinetuneRecipe
from .recipe_text import RecipeError
from .run import RunResult, read_result, run_recipe
from .run_folder import delete_run
from .stage_parts import load_all_splits, named_part

if TYPE_CHECKING:
    from datasets import Dataset

_TEXT_COLUMNS = ("study_id", "patient_id", "report")
BENCH_FILE = "bench.json"
_RESULT_FILE, _PARTS_FILE = "result.json", "parts.json"
_PREDICTIONS_FILE, _PAGE_FILE = "predictions.jsonl", "evaluation.html"
_logger = logging.getLogger(__name__)
_Outcome = TypeVar("_Outcome")


@dataclass(frozen=True)
class CellResult:
    """What became of a cell.

    Attributes:
        state: `done`; `lacking` (data or weights are absent); `failed`; `open` (not run yet).
        reason: why it is lacking or failed.
        scores: names and values of `evaluate_reports`.
        signature: what exactly was scored.
        studies: number of test studies.
        minutes: time to write the reports of the test split, summed over interruptions.
        trained_parameters: number of parameters that were trained; None for a model that was taken as it is.
        training_minutes: time of training in the process that finished it; None likewise.
        page: the cell's evaluation page, relative to the bench's folder.
        numbers: what `best_evaluation`, `copying` and the Trainer's last evaluation (`eval_loss` …) say.
        unavailable: metrics that could not be computed, and why.
    """

    state: str
    reason: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    signature: str = ""
    studies: int = 0
    minutes: float | None = None
    trained_parameters: int | None = None
    training_minutes: float | None = None
    page: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def run_bench(
    bench: Bench,
    output: str | Path,
    *,
    progress: Callable[[Cell, CellResult | None], None] | None = None,
    on_step: Callable[[Cell, PlannedStep], None] | None = None,
) -> list[tuple[Cell, CellResult]]:
    """Runs the cells that are not done yet, one after another.

    Args:
        bench: what `load_bench` returns.
        output: folder for everything; each cell has one below it with its run, predictions, result and page. A bench
            that has grown can continue in the folder of its smaller version.
        progress: called before each cell with None, and after it with its result.
        on_step: called before each step that is run for a cell.

    Returns:
        All cells with what became of them.

    Raises:
        RecipeError: a choice sets what its recipe has not.
        FileNotFoundError: a recipe that does not exist.
        FileExistsError: the folder holds something else.
        OutputInUseError: another process runs a bench in this folder.
    """
    cells = bench.cells()
    output = Path(output)
    with locked_output(output, is_folder=True):
        _claim(output, bench)
        return _run_cells(cells, bench, output.resolve(), progress, on_step)


def _claim(output: Path, bench: Bench) -> None:
    """Writes the bench into its folder, unless something else lies there."""
    file = output / BENCH_FILE
    if file.is_file():
        read_bench(output)
    elif (output / "cells").exists():
        raise FileExistsError(f"{output / 'cells'} exists and is of no bench: choose another output folder")
    write_whole(file, json.dumps(bench.model_dump(), indent=1))


def _run_cells(
    cells: Sequence[Cell],
    bench: Bench,
    output: Path,
    progress: Callable[[Cell, CellResult | None], None] | None,
    on_step: Callable[[Cell, PlannedStep], None] | None,
) -> list[tuple[Cell, CellResult]]:
    results = []
    # Steps that were not done in this run, and why: they are not tried again for every cell that needs them.
    broken: dict[str, CellResult] = {}
    for cell in cells:
        result = _read(output, cell, bench)
        if result.state != "done":
            if progress is not None:
                progress(cell, None)
            failed = _run_steps(cell, bench, output, broken, on_step)
            if failed is not None:
                result = failed
            else:
                _forget_other_parts(output, cell, bench)
                result = _attempt(cell.title, partial(_run, cell, bench, output))
            _write(output, cell, bench, result)
        if progress is not None:
            progress(cell, result)
        results.append((cell, result))
    return results


def _run_steps(
    cell: Cell,
    bench: Bench,
    output: Path,
    broken: dict[str, CellResult],
    on_step: Callable[[Cell, PlannedStep], None] | None,
) -> CellResult | None:
    """Runs what the cell needs and is not done; what became of the cell when that can't be, else None."""
    places = step_places(cell, output)
    for step in cell.steps:
        if step.key not in broken:
            if on_step is not None and not is_current(step, output, places):
                on_step(cell, step)
            title = f"step {step.name}"
            result = _attempt(f"{cell.title}, {title}", partial(run_step, step, output, places, bench.processes))
            if result is None:
                continue
            broken[step.key] = replace(result, reason=f"{title}: {result.reason}")
        return broken[step.key]
    return None


def step_places(cell: Cell, output: Path) -> dict[str, Path]:
    """The folders that `${NAME}` stands for in a cell's recipe and steps."""
    return {step.name: output / step.result for step in cell.steps}


def _resolved(cell: Cell, output: Path) -> Cell:
    """The cell with the folders of its steps' results in its recipe."""
    if not cell.steps:
        return cell
    recipe = make_recipe(resolved(cell.recipe.to_dict(), step_places(cell, output)))
    return replace(cell, recipe=cast("FinetuneRecipe", recipe))


def _forget_other_parts(output: Path, cell: Cell, bench: Bench) -> None:
    """Deletes what the cell's folder holds of a model whose parts or steps have since been changed, and notes those of
    the coming one."""
    file, settings = output / cell.folder / _PARTS_FILE, _settings(cell, bench, output)
    known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    now = {**settings.get("parts", {}), **settings.get("steps", {})}
    if any(digest != now.get(name) for name, digest in known.items()):
        _logger.warning("%s: its model's parts have changed, so it begins again", cell.title)
        delete_run(file.parent / "run")
        (file.parent / _PREDICTIONS_FILE).unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(now, indent=1))
    _write(output, cell, bench, CellResult("open"))


def read_bench(output: str | Path) -> tuple[Bench, list[tuple[Cell, CellResult]]]:
    """A bench and what has become of its cells so far, from its folder.

    Raises:
        FileNotFoundError: no bench has run in this folder.
        RecipeError: its file is not what a bench writes.
    """
    file = Path(output) / BENCH_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{output} holds no bench; start one with: mambaxray bench run BENCH.yaml")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        bench = make_bench({name: value for name, value in values.items() if value})
    except (ValueError, AttributeError) as error:
        raise RecipeError(f"{file} is not what a bench writes: {error}") from error
    return bench, [(cell, _read(Path(output).resolve(), cell, bench)) for cell in bench.cells()]


def plan_bench(bench: Bench, output: str | Path) -> tuple[list[tuple[PlannedStep, str]], list[tuple[Cell, CellResult]]]:
    """What `run_bench` would do with these arguments: the steps and their states, `done` or `open`, and the cells.

    Nothing is run or written; errors as for `run_bench`.
    """
    output = Path(output).resolve()
    results = [(cell, _read(output, cell, bench)) for cell in bench.cells()]
    states: dict[str, tuple[PlannedStep, str]] = {}
    for cell, _ in results:
        for step in cell.steps:
            current = is_current(step, output, step_places(cell, output))
            states[step.key] = (step, "done" if current else "open")
    return list(states.values()), results


def _attempt(title: str, work: Callable[[], _Outcome]) -> _Outcome | CellResult:
    """What the work returns, or why it could not be done."""
    try:
        return work()
    except OSError as error:
        # Absent files, and what the Hub's client raises for absent models and without a network.
        return CellResult("lacking", _line(error))
    # What fails, for want of memory perhaps, must not take the other cells with it.
    except Exception as error:
        _logger.warning("%s failed", title, exc_info=True)
        return CellResult("failed", _line(error))
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _run(cell: Cell, bench: Bench, output: Path) -> CellResult:
    cell = _resolved(cell, output)
    folder = output / cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    splits = _studies(cell.recipe)
    test = first_studies(splits["test"], bench.test.max_studies)
    trained = None
    if cell.predictions is not None:
        predictions = _somebodys(cell.predictions, test)
    else:
        _require_weights(cell.recipe)
        if cell.train:
            run_in_processes(_train, (cell.recipe, folder / "run"), bench.processes)
            trained = read_result(folder / "run")
        run_in_processes(_predict, (cell, test, folder, bench), bench.processes)
        predictions = read_reports(folder / _PREDICTIONS_FILE)
    training_reports = list(splits["train"]["report"]) if len(splits.get("train", ())) else None
    result = score_predictions(
        predictions,
        training_reports=training_reports,
        metrics=bench.test.metrics,
        external_python=bench.test.external_python,
    )
    write_evaluation_page(
        folder / _PAGE_FILE,
        result,
        predictions,
        title=cell.title,
        dataset=test,
    )
    return CellResult(
        "done",
        scores=result["scores"],
        signature=result["signature"],
        studies=len(predictions),
        minutes=None if cell.predictions is not None else sum(p.seconds or 0 for p in predictions) / 60,
        trained_parameters=None if trained is None else trained.trained_parameters,
        training_minutes=None if trained is None else trained.seconds / 60,
        page=(cell.folder / _PAGE_FILE).as_posix(),
        numbers=_learned(trained, cell.recipe) | copying(predictions),
        unavailable={name: why for name, why in result["unavailable"].items() if name in RADEVAL_METRICS},
    )


def _learned(trained: RunResult | None, recipe: FinetuneRecipe) -> dict[str, float]:
    """What the training run says in numbers."""
    if trained is None:
        return {}
    evaluated = {name: value for name, value in trained.metrics.items() if isinstance(value, int | float)}
    return evaluated | best_evaluation(trained.history, recipe.training)


def _somebodys(file: str, test: "Dataset") -> list[StudyReport]:
    """The reports of a file beside our references; the file's own references play no part."""
    reports = {row.study_id: row.report for row in read_reports(file)}
    studies = test.remove_columns([name for name in test.column_names if name not in _TEXT_COLUMNS])
    missing = [study["study_id"] for study in studies if study["study_id"] not in reports]
    if missing:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise ValueError(f"{file} has no report for {len(missing)} of {len(test)} test studies: {shown}")
    return [
        StudyReport(
            study_id=study["study_id"],
            patient_id=study.get("patient_id") or study["study_id"],
            reference=study["report"],
            report=reports[study["study_id"]] or "",
            seconds=0.0,
            settings=json.dumps({"file": file}),
        )
        for study in studies
    ]


def _studies(recipe: FinetuneRecipe) -> "Mapping[str, Dataset]":
    if not recipe.data.all_sources:
        raise FileNotFoundError("no data.source is given")
    splits = load_all_splits(recipe.data, for_training=False)
    if not len(splits.get("test", ())):
        sources = ", ".join(each.source for each in recipe.data.all_sources)
        raise FileNotFoundError(f"{sources} has no test studies")
    return splits


def _require_weights(recipe: FinetuneRecipe) -> None:
    """Asks for the configurations of pre-trained parts, which is cheap, before any of them is loaded."""
    model = recipe.model
    for key in ("checkpoint", "vision_encoder", "language_model"):
        if isinstance(name := getattr(model, key), str):
            with named_part(f"model.{key}", name):
                AutoConfig.from_pretrained(name)


def _train(recipe: FinetuneRecipe, folder: Path) -> None:
    run_recipe(recipe, folder)


def _predict(cell: Cell, test: "Dataset", folder: Path, bench: Bench) -> None:
    section = cell.recipe.model
    if cell.train:
        section = type(section)(checkpoint=str(folder / "run" / "model"))
    model, processor = make_generator(section, ())
    model.generation_config.update(**cell.recipe.generation)
    # A quantized model is where it was loaded.
    if getattr(model, "hf_device_map", None) is None:
        model.to(PartialState(cpu=not torch.accelerator.is_available()).device)

    def predict(batch_size: int) -> None:
        generate_predictions(
            model,
            processor,
            test,
            output=folder / _PREDICTIONS_FILE,
            resume=True,
            batch_size=batch_size,
            num_workers=bench.test.num_workers,
            evidence=bench.test.evidence,
            **cell.recipe.generation,
        )

    if isinstance(bench.test.batch_size, str):  # largest
        # A batch that does not fit is made smaller by a tenth; what is written is kept.
        find_executable_batch_size(predict, starting_batch_size=LARGEST_BATCH)()
    else:
        predict(bench.test.batch_size)


def _read(output: Path, cell: Cell, bench: Bench) -> CellResult:
    file = output / cell.folder / _RESULT_FILE
    if not file.is_file():
        return CellResult("open")
    values = json.loads(file.read_text(encoding="utf-8"))
    places = step_places(cell, output)
    same = values["settings"] == _settings(cell, bench, output)
    same = same and not any(is_stale(step, output, places) for step in cell.steps)
    return CellResult(**values["result"]) if same else CellResult("open")


def _write(output: Path, cell: Cell, bench: Bench, result: CellResult) -> None:
    folder = output / cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    values = {"settings": _settings(cell, bench, output), "result": asdict(result)}
    write_whole(folder / _RESULT_FILE, json.dumps(values, indent=1))


def _settings(cell: Cell, bench: Bench, output: Path) -> dict[str, Any]:
    """What a result is the result of. The recipe is noted without the places of the steps' results, which move with the
    bench's folder."""
    test = bench.test
    scored: dict[str, Any] = {"max_studies": test.max_studies, "metrics": test.metrics}
    if test.evidence:
        scored["evidence"] = True
    settings = {"recipe": cell.recipe.to_dict(), "train": cell.train, **scored}
    if cell.steps:
        settings["steps"] = {step.name: step.key for step in cell.steps}
    # A folder's content counts, which may be trained anew under the same name.
    if parts := part_digests(_resolved(cell, output).recipe.model.model_dump()):
        settings["parts"] = parts
    if cell.predictions is None:
        return settings
    file = Path(cell.predictions)
    # The file's content counts, not its name.
    return settings | {"predictions": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None}


def _line(error: Exception) -> str:
    """An error in one line; that of another process stands at the end of its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if isinstance(error, torch.multiprocessing.ProcessRaisedException) else lines[0]


__all__ = ["BENCH_FILE", "CellResult", "plan_bench", "read_bench", "run_bench", "step_places"]
