"""Model cards: what a model is, what it was made of, and how well it does, as far as that is known.

A card is made of sections between marks. What stands outside of the marks is its author's and stays.
"""

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from . import __version__
from .configuration.saved_parts import is_local, read_separate_parts
from .console import SAFETY
from .model_facts import ModelFacts, read_facts, without_paths
from .modeling_mambaxray.repository_code import PATIENT_TEXT_FOLDER, has_code

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CARD_FILE = "README.md"
_UNKNOWN = "not measured"
_BLANK = "[More Information Needed]"
_EXAMPLES_FOLDER = "examples"
_EXAMPLES_TITLE = "## Examples on phantoms\n\n"
_logger = logging.getLogger(__name__)

_NOTE = (
    "<!-- `mambaxray card` writes what stands between its marks anew, and leaves everything else as it is. Remove a "
    "pair of marks to keep what is between them. -->"
)
_MARKED = re.compile(r"<!-- mambaxray: (?P<name>[\w ]+) -->\n.*?<!-- /mambaxray -->", re.DOTALL)

_CXPMRG = """\
@inproceedings{cxpmrg_bench,
  title = {{CXPMRG-Bench}: Pre-training and Benchmarking for X-ray Medical Report Generation on
    {CheXpert Plus} Dataset},
  author = {Wang, Xiao and others},
  booktitle = {CVPR},
  year = {2025}
}"""
_R2GENGPT = """\
@article{r2gengpt,
  title = {{R2GenGPT}: Radiology Report Generation with Frozen {LLMs}},
  author = {Wang, Zhanyu and others},
  journal = {Meta-Radiology},
  year = {2023}
}"""
_EMRRG = """\
@article{emrrg,
  title = {{EMRRG}: Efficient Fine-Tuning Pre-trained X-ray {Mamba} Networks for Radiology Report Generation},
  author = {Zhang, Mingzheng and others},
  journal = {arXiv:2510.16776},
  year = {2025}
}"""
# By the names that the classes' docstrings give as their source.
_PAPERS = {"CXPMRG-Bench": _CXPMRG, "R2GenGPT": _R2GENGPT, "EMRRG": _EMRRG}
# Licences of language models by what their names begin with.
_LICENCES = {
    "meta-llama/llama-2": ("Llama 2 Community License", "llama2"),
    "lmsys/vicuna": ("Llama 2 Community License", "llama2"),
    "meta-llama/meta-llama-3": ("Meta Llama 3 Community License", "llama3"),
    "meta-llama/llama-3.1": ("Llama 3.1 Community License", "llama3.1"),
    "meta-llama/llama-3.2": ("Llama 3.2 Community License", "llama3.2"),
    "qwen/qwen2.5-": ("Apache-2.0 for most sizes; see its page", None),
}


def write_model_card(
    folder: str | Path,
    *,
    scores: str | Path | None = None,
    base_model: str | Mapping[str, str] | None = None,
    repo_id: str | None = None,
    examples: bool = True,
) -> Path:
    """Writes `README.md` of a model's folder, or brings the generated parts of an existing one up to date.

    It says what the folder and its run's folder say (`read_facts`), and "not measured" where they say nothing. Three
    phantoms with the report that was drawn and the one that the model writes go into the sub-folder `examples`.

    Args:
        folder: what `save_pretrained` wrote.
        scores: what `mambaxray evaluate --output` wrote; see `read_facts`.
        base_model: Hub name of the model that this one needs, in place of a folder of this machine (see
            `ModelFacts.needed_models`).
        repo_id: name of the repository, for the lines of code that load it.
        examples: whether to let the model write the examples. Without, those that are there stay.

    Returns:
        The card's file.

    Raises:
        FileNotFoundError, ValueError: see `read_facts` and `ModelFacts.needed_models`.
    """
    from huggingface_hub import ModelCard

    folder = Path(folder)
    facts = read_facts(folder, scores)
    needed = facts.needed_models(base_model)
    file = folder / CARD_FILE
    existing = ModelCard.load(file, ignore_metadata_errors=True) if file.is_file() else None
    if existing is not None and _BLANK in existing.text and not _MARKED.search(existing.text):
        existing = None  # the form that transformers and peft leave to be filled in
    sections = _sections(facts, needed, repo_id or "you/this-model")
    if examples:
        sections["examples"] = _examples(folder, facts)
    elif existing is None or not _MARKED.search(existing.text):
        sections["examples"] = f"{_EXAMPLES_TITLE}{_UNKNOWN.capitalize()}."
    title = facts.recipe.get("description") or (folder if folder.name != "model" else folder.resolve().parent).name
    body = _merge(f"# {title}" if existing is None else existing.text, sections)
    data = _metadata(facts, needed)
    kept = {} if existing is None else existing.data.to_dict()
    # What the author wrote stays; numbers are ours, as is the list of what the repository is.
    for name in ("license", "language", "datasets", "base_model", "pipeline_tag"):
        if name in kept and not (name == "base_model" and base_model):
            setattr(data, name, kept.pop(name))
    data.tags = list(dict.fromkeys([*(kept.pop("tags", None) or []), *(data.tags or [])]))
    for name, value in kept.items():
        if name not in data.to_dict():
            setattr(data, name, value)
    ModelCard(f"---\n{data.to_yaml()}\n---\n{body}").save(file)
    return file


def _merge(text: str, sections: Mapping[str, str]) -> str:
    """The sections in the places that their marks have in a text; behind it those of a text without marks."""
    marked = {
        name: f"<!-- mambaxray: {name} -->\n{content.strip()}\n<!-- /mambaxray -->"
        for name, content in sections.items()
    }
    if not _MARKED.search(text):
        return "\n\n".join((text.strip(), _NOTE, *marked.values())) + "\n"
    return _MARKED.sub(lambda match: marked.get(match["name"], match[0]), text).strip() + "\n"


def _metadata(facts: ModelFacts, needed: Mapping[str, str]) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    on_hub = [source for source in needed.values() if not is_local(source)]
    licences = [licence for source in on_hub if (licence := _licence(source)[1]) is not None]
    name, results = None, _eval_results(facts)
    if results:
        name = str(facts.recipe.get("description") or _family(facts))
    values: dict[str, Any] = {
        "library_name": "peft" if facts.adapter else "transformers",
        "pipeline_tag": "image-to-text" if _writes_reports(facts) else "image-feature-extraction",
        "tags": ["chest-x-ray", "radiology", "mambaxray", "custom_code"],
        "base_model": (on_hub if len(on_hub) > 1 else on_hub[0]) if on_hub else None,
        "license": licences[0] if licences else None,
    }
    if _writes_reports(facts):
        values["language"] = "en"
    if facts.agreement:
        values |= {
            "extra_gated_heading": "Access for holders of the data use agreement only",
            "extra_gated_prompt": (
                f"This model was trained on data under {facts.agreement}. A model can repeat what it was trained on. "
                "By asking for access you confirm that you have signed that agreement, and that you keep to it with "
                "this model and everything it writes."
            ),
            "extra_gated_fields": {
                "Name": "text",
                "Affiliation": "text",
                f"I have signed {facts.agreement}": "checkbox",
                "I will not try to identify patients, and not use this model for the care of patients": "checkbox",
            },
        }
    return ModelCardData(
        model_name=name, eval_results=results or None, **{key: value for key, value in values.items() if value}
    )


def _eval_results(facts: ModelFacts) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    data_set = str(facts.data.get("data_set", "unnamed data set"))
    intervals = facts.scores.get("intervals", {})
    return [
        EvalResult(
            task_type="image-to-text",
            task_name="Radiology report generation",
            dataset_type=data_set,
            dataset_name=data_set,
            dataset_split="test",
            metric_type=metric,
            metric_name=metric,
            metric_value=round(value, 4),
            metric_args={"signature": facts.scores["signature"]}
            | ({"interval_95": [round(bound, 4) for bound in intervals[metric]]} if metric in intervals else {}),
        )
        for metric, value in _main_scores(facts)
    ]


def _main_scores(facts: ModelFacts) -> list[tuple[str, float]]:
    """Captions, and averages over observations: those of single observations are too many for a card."""
    names = re.compile(
        r"Bleu_\d|ROUGE_L|METEOR|CIDEr|(precision|recall|F1)_(micro|macro|example)_(14|5)_uncertain-negative"
    )
    scores = facts.scores.get("scores", {})
    return [(name, value) for name, value in scores.items() if names.fullmatch(name) and value is not None]


def _family(facts: ModelFacts) -> str:
    return str(facts.config.get("model_type", "adapter"))


def _writes_reports(facts: ModelFacts) -> bool:
    return bool(facts.adapter) or ("text_config" in facts.config and _family(facts) != "mambaxray_dual_encoder")


def _licence(model: str | None) -> tuple[str, str | None]:
    """Name of a model's licence, and the Hub's word for it."""
    known = (licence for start, licence in _LICENCES.items() if (model or "").lower().startswith(start))
    return next(known, ("not known here; see its page", None))


def _sections(facts: ModelFacts, needed: Mapping[str, str], repo_id: str) -> dict[str, str]:
    return {
        "summary": _summary(facts, needed),
        "use": _use(facts, repo_id),
        "data": _data(facts),
        "training": _training(facts),
        "scores": _scores(facts),
        "limits": _limits(facts),
        "licences": _licences(facts, needed),
        "citation": _citation(facts),
    }


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    lines = [f"| {name} | {_UNKNOWN if value in (None, '', {}, []) else value} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _summary(facts: ModelFacts, needed: Mapping[str, str]) -> str:
    vision, text = facts.config.get("vision_config", {}), facts.config.get("text_config", {})
    what = next(iter(_description(facts).splitlines()), None) or ("an adapter" if facts.adapter else _family(facts))
    parts = read_separate_parts(facts.config)
    others = []
    for part, source in needed.items():
        noted = parts.get(part, {})
        revision = noted.get("revision") if noted.get("source") == source else None
        at = f" at revision {revision}" if revision else ""
        where = f"{Path(source).name} (a folder of its author's machine)" if is_local(source) else f"{source}{at}"
        others.append(f"{where} (its {part})" if len(needed) > 1 else where)
    rows = [
        ("model", ", ".join(facts.config.get("architectures") or [])),
        ("what it does", what),
        ("image encoder", vision and f"{vision.get('model_type')}, {vision.get('image_size')} px"),
        ("text model", text and f"{text.get('model_type')}, vocabulary {text.get('vocab_size')}"),
        ("needs another model", "; ".join(others) or "no"),
        ("parameters in this repository", _count(facts.saved_parameters or None)),
        ("parameters in all", _count(facts.result.get("total_parameters"))),
        ("of these trained", _count(facts.result.get("trained_parameters"))),
    ]
    shown = [row for row in rows if row[1] != {}]
    return f"**{SAFETY}**\n\n{_table(shown)}"


def _description(facts: ModelFacts) -> str:
    """The docstring of the model's class, which says what it is and which paper it comes from; empty for others."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    family = _family(facts)
    model_class = MODEL_MAPPING.get(CONFIG_MAPPING[family], None) if family in CONFIG_MAPPING else None
    return inspect.getdoc(model_class) or "" if model_class is not None and has_code(model_class) else ""


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _use(facts: ModelFacts, repo_id: str) -> str:
    if not _writes_reports(facts):
        code = f'AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)'
        code = f"from transformers import AutoModel\n\nmodel = {code}"
    else:
        code = (
            "from transformers import pipeline\n\n"
            f'reporter = pipeline("image-to-text", model="{repo_id}", trust_remote_code=True)\n'
            'print(reporter("chest.png"))'
        )
    return (
        f"## Use\n\n```python\n{code}\n```\n\nWith the package `mambaxray` installed and imported, `trust_remote_code` "
        "is not needed.\n\n"
        "**Intended use**: research on chest X-rays and the reports about them: comparing systems, reproducing "
        "results, studying failures.\n\n"
        "**Out of scope**: the care of patients in any form (diagnosis, triage, second reading), images other than "
        "chest radiographs, and any attempt to learn about the people in the training data."
    )


def _data(facts: ModelFacts) -> str:
    data = facts.data
    counts = data.get("counts") or {}
    total = data.get("total")
    splits = ", ".join(f"{split} {count:,}" for split, count in counts.items()) or (total and f"{total:,} in all")
    rows = [
        ("data set", data.get("data_set")),
        ("studies by split", splits),
        ("split comes from", data.get("split_source")),
        ("patients in two splits", data.get("shared_patients")),
        ("section of the report", data.get("section")),
        ("cleaning of the report", data.get("cleaning")),
    ]
    return f"## Training data\n\n{_table(rows)}"


def _training(facts: ModelFacts) -> str:
    environment, result = facts.environment, facts.result
    versions = environment.get("versions") or {}
    git = environment.get("git") or {}
    seconds = result.get("seconds")
    rows = [
        ("stage", facts.recipe.get("stage")),
        ("steps", _count(result.get("steps"))),
        ("time", None if seconds is None else f"{seconds / 60:.1f} minutes (of the process that finished it)"),
        ("hardware", ", ".join(environment.get("devices", []))),
        ("processes", environment.get("processes")),
        ("seed", environment.get("seed")),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions.items() if number)),
        ("code", git and f"commit {git['commit']}{', with changes' if git.get('changed') else ''}"),
    ]
    recipe = ""
    if facts.recipe:
        text = yaml.safe_dump(without_paths(facts.recipe), sort_keys=False, allow_unicode=True)
        recipe = f"\n\n<details><summary>The recipe</summary>\n\n```yaml\n{text}```\n\n</details>"
    return f"## Training\n\n{_table(rows)}{recipe}"


def _scores(facts: ModelFacts) -> str:
    found = _main_scores(facts)
    if not found:
        losses = {name: value for name, value in facts.result.get("metrics", {}).items() if isinstance(value, float)}
        rows = [(name.removeprefix("eval_"), f"{value:.4g}") for name, value in losses.items()]
        validation = f"\n\nOn the validation split, during training:\n\n{_table(rows)}" if rows else ""
        return f"## Scores\n\nOn a test split: {_UNKNOWN}.{validation}"
    intervals = facts.scores.get("intervals", {})
    lines = ["| metric | value | 95 % interval |", "|---|---|---|"]
    for name, value in found:
        bounds = intervals.get(name)
        interval = _UNKNOWN if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
        lines.append(f"| {name} | {value:.3f} | {interval} |")
    table = "\n".join(lines)
    return f"## Scores\n\n{table}\n\nSignature: `{facts.scores['signature']}`"


def _limits(facts: ModelFacts) -> str:
    lines = [f"Performance on other hospitals, devices and groups of patients: {_UNKNOWN}."]
    if _writes_reports(facts):
        lines += [
            "Models of this kind write what is frequent in their training data, miss rare findings, and make findings "
            "up.",
            "Scores of texts say little about whether a report is right.",
        ]
    if facts.data.get("data_set") == "phantoms":
        lines.insert(
            0, "It has only ever seen drawn phantoms, no real X-ray. What it writes about a real one is nonsense."
        )
        privacy = "The run that made this model used no patient's data; what it started from may have."
    else:
        privacy = (
            "The repository holds weights, code and settings; no images of patients, and texts of their reports only "
            f"where it has a folder `{PATIENT_TEXT_FOLDER}`. A model can repeat parts of what it was trained on;"
            f" whether this one does: {_UNKNOWN}."
        )
    listed = "\n".join(f"- {line}" for line in lines)
    return f"## Limits\n\n{listed}\n\n## Privacy of patients\n\n{privacy}"


def _licences(facts: ModelFacts, needed: Mapping[str, str]) -> str:
    rows = [("code", "Apache-2.0 (mambaxray)"), ("weights", "as the author of this repository states")]
    rows += [(f"`{Path(s).name if is_local(s) else s}`", _licence(s)[0]) for s in needed.values()]
    encoder = facts.recipe.get("model", {}).get("vision_encoder") if facts.recipe else None
    if isinstance(encoder, str):
        rows.append((f"`{without_paths(encoder)}` (image encoder at the start)", "not known here; see its page"))
    if facts.agreement:
        rows.append(("training data", facts.agreement))
    return f"## Licences of the parts\n\n{_table(rows)}"


def _citation(facts: ModelFacts) -> str:
    sources = _description(facts).partition("Source:")[2]
    if facts.config.get("vision_config", {}).get("model_type") in ("swin", "swinv2"):
        sources += " R2GenGPT"
    papers = [entry for name, entry in _PAPERS.items() if name in sources]
    listed = "\n\n".join(papers)
    cited = f"```bibtex\n{listed}\n```" if papers else "No paper is known here."
    return f"## Citation\n\n{cited}\n\nMade with mambaxray {__version__}."


def _examples(folder: Path, facts: ModelFacts) -> str:
    if not _writes_reports(facts):
        return f"{_EXAMPLES_TITLE}None: this model writes no reports."
    from .data.phantoms import make_study
    from .generate import load_pipeline

    size = facts.config.get("vision_config", {}).get("image_size")
    studies = [make_study(10**6 + number, image_size=size if isinstance(size, int) else 224) for number in range(3)]
    try:
        reporter = load_pipeline(str(folder))
        reports = [reporter(study["images"][0])[0]["generated_text"] for study in studies]
    except (OSError, ValueError, RuntimeError) as error:
        _logger.warning("the card has no examples: %s", error)
        return f"{_EXAMPLES_TITLE}{_UNKNOWN.capitalize()}: the model could not be run where the card was made."
    (folder / _EXAMPLES_FOLDER).mkdir(exist_ok=True)
    lines = ["| phantom | report that goes with it | report that the model writes |", "|---|---|---|"]
    for number, (study, report) in enumerate(zip(studies, reports, strict=True), start=1):
        picture = f"{_EXAMPLES_FOLDER}/phantom_{number}.png"
        study["images"][0].save(folder / picture)
        lines.append(f"| ![phantom {number}]({picture}) | {_cell(study['report'])} | {_cell(report)} |")
    drawn = "Chest X-rays that were drawn with known findings."
    table = "\n".join(lines)
    return f"{_EXAMPLES_TITLE}{drawn}\n\n{table}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") or "(nothing)"


__all__ = ["CARD_FILE", "write_model_card"]
