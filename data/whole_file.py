"""Files that are there whole or not at all, however the program or the machine ends."""

import os
from collections.abc import Iterable
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Writes a text file in UTF-8; a reader sees the old content or the new one, never a part."""
    draft = file.with_name(f".{file.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    put_in_place(draft, file)


def put_in_place(draft: Path, file: Path) -> None:
    """Gives a written file its name, after its content is on the disk; what had the name before is replaced."""
    flush_to_disk([draft])
    os.replace(draft, file)
    flush_to_disk([file.parent])


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
