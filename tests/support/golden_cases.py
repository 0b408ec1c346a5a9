"""Reads golden cases: tensors that the authors' released code computed, with tolerances.

Most lie in `tests/golden`. The two largest, and those of the caption metrics with their real reports, are only in the
folder that `$MAMBAXRAY_GOLDEN` names: without it, the tests that need them are skipped, but under CI they fail.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

_ROOT = Path(__file__).resolve().parents[2]
IN_REPOSITORY = _ROOT / "tests" / "golden"
ELSEWHERE = Path(os.environ.get("MAMBAXRAY_GOLDEN", _ROOT.parent / "shared" / "golden"))


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


def load_case(case_id: str) -> GoldenCase:
    """A case of the repository, else one of `ELSEWHERE`."""
    for folder in (IN_REPOSITORY, ELSEWHERE / "official"):
        if folder.is_dir():
            for case in json.loads((folder / "index.json").read_text(encoding="utf-8"))["cases"]:
                if case["id"] == case_id:
                    return GoldenCase(case["config"], case["tolerances"], folder, case["files"])
    golden_folder()
    raise KeyError(f"neither {IN_REPOSITORY} nor {ELSEWHERE} has a case {case_id}")


def golden_folder() -> Path:
    """`ELSEWHERE`; where it is absent the test is skipped, and fails under CI."""
    if not ELSEWHERE.is_dir():
        reason = f"{ELSEWHERE} is absent; set MAMBAXRAY_GOLDEN to the folder of the golden cases"
        if os.environ.get("CI"):
            pytest.fail(f"a parity test must run under CI: {reason}")
        pytest.skip(reason)
    return ELSEWHERE
