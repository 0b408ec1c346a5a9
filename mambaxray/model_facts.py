"""What is known of a saved model and of the run that made it, for its card. Nothing is guessed."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from .configuration.saved_parts import is_local, read_separate_parts
from .data.prepared import CARD_FILE as DATA_CARD_FILE
from .modeling_mambaxray.hub.local_parts import read_local_parts
from .modeling_mambaxray.hub.private_memory import MEMORY_FOLDER
from .modeling_mambaxray.hub.published_files import published_files
from .train.run_folder import ENVIRONMENT_FILE, RECIPE_FILE, RESULT_FILE

SCORES_FILE = "scores.json"
"""Where the scores of a run's model are looked for: what `mambaxray evaluate --output` wrote."""

BASELINES = ("best constant report", "random report", "random training report", "nearest neighbour")
"""Reports that were written without understanding the image, by the names that their scores have."""

_AGREEMENTS = {
    "mimic-cxr": "PhysioNet's credentialed data use agreement (MIMIC-CXR)",
    "chexpert-plus": "Stanford AIMI's research use agreement (CheXpert Plus)",
}


@dataclass(frozen=True)
class ModelFacts:
    """What a card can say.

    Attributes:
        config: the model's `config.json`; empty for an adapter alone.
        adapter: its `adapter_config.json`; empty when it is not an adapter.
        recipe: the resolved recipe of its run.
        environment: versions and machine of the run.
        result: what the run reached: `metrics`, `steps`, `seconds`, numbers of parameters.
        data: the data set's card, as `mambaxray prepare` wrote it; for phantoms the same keys. Of several sources what
            they have in common, and their names as `data_sets`.
        scores: what `evaluate_reports` returned for its reports.
        saved_parameters: how many numbers its weight files hold.
        local_parts: from which folders of this machine the parts came that it leaves out, by name.
        memories: names of the memories of training studies that it looks up, as far as they have names; None for a
            model that looks up none.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    saved_parameters: int = 0
    local_parts: Mapping[str, str] = field(default_factory=dict)
    memories: Sequence[str] | None = None

    @property
    def agreement(self) -> str | None:
        """The agreements that bind who has had the training data; None when none is known."""
        names = self.data.get("data_sets") or [self.data.get("data_set", "")]
        found = dict.fromkeys(agreement for name in names if (agreement := _AGREEMENTS.get(str(name))))
        return " and ".join(found) or None

    def needed_models(self, base_model: str | Mapping[str, str] | None = None) -> dict[str, str]:
        """The other models without which this one can't be loaded: what each is to it, and its name or folder.

        Args:
            base_model: names on the Hub in place of those that are noted, by what the models are to this one; or the
                one name that is needed: of the only such model, or of the only one from a folder of this machine.

        Raises:
            ValueError: `base_model` names one that is not needed, or leaves open which one it is.
        """
        needed = {
            part: entry.get("source") or self.local_parts.get(part) or "a folder that is not known here"
            for part, entry in read_separate_parts(self.config).items()
        }
        if base := self.adapter.get("base_model_name_or_path"):
            needed["base model"] = base
        if base_model is None:
            return needed
        if not needed:
            raise ValueError("the model needs no other model: leave base_model (--base-model) out")
        if isinstance(base_model, str):
            local = [name for name, source in needed.items() if is_local(source)]
            names = list(needed) if len(needed) == 1 else local
            if len(names) != 1:
                raise ValueError(
                    f"the model needs several others: give base_model by name, {{part: NAME}}, for {needed}"
                )
            base_model = {names[0]: base_model}
        if unknown := sorted(base_model.keys() - needed.keys()):
            raise ValueError(f"the model does not need {', '.join(unknown)}; it needs its {', '.join(needed)}")
        return needed | dict(base_model)


def read_facts(folder: str | Path, scores: str | Path | None = None) -> ModelFacts:
    """Reads everything that lies in a model's folder and in the folder of its run, which is the one above.

    Args:
        folder: what `save_pretrained` wrote, such as a run's `model`.
        scores: what `mambaxray evaluate --output` wrote for its reports; by default `scores.json` in the model's folder
            or its run's, when there is one.

    Raises:
        FileNotFoundError: there is no model, or no such file of scores.
        ValueError: a file is not what it should be.
    """
    folder = Path(folder)
    config, adapter = (_read_json(folder / name) for name in ("config.json", "adapter_config.json"))
    if adapter.get("base_model_name_or_path"):
        adapter["base_model_name_or_path"] = _locate(adapter["base_model_name_or_path"], folder)
    if not config and not adapter:
        raise FileNotFoundError(f"{folder} holds no model: neither config.json nor adapter_config.json is in it")
    run = folder.resolve().parent
    recipe: dict[str, Any] = {}
    environment, result = {}, {}
    if (run / RECIPE_FILE).is_file():
        recipe = yaml.safe_load((run / RECIPE_FILE).read_text(encoding="utf-8"))
        environment, result = _read_json(run / ENVIRONMENT_FILE), _read_json(run / RESULT_FILE)
    if scores is None:
        scores = next((path for path in (folder / SCORES_FILE, run / SCORES_FILE) if path.is_file()), None)
    elif not Path(scores).is_file():
        raise FileNotFoundError(f"{scores} is absent; give the file that `mambaxray evaluate --output` wrote")
    scored = {} if scores is None else _read_json(Path(scores))
    if scored and not {"scores", "signature"} <= scored.keys():
        raise ValueError(f"{scores} holds no scores: give the file that `mambaxray evaluate --output` wrote")
    return ModelFacts(
        config,
        adapter,
        recipe,
        environment,
        result,
        _read_data(recipe.get("data", {})),
        scored,
        sum(_count_parameters(folder / file) for file in published_files(folder) if file.suffix == ".safetensors"),
        read_local_parts(folder),
        _read_memories(folder, config),
    )


def _locate(model: str, folder: Path) -> str:
    """The absolute path of a model that is in a folder of this machine, which may have been noted relative to one above
    that of its adapter; other names as they are."""
    above = [Path.cwd(), *folder.resolve().parents]
    return next((str(path / model) for path in above if (path / model).is_dir()), model)


def _read_memories(folder: Path, config: Mapping[str, Any]) -> list[str] | None:
    """Those that lie in the folder, and those that the configuration notes, which a folder from the Hub lacks."""
    within = folder / MEMORY_FOLDER
    names = {path.name for path in within.iterdir() if path.is_dir()} if within.is_dir() else set()
    return sorted(names | (config.get("memory_models") or {}).keys()) or ([] if within.is_dir() else None)


def _count_parameters(file: Path) -> int:
    try:
        with safe_open(file, "pt") as weights:
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); save the model again") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error


def _read_data(section: Mapping[str, Any]) -> dict[str, Any]:
    if section.get("sources"):
        cards = [_read_data(source) for source in section["sources"]]
        names = list(dict.fromkeys(str(card.get("data_set", "unknown")) for card in cards))
        common = {name: value for name, value in cards[0].items() if all(card.get(name) == value for card in cards)}
        for own in ("counts", "total"):  # of one source, not of the whole
            common.pop(own, None)
        return common | {"data_set": " and ".join(names), "data_sets": names}
    source, options = section.get("source"), section.get("options", {})
    if source == "phantoms":
        total = options.get("num_studies")
        return {"data_set": "phantoms", "section": "the whole report", "total": total}
    known = _read_json(Path(source) / DATA_CARD_FILE) if source else {}
    if known or not source:
        return known
    # The name of a file or folder of somebody's machine may tell more than its owner wants.
    is_on_hub = str(source).startswith("hf://")
    data_set = str(source).removeprefix("hf://datasets/") if is_on_hub else "its author's own data"
    return {"data_set": data_set, **{name: options[name] for name in ("section", "cleaning") if name in options}}


def public_scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """What may be published of a file of scores: numbers of the whole and the signature; no texts, ids or values of
    single studies.

    Args:
        scores: what `evaluate_reports` returned.
    """
    honesty = scores.get("honesty") or {}
    public: dict[str, Any] = {"scores": _numbers(scores.get("scores")), "signature": str(scores.get("signature", ""))}
    intervals = {
        name: [_number(bound) for bound in bounds]
        for name, bounds in (scores.get("intervals") or {}).items()
        if isinstance(bounds, list) and all(_number(bound) is not None for bound in bounds)
    }
    baselines = {
        name: _numbers(values) for name, values in (honesty.get("baselines") or {}).items() if name in BASELINES
    }
    return public | {"intervals": intervals, "honesty": _numbers(honesty) | {"baselines": baselines}}


def _numbers(values: Any) -> dict[str, float]:
    return {name: number for name, value in (values or {}).items() if (number := _number(value)) is not None}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def without_paths(values: Any) -> Any:
    """The same plain data, with only the last part of every absolute path: the rest reveals somebody's machine."""
    if isinstance(values, Mapping):
        return {key: without_paths(value) for key, value in values.items()}
    if isinstance(values, list):
        return [without_paths(value) for value in values]
    return Path(values).name if isinstance(values, str) and os.path.isabs(values) else values


__all__ = ["BASELINES", "SCORES_FILE", "ModelFacts", "public_scores", "read_facts", "without_paths"]
