"""Files that are there whole or not at all, however the program ends."""

from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Writes a text file in UTF-8; a reader sees the old content or the new one, never a part."""
    draft = file.with_name(f".{file.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
