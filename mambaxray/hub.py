"""Pushing a model's folder to the Hugging Face Hub: what goes there, and what must not."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from .configuration.saved_parts import read_separate_parts, without_earlier_fields
from .info import first_line
from .model_card import write_model_card
from .model_facts import SCORES_FILE, public_scores, read_facts
from .modeling_mambaxray.hub.local_parts import LocalPartError, refuse_local_parts
from .modeling_mambaxray.hub.published_files import is_settings_file, published_files, without_local_paths

_logger = logging.getLogger(__name__)
_ADVICE = {
    401: "; log in with `hf auth login`, or give a token that may write",
    403: "; this account may not write there",
}
_MODEL_FILES = ("config.json", "adapter_config.json")
"""In which files a model names another one that it needs."""


class PushError(ValueError):
    """A folder that was not pushed. The message says why and how to mend it; the repository is as it was."""


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    base_model: str | Mapping[str, str] | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    include_patient_text: bool = False,
    examples: bool = True,
) -> str:
    """Makes a folder with a model, its code, processor and card into a repository on the Hub, in one commit.

    The card is made (or brought up to date, see `write_model_card`) first. The repository is made when it is absent.
    Only files that belong to a model go there (see `published_files`): what training leaves beside it, predictions and
    whatever else lies in the folder stays here, and so do paths of this machine. Of `scores.json` the repository gets
    the numbers, without texts and ids of studies.

    Args:
        folder: what `save_pretrained` wrote.
        repo_id: `name/model`.
        base_model: Hub name of the model that this one needs (a part that was left out, or the model below an
            adapter), in place of the folder of this machine that it came from; of several by name, such as
            `{"language_model": NAME}`.
        private: whether a repository that is made now is private; the account's default when not given.
        revision: branch to push to; `main` when not given.
        token: of the account; the one of `hf auth login` when not given.
        include_patient_text: also push what may hold text of patients' reports (memory banks, retrieval indices, in
            the sub-folder `_patient_text`). Whoever can read the repository can then read these texts.
        examples: whether the model writes the card's examples.

    Returns:
        The commit's address.

    Raises:
        FileNotFoundError: there is no model in the folder.
        PushError: the model refers to another one by a folder of this machine, or the Hub refuses or can't be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError

    folder = Path(folder)
    if not any((folder / name).is_file() for name in _MODEL_FILES):
        raise FileNotFoundError(f"{folder} holds no model: neither {' nor '.join(_MODEL_FILES)} is in it")
    needed = _needed(folder, base_model)
    changed = {name: _public(folder / name, needed) for name in _MODEL_FILES if (folder / name).is_file()}
    if b"auto_map" not in b"".join(changed.values()) and "config.json" in changed:
        _logger.warning("%s was saved without its code and loads only where mambaxray is installed", folder)
    write_model_card(folder, base_model=base_model, repo_id=repo_id, examples=examples)
    files = published_files(folder, include_patient_text=include_patient_text)
    for path in files:
        if is_settings_file(path) and path.as_posix() not in changed:
            changed[path.as_posix()] = _public(folder / path, {})
    if (folder / SCORES_FILE).is_file():
        changed[SCORES_FILE] = _scores(folder / SCORES_FILE)
    left = sum(path.is_file() for path in folder.rglob("*")) - len({*files, *map(PurePath, changed)})
    if left:
        _logger.warning("%d files in %s do not belong to a model and are not pushed", left, folder)
    names = sorted({path.as_posix() for path in files} | changed.keys())
    operations = [CommitOperationAdd(name, changed.get(name, folder / name)) for name in names]
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id, operations, commit_message="Upload model with code, processor and card", revision=revision
        )
    # An upload that fails on its way is a RuntimeError.
    except (HTTPError, OSError, RuntimeError) as error:
        status: Any = getattr(getattr(error, "response", None), "status_code", None)
        offline = "; is this machine online? The same command pushes once it is" if status is None else None
        advice = offline or _ADVICE.get(status, "; nothing was changed there, try again")
        raise PushError(f"{folder} was not pushed to {repo_id}: {first_line(error)}{advice}") from error
    return commit.commit_url


def _needed(folder: Path, base_model: str | Mapping[str, str] | None) -> dict[str, str]:
    """The models that the one in the folder needs, none of them in a folder of this machine.

    Raises:
        PushError: one is, or `base_model` does not fit.
    """
    try:
        needed = read_facts(folder).needed_models(base_model)
        refuse_local_parts(needed)
    except LocalPartError as error:
        raise PushError(
            f"{folder}: {error}, or give base_model=NAME (--base-model NAME) where the same model is on the Hub"
        ) from error
    except ValueError as error:
        raise PushError(f"{folder}: {error}") from error
    return needed


def _public(file: Path, needed: Mapping[str, str]) -> bytes:
    """A configuration without paths of this machine, which names the needed models by their names on the Hub."""
    values = json.loads(file.read_text(encoding="utf-8"))
    if "base_model_name_or_path" in values:
        values["base_model_name_or_path"] = needed.get("base model")
    elif parts := read_separate_parts(values):
        values = without_earlier_fields(values) | {"separate_parts": parts}
        for part, entry in parts.items():
            if entry["source"] != needed[part]:
                entry |= {"source": needed[part], "revision": None}
    return json.dumps(without_local_paths(values), indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _scores(file: Path) -> bytes:
    """A file of scores without texts and ids: the numbers of the whole, and how they were computed."""
    return json.dumps(public_scores(json.loads(file.read_text(encoding="utf-8"))), indent=1).encode() + b"\n"


__all__ = ["PushError", "push_folder"]
