"""Files that are there whole or not at all, however the program or the machine ends."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PROBE_BYTES = 2**20


def write_whole(file: Path, text: str) -> None:
    """Writes a text file in UTF-8; a reader sees the old content or the new one, never a part. Folders are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    put_in_place(draft, file)


def put_in_place(draft: Path, file: Path) -> None:
    """Gives a written file its name, after its content is on the disk; what had the name before is replaced."""
    flush_to_disk([draft])
    os.replace(draft, file)
    flush_to_disk([file.parent])


def require_writable(file: Path) -> None:
    """Tries whether a file can be written, before the work whose result goes there: writes and removes a megabyte in
    its folder, or in the nearest one that there is. Nothing is left behind, and what the file holds stays.

    Raises:
        OSError: it can't: the folder or the file is read-only, or the disk is full.
    """
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder: give the name of a file")
    if file.exists() and not os.access(file, os.W_OK):
        raise PermissionError(f"{file} is read-only: choose another output, or make it writable")
    missing = missing_folders(file.parent)
    folder = missing[-1].parent if missing else file.parent
    probe = folder / f".{file.name}.probe"
    try:
        probe.write_bytes(bytes(_PROBE_BYTES))
        flush_to_disk([probe])
    except OSError as error:
        raise OSError(f"{file} can't be written ({error.strerror or error}): choose another output") from error
    finally:
        with suppress(OSError):
            probe.unlink()


def missing_folders(folder: Path) -> list[Path]:
    """A folder and those above it that are not there, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def flush_to_disk(paths: Iterable[Path]) -> None:
    """Waits until files, or the names in folders, have reached the disk, so that a power cut can't take them back."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except PermissionError:  # folders, on Windows
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_free_folder(folder: Path) -> None:
    """Refuses a place for a new folder where something lies already, which would be mixed with it or overwritten.

    Raises:
        FileExistsError: it is a file, or a folder that is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: choose another folder, or remove it first")
