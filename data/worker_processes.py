"""Worker processes for long work, which end with the process that started them, however that ends."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import Any


@contextmanager
def worker_processes(
    count: int, prepare: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Processes that wait for work; what is still waiting is dropped when the context ends by an error.

    More than one process needs a main module that can be imported, as always with `multiprocessing`'s spawn.

    Args:
        count: how many.
        prepare: called in each process before its first work, with `arguments`; both must be picklable.
    """
    # Not forked: the parent may hold threads and torch's state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _begin, (prepare, arguments)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """Ends this process when its parent was killed, which would else leave it waiting, or writing, for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


__all__ = ["available_cores", "worker_processes"]
