"""What alignment has done to a report generator, as a run's folder keeps it. Reading it loads neither torch nor
transformers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GUARD, GUARD_FILE = "guard", "alignment.json"


def read_alignment(folder: str | Path) -> dict[str, Any]:
    """What the guard of a finished run measured.

    Args:
        folder: the run's.

    Returns:
        - `scores`: for each score its value `before` and `after`, the `difference`, its paired bootstrap `interval`,
          and whether it `is_worse` by more than that.
        - `checks`: `unique_ratio`, `repetition`, `truncated_share`, `empty_share`, `words_per_report` and
          `uncheckable_share`, each `before`, `after` and of the `reference` reports.
        - `kl_per_token`, `kl_per_report`, see `kl_to_start`.
        - `studies`, `signature`, `unavailable`.

    Raises:
        FileNotFoundError: the run is not finished, or had no validation studies.
    """
    file = Path(folder) / GUARD / GUARD_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} is absent: the run is not finished, or its data has no validation studies")
    return json.loads(file.read_text(encoding="utf-8"))


def alignment_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The guard's numbers as rows of text: what, before, after, and the difference or the references' value."""
    rows = []
    for name, each in result["scores"].items():
        low, high = each["interval"]
        remark = f"{each['difference']:+.4f} ({low:+.4f} to {high:+.4f}){' WORSE' if each['is_worse'] else ''}"
        rows.append((name, f"{each['before']:.4f}", f"{each['after']:.4f}", remark))
    for name, each in result["checks"].items():
        rows.append((name, f"{each['before']:.4f}", f"{each['after']:.4f}", f"references {each['reference']:.4f}"))
    distances = ("kl_per_token", "kl_per_report")
    return [*rows, *((name, f"{0:.4f}", f"{result[name]:.4f}", "nats, from the start") for name in distances)]


__all__ = ["GUARD", "GUARD_FILE", "alignment_rows", "read_alignment"]
