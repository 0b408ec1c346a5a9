"""One process at a time on one output: a second one gets an error before it does anything."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .whole_file import missing_folders

LOCK_FILE = ".lock"


class OutputInUseError(OSError):
    """Another process is writing to this output."""


@contextmanager
def locked_output(output: str | Path, *, is_folder: bool) -> Iterator[None]:
    """Keeps other processes of this package off an output for as long as the context lasts.

    The lock is the operating system's: it ends with the process, however that ends. Its file lies in the folder, or
    beside the file, and is removed at the end, and so are folders that were made for it and that nothing was put into.

    Args:
        output: what is written to; folders above it, or itself as a folder, are made.
        is_folder: whether it is a folder, or a file.

    Raises:
        OutputInUseError: another process has it.
        OSError: the place can't be written to.
    """
    output = Path(output)
    file = output / LOCK_FILE if is_folder else output.with_name(f".{output.name}{LOCK_FILE}")
    made = missing_folders(file.parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputInUseError(
                f"{output} is being written to by another process: wait for it, or choose another output"
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):
                file.unlink()
            lock.release()
    finally:
        # Those that hold anything stay.
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


__all__ = ["LOCK_FILE", "OutputInUseError", "locked_output"]
