"""The engine that builds memories of training studies: in worker processes, to be resumed after a kill.

The studies are worked through in batches, each by one process into one file that is put in place when it is complete.
Which studies a batch consists of, and how a process works, does not depend on the number of processes, so neither does
a bit of the result.
"""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..configuration.families import Family, families, register_family
from ..data.output_lock import LOCK_FILE, locked_output
from ..data.whole_file import put_in_place, write_whole
from ..data.worker_processes import worker_processes
from ..evaluation.made_with import MadeWith
from ..modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory
from .memory_schedule import Batch, Schedule, Track
from .training_studies import MemoryBuildError, TrainingStudies, digest_of

# In progress: what this memory is made of, and the finished batches.
_WORK = ".in_progress"
_IDENTITY = "made_of.json"
_FILES = ("memory.safetensors", "memory.json")
_STUDY, _CONTENT = "study", "content"


class StudyEncoder(Protocol):
    """What makes vectors of studies. It is sent to worker processes, so it must be picklable, and loads its model when
    it is first called."""

    def on(self, device: str) -> Self:
        """The same for a device."""

    def __call__(self, track: str, studies: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Vectors of a batch of studies.

        Args:
            track: name of the track that the studies are on.
            studies: in the package's schema, images not decoded.

        Returns:
            By name, `(rows, width)`; and as `"study"` `(rows,)` the position in the batch of each row's study.
        """


@dataclass(frozen=True)
class MemoryPlan:
    """All that decides what a memory holds.

    Attributes:
        tracks: which studies.
        encoder: what makes vectors of them.
        columns: of the data set, that the encoder reads.
        source: where the memory comes from; its options and seed are compared when a build is resumed.
        with_reports: whether the reports' text is kept in the memory.
        batch_size: studies of a batch.
    """

    tracks: Sequence[Track]
    encoder: StudyEncoder
    columns: Sequence[str]
    source: MemorySource
    with_reports: bool
    batch_size: int


def build_memory(
    folder: str | Path,
    studies: TrainingStudies,
    plan: MemoryPlan,
    *,
    processes: int = 1,
    devices: Sequence[str] = ("cpu",),
    on_progress: Callable[[int, int], None] | None = None,
) -> StudyMemory:
    """Builds a memory, or resumes after an interruption; the result is the same to the bit, on the CPU.

    Args:
        folder: where it is written, made when absent. A memory that is there already is read if it is of the same
            making.
        studies: what may be remembered.
        plan: what is remembered of them.
        processes: worker processes, each with the models of its own and, on the CPU, one thread. More than one need a
            main module that can be imported.
        devices: one or several, which the processes take in turn.
        on_progress: called with the finished and all rows, at the start and after each batch.

    Raises:
        HeldOutStudyError: the memory that is there holds a study that may not be remembered.
        MemoryBuildError: the folder holds something else, or was begun from other studies, models or options; or not a
            single row came out.
        OutputInUseError: another process writes into this folder.
        ValueError: `processes` is below 1.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes}; it must be 1 or more")
    folder = Path(folder)
    with locked_output(folder, is_folder=True):
        made_of = _made_of(plan.source)
        if (folder / _FILES[1]).is_file():
            memory = StudyMemory.from_pretrained(folder)
            _compare(folder, _made_of(memory.source), made_of)
            studies.split.check(memory.study_ids, memory.patient_ids)
            # What a kill between the last two steps leaves.
            shutil.rmtree(folder / _WORK, ignore_errors=True)
            return memory
        _begin(folder, made_of)
        work = folder / _WORK
        try:
            batches = _work(work, studies, plan, processes, devices, on_progress or (lambda done, total: None))
            memory = _assemble(work, studies, plan, batches)
        except BaseException as error:
            # Nothing is left of work that came to nothing, or that can't come to anything else.
            if isinstance(error, MemoryBuildError) or not any(work.glob("*.safetensors")):
                shutil.rmtree(work, ignore_errors=True)
            raise
        _finish(folder, memory)
        return memory


def _made_of(source: MemorySource) -> dict[str, Any]:
    """What must be the same for a build to be resumed: all but names, which content stands for."""
    return json.loads(json.dumps({"seed": source.seed, **source.options}))


def _compare(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if different:
        raise MemoryBuildError(
            f"{folder} holds a memory that was built differently ({', '.join(different)}): give the same to resume, or "
            "choose another folder"
        )


def _begin(folder: Path, made_of: Mapping[str, Any]) -> None:
    begun = folder / _WORK / _IDENTITY
    if begun.is_file():
        _compare(folder, json.loads(begun.read_text(encoding="utf-8")), made_of)
        return
    # A kill between these steps leaves an empty work folder.
    if any(path.name not in (_WORK, LOCK_FILE) for path in folder.iterdir()):
        raise MemoryBuildError(f"{folder} is not empty and was not begun by this command: choose another folder")
    begun.parent.mkdir(exist_ok=True)
    write_whole(begun, json.dumps(made_of, indent=1, ensure_ascii=False))


# ------------------------------------------------------------------------------------------------------- batches


def _work(
    work: Path,
    studies: TrainingStudies,
    plan: MemoryPlan,
    processes: int,
    devices: Sequence[str],
    on_progress: Callable[[int, int], None],
) -> list[Batch]:
    """Does all batches that are not done yet; returns those that count."""
    schedule = Schedule(plan.tracks, plan.batch_size)
    on_progress(*schedule.progress())
    # More than there are processes, so that none waits while the next studies are read.
    ahead = 1 if processes == 1 else 2 * processes
    running: dict[Future[int], Batch] = {}
    with _executor(plan.encoder, processes, devices) as executor:
        while True:
            while len(running) < ahead and (batch := schedule.next()) is not None:
                rows = studies.rows(batch.rows, plan.columns)
                digest = digest_of([_content(row) for row in rows])
                count = _rows_of_batch(_file(work, batch), digest)
                if count is None:
                    name = plan.tracks[batch.track].name
                    running[executor.submit(_encode_batch, name, rows, _file(work, batch), digest)] = batch
                else:
                    schedule.finish(batch, count)
                    on_progress(*schedule.progress())
            if not running:
                break
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                schedule.finish(running.pop(job), job.result())
                on_progress(*schedule.progress())
    return list(schedule.counting())


def _file(work: Path, batch: Batch) -> Path:
    return work / f"{batch.track:02d}-{batch.number:06d}.safetensors"


def _content(study: Mapping[str, Any]) -> Any:
    """What a study's columns hold, images by what identifies them."""
    images = MadeWith().with_images(study["images"]).images if "images" in study else ""
    return [images, *(value for name, value in sorted(study.items()) if name != "images")]


def _rows_of_batch(file: Path, digest: str) -> int | None:
    """Rows of a finished batch; None where it is missing or of other studies, such as of images that have changed."""
    try:
        with safe_open(file, "pt") as stored:
            if (stored.metadata() or {}).get(_CONTENT) == digest:
                return stored.get_slice(_STUDY).get_shape()[0]
    except (FileNotFoundError, SafetensorError):
        pass
    return None


# Of a worker process, or of this one.
_encoder: StudyEncoder


@contextmanager
def _executor(encoder: StudyEncoder, processes: int, devices: Sequence[str]) -> Iterator[Executor]:
    if processes > 1:
        turns = multiprocessing.get_context("spawn").Value("i", 0)
        known = tuple(families().values())
        with worker_processes(processes, _prepare, known, encoder, devices, turns) as pool:
            yield pool
        return
    threads = torch.get_num_threads()
    _start(encoder, devices[0])
    try:
        yield _HereExecutor()
    finally:
        _stop(threads)


class _HereExecutor(Executor):
    """Does the work at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        job: Future[Any] = Future()
        job.set_result(function(*args, **kwargs))
        return job


def _prepare(known: Sequence[Family], encoder: StudyEncoder, devices: Sequence[str], turns: Any) -> None:
    # Those of plugins, which only the first process has imported.
    for family in known:
        register_family(family)
    with turns.get_lock():
        turn = turns.value
        turns.value += 1
    _start(encoder, devices[turn % len(devices)])


def _start(encoder: StudyEncoder, device: str) -> None:
    global _encoder
    # One, however many processes there are: sums in another order would differ in their last bits.
    torch.set_num_threads(1)
    _encoder = encoder.on(device)


def _stop(threads: int) -> None:
    """Lets the models go, which can be large."""
    global _encoder
    del _encoder
    torch.set_num_threads(threads)


def _encode_batch(track: str, studies: Sequence[Mapping[str, Any]], file: Path, digest: str) -> int:
    """Writes the vectors of a batch; returns the number of rows."""
    vectors = {name: tensor.contiguous().cpu() for name, tensor in _encoder(track, studies).items()}
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    save_file(vectors, draft, {_CONTENT: digest})
    put_in_place(draft, file)
    return len(vectors[_STUDY])


# ---------------------------------------------------------------------------------------------------- the memory


def _assemble(work: Path, studies: TrainingStudies, plan: MemoryPlan, batches: Sequence[Batch]) -> StudyMemory:
    vectors: dict[str, list[Tensor]] = {}
    positions: list[int] = []
    observations: list[str | None] = []
    left = {number: track.most for number, track in enumerate(plan.tracks)}
    for batch in batches:
        stored = load_file(_file(work, batch))
        most = left[batch.track]
        kept = slice(None) if most is None else slice(most)
        of_study = stored.pop(_STUDY)[kept].tolist()
        left[batch.track] = None if most is None else most - len(of_study)
        positions += [batch.rows[study] for study in of_study]
        observations += [plan.tracks[batch.track].name or None] * len(of_study)
        for name, tensor in stored.items():
            vectors.setdefault(name, []).append(tensor[kept])
    if not positions:
        raise MemoryBuildError(f"nothing came out of the {len(studies)} training studies, so there is no memory")
    return StudyMemory(
        {name: torch.cat(parts) for name, parts in vectors.items()},
        [studies.study_ids[row] for row in positions],
        [studies.patient_ids[row] for row in positions],
        plan.source,
        studies.split,
        observations=observations,
        reports=[studies.reports[row] for row in positions] if plan.with_reports else None,
    )


def _finish(folder: Path, memory: StudyMemory) -> None:
    draft = folder / _WORK / "memory"
    memory.save_pretrained(draft)
    # The description last: its presence means that the memory is complete.
    for name in _FILES:
        put_in_place(draft / name, folder / name)
    shutil.rmtree(folder / _WORK)


__all__ = ["MemoryPlan", "StudyEncoder", "build_memory"]
