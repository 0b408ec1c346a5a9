"""Parts of a model that come from folders of this machine: noted beside the model, in a file that is not uploaded, and
refused where the model is to be published.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ...configuration.saved_parts import is_local
from .repository_code import LOCAL_PARTS_FILE


class LocalPartError(ValueError):
    """A model is not published: it needs another one that is in a folder of this machine."""


def refuse_local_parts(sources: Mapping[str, str]) -> None:
    """The check that every push of ours makes before anything is uploaded.

    Args:
        sources: where the models come from that a model needs and does not hold, by what they are to it.

    Raises:
        LocalPartError: one is in a folder of this machine.
    """
    for name, source in sources.items():
        if is_local(source):
            raise LocalPartError(
                f"the model needs its {name} from {source}, which is a folder of this machine that nobody else can "
                f"load. Make it with the {name}'s name on the Hub, or save it whole (part_references[{name!r}] = None; "
                "for an adapter, merge it)"
            )


def read_local_parts(folder: str | os.PathLike) -> dict[str, str]:
    """From which folders of this machine the parts came that the model in a folder leaves out, by name."""
    file = Path(folder, LOCAL_PARTS_FILE)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write_local_parts(folder: str | os.PathLike, sources: Mapping[str, str]) -> None:
    """Notes beside the model in a folder where the parts came from that it leaves out, those of this machine.

    Args:
        folder: of the model.
        sources: folder or Hub name of each part, by its name.
    """
    file, local = Path(folder, LOCAL_PARTS_FILE), {part: source for part, source in sources.items() if is_local(source)}
    if local:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(local, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


__all__ = ["LocalPartError", "read_local_parts", "refuse_local_parts", "write_local_parts"]
