"""The arguments of `from_pretrained` that say where a model is."""

from collections.abc import Mapping
from typing import Any

LOCATION_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def location_in(arguments: Mapping[str, Any], *further: str) -> dict[str, Any]:
    """Those of a call's arguments that say where a model is, and so hold for its configuration and other files, too.

    Args:
        arguments: of `from_pretrained`, by name.
        further: names of others to take, such as `trust_remote_code` for an Auto class.
    """
    return {name: arguments[name] for name in (*LOCATION_ARGUMENTS, *further) if name in arguments}


__all__ = ["LOCATION_ARGUMENTS", "location_in"]
