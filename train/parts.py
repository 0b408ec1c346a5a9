"""Loading the parts that a recipe names, with errors that say which key to give."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def named_part(key: str, value: Any) -> Iterator[None]:
    """Around what loads a part from a folder or the Hub: what can't be had is told by the recipe's key.

    Args:
        key: such as `model.vision_encoder`.
        value: what the recipe has there; anything but a text is no name, and passed over.

    Raises:
        FileNotFoundError: there is no such folder, and no such model on the Hub.
    """
    give = f"give {key}=FOLDER, or its name on the Hugging Face Hub"
    if isinstance(value, str):
        looks_like_path = value.startswith((".", "/", "~")) or value.count("/") > 1 or "\\" in value or not value
        if looks_like_path and not Path(value).is_dir():
            raise FileNotFoundError(f"{key}={value}: no such folder; {give}")
        if Path(value).is_file():
            raise FileNotFoundError(f"{key}={value} is a file; {give}")
    try:
        yield
    except OSError as error:
        if not isinstance(value, str) or Path(value).is_dir():
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{key}={value}: neither a folder here nor a model that could be had from the Hub ({reason}); {give}"
        ) from error


__all__ = ["named_part"]
