"""Reads golden cases: tensors that the authors' released code computed, with tolerances."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

IN_REPOSITORY = Path(__file__).resolve().parents[1] / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """One case: its configuration, the pass rule's tolerances and its tensors by group."""

    config: dict[str, Any]
    tolerances: dict[str, Any]
    folder: Path
    files: list[dict[str, Any]]

    def tensors(self, group: str) -> dict[str, Tensor]:
        found = {}
        for file in self.files:
            if file["group"] == group:
                found |= load_file(self.folder / file["file"])
        return found

    def assert_close(self, name: str, actual: Tensor, expected: Tensor) -> None:
        """The golden pass rule: `max|x - ref| <= tol * max|ref|`, with the tolerance of `group/name`."""
        patterns = (key for key in self.tolerances if key.endswith("*") and name.startswith(key[:-1]))
        tolerance = self.tolerances.get(name, self.tolerances.get(next(patterns, "")))
        assert tolerance is not None, f"the case states no tolerance for {name}"
        assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
        error = (actual - expected).abs().max().item() / expected.abs().max().item()
        assert error <= tolerance, f"{name}: relative error {error:.2e} exceeds {tolerance:.0e}"


def load_case(folder: Path, case_id: str) -> GoldenCase:
    for case in json.loads((folder / "index.json").read_text())["cases"]:
        if case["id"] == case_id:
            return GoldenCase(case["config"], case["tolerances"], folder, case["files"])
    raise KeyError(f"{folder} has no case {case_id}")
