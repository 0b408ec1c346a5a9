"""Run the cells of a benchmark: train, write the test split's reports, score them; each once, and resumable.

A cell that is interrupted resumes where it was; one that lacks data or weights, or fails, says why and leaves the
others alone, and is tried again by the next run.
"""

import gc
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import find_executable_batch_size
from transformers import AutoConfig

from ..data.output_lock import locked_output
from ..data.studies import first_studies, load_studies
from ..data.whole_file import write_whole
from ..evaluation.evaluate_model import generate_predictions, score_predictions
from ..evaluation.made_with import MadeWith
from ..evaluation.pages.evaluation_page import write_evaluation_page
from ..evaluation.report_files import read_reports
from ..evaluation.study_report import StudyReport
from .bench_grid import LARGEST_BATCH, Bench, Cell, make_bench
from .finetune import make_generator
from .processes import run_in_processes
from .recipe import FinetuneRecipe, RecipeError
from .run import read_result, run_recipe
from .run_folder import delete_run
from .stage_parts import named_part

if TYPE_CHECKING:
    from datasets import Dataset

_TEXT_COLUMNS = ("study_id", "patient_id", "report")
BENCH_FILE = "bench.json"
_RESULT_FILE, _PREDICTIONS_FILE, _PAGE_FILE = "result.json", "predictions.jsonl", "evaluation.html"
_logger = logging.getLogger(__name__)


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


def run_bench(
    bench: Bench, output: str | Path, *, progress: Callable[[Cell, CellResult | None], None] | None = None
) -> list[tuple[Cell, CellResult]]:
    """Runs the cells that are not done yet, one after another.

    Args:
        bench: what `load_bench` returns.
        output: folder for everything; each cell has one below it with its run, predictions, result and page. A bench
            that has grown can continue in the folder of its smaller version.
        progress: called before each cell with None, and after it with its result.

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
        return _run_cells(cells, bench, output, progress)


def _claim(output: Path, bench: Bench) -> None:
    """Writes the bench into its folder, unless something else lies there."""
    file = output / BENCH_FILE
    if file.is_file():
        read_bench(output)
    elif (output / "cells").exists():
        raise FileExistsError(f"{output / 'cells'} exists and is of no bench: choose another output folder")
    write_whole(file, json.dumps(bench.model_dump(), indent=1))


def _run_cells(
    cells: Sequence[Cell], bench: Bench, output: Path, progress: Callable[[Cell, CellResult | None], None] | None
) -> list[tuple[Cell, CellResult]]:
    results = []
    for cell in cells:
        result = _read(output, cell, bench)
        if result.state != "done":
            if progress is not None:
                progress(cell, None)
            _forget_other_parts(output, cell, bench)
            result = _attempt(cell, bench, output)
            _write(output, cell, bench, result)
        if progress is not None:
            progress(cell, result)
        results.append((cell, result))
    return results


def _forget_other_parts(output: Path, cell: Cell, bench: Bench) -> None:
    """Deletes what the cell's folder holds of a model whose parts have since been changed where they lie, and notes the
    parts of the coming one."""
    folder, parts = output / cell.folder, _settings(cell, bench).get("parts", {})
    known: dict[str, str] = {}
    if (folder / _RESULT_FILE).is_file():
        known = json.loads((folder / _RESULT_FILE).read_text(encoding="utf-8"))["settings"].get("parts", {})
    if any(known[name] != parts.get(name) for name in known):
        _logger.warning("%s: its model's parts have changed, so it begins again", cell.title)
        delete_run(folder / "run")
        (folder / _PREDICTIONS_FILE).unlink(missing_ok=True)
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
    return bench, [(cell, _read(Path(output), cell, bench)) for cell in bench.cells()]


def _attempt(cell: Cell, bench: Bench, output: Path) -> CellResult:
    try:
        return _run(cell, bench, output)
    except OSError as error:
        # Absent files, and what the Hub's client raises for absent models and without a network.
        return CellResult("lacking", _line(error))
    # A cell that fails, for want of memory perhaps, must not take the others with it.
    except Exception as error:
        _logger.warning("%s failed", cell.title, exc_info=True)
        return CellResult("failed", _line(error))
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _run(cell: Cell, bench: Bench, output: Path) -> CellResult:
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
    result = score_predictions(predictions, training_reports=training_reports, metrics=bench.test.metrics)
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
    )


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
    if recipe.data.source is None:
        raise FileNotFoundError("no data.source is given")
    splits = load_studies(recipe.data.source, **recipe.data.options)
    if not len(splits.get("test", ())):
        raise FileNotFoundError(f"{recipe.data.source} has no test studies")
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
    return CellResult(**values["result"]) if values["settings"] == _settings(cell, bench) else CellResult("open")


def _write(output: Path, cell: Cell, bench: Bench, result: CellResult) -> None:
    folder = output / cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    values = {"settings": _settings(cell, bench), "result": asdict(result)}
    write_whole(folder / _RESULT_FILE, json.dumps(values, indent=1))


def _settings(cell: Cell, bench: Bench) -> dict[str, Any]:
    """What a result is the result of."""
    test = bench.test
    scored = {"max_studies": test.max_studies, "metrics": test.metrics}
    settings = {"recipe": cell.recipe.to_dict(), "train": cell.train, **scored}
    model = cell.recipe.model
    named = {key: getattr(model, key) for key in ("checkpoint", "vision_encoder", "language_model")}
    # A folder's content counts, which may be trained anew under the same name.
    folders = {key: name for key, name in named.items() if isinstance(name, str) and Path(name).is_dir()}
    if folders:
        settings["parts"] = {key: MadeWith.of_saved(name, {}).model for key, name in folders.items()}
    if cell.predictions is None:
        return settings
    file = Path(cell.predictions)
    # The file's content counts, not its name.
    return settings | {"predictions": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None}


def _line(error: Exception) -> str:
    """An error in one line; that of another process stands at the end of its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if isinstance(error, torch.multiprocessing.ProcessRaisedException) else lines[0]


__all__ = ["BENCH_FILE", "CellResult", "read_bench", "run_bench"]
