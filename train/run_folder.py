"""What a training run leaves behind about itself: its recipe, the environment, the code's revision, the results."""

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..data.whole_file import write_whole
from .recipe import Recipe, RecipeError, load_recipe

RECIPE_FILE, ENVIRONMENT_FILE, RESULT_FILE = "recipe.yaml", "environment.json", "result.json"
_PACKAGES = ("mambaxray", "torch", "transformers", "accelerate", "datasets", "peft", "tokenizers", "numpy", "pillow")


def open_run_folder(folder: Path, recipe: Recipe) -> None:
    """Makes the folder and writes recipe and environment into it, unless the same recipe is there already.

    Raises:
        RecipeError: the folder holds a run of another recipe.
    """
    file = folder / RECIPE_FILE
    if file.is_file():
        if load_recipe(file).to_dict() != recipe.to_dict():
            raise RecipeError(f"{folder} holds a run of another recipe ({file}); choose another output folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / ENVIRONMENT_FILE, json.dumps(describe_run(recipe.seed), indent=2))
    write_whole(file, recipe.to_yaml())


def describe_run(seed: int) -> dict[str, Any]:
    """Versions, machine, seed, and the git revision where the package runs from a repository."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "seed": seed,
        "git": git_revision(),
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": devices or ["cpu"],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def git_revision() -> dict[str, Any] | None:
    """Commit of the repository that this package runs from, and whether its files were changed; None elsewhere."""
    root = Path(__file__).resolve().parents[1]
    if shutil.which("git") is None or not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "changed": bool(git("status", "--porcelain"))}


__all__ = ["ENVIRONMENT_FILE", "RECIPE_FILE", "RESULT_FILE", "describe_run", "git_revision", "open_run_folder"]
