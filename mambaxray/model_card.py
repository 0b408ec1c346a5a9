"""Model cards: what a model is, what it was made of, and how well it does, as far as that is known.

The text is in `templates/model_card.md.jinja`: sections between marks. What stands outside of the marks is its author's
and stays.
"""

import inspect
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from . import __version__
from .configuration.families import families
from .configuration.saved_parts import read_separate_parts
from .console import SAFETY
from .evaluation.metric_names import metric_in_words
from .model_facts import ModelFacts, is_local, public_scores, read_facts, without_paths
from .modeling_mambaxray.hub.repository_code import PATIENT_TEXT_FOLDER, has_code

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CARD_FILE = "README.md"
_BLANK = "[More Information Needed]"
_EXAMPLES_FOLDER = "examples"
_TEMPLATES = Path(__file__).parent / "templates"
_logger = logging.getLogger(__name__)

_MARKED = re.compile(r"<!-- mambaxray: (?P<name>[\w ]+) -->\n.*?<!-- /mambaxray -->", re.DOTALL)

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

    It says what the folder and its run's folder say (`read_facts`), and "not recorded" or "not measured" where they
    say nothing. Three phantoms with the report that goes with each and the one that the model writes go into the
    sub-folder `examples`.

    Args:
        folder: what `save_pretrained` wrote.
        scores: what `mambaxray evaluate --output` wrote; see `read_facts`. The card shows them beside the baselines'.
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
    title = _title(facts)
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
    card = ModelCard.from_template(
        data,
        str(_TEMPLATES / "model_card.md.jinja"),
        top=f"# {title}" if existing is None else existing.text.strip(),
        examples=_examples(folder, facts) if examples and _writes_reports(facts) else None,
        **_template_values(facts, needed, repo_id or "you/this-model"),
    )
    text = card.text
    if existing is not None and _MARKED.search(existing.text):
        sections = {match["name"]: match[0] for match in _MARKED.finditer(text)}
        if not examples:
            del sections["examples"]
        text = _MARKED.sub(lambda match: sections.get(match["name"], match[0]), existing.text)
    card.text = text.strip() + "\n"
    card.save(file)
    return file


def _template_values(facts: ModelFacts, needed: Mapping[str, str], repo_id: str) -> dict[str, Any]:
    """What the template shows, but for the title and the examples."""
    parts = read_separate_parts(facts.config)
    what_it_does = next(iter(_description(facts).splitlines()), None)
    encoder = facts.recipe.get("model", {}).get("vision_encoder")
    recipe = without_paths(facts.recipe)
    losses = {
        name.removeprefix("eval_"): value
        for name, value in facts.result.get("metrics", {}).items()
        if isinstance(value, float)
    }
    return {
        "facts": facts,
        "repo_id": repo_id,
        "safety": SAFETY,
        "version": __version__,
        "writes_reports": _writes_reports(facts),
        "what_it_does": what_it_does or ("an adapter" if facts.adapter else _family(facts)),
        "needed_models": [
            {
                "part": part,
                "name": Path(source).name if is_local(source) else source,
                "is_local": is_local(source),
                "revision": noted.get("revision") if (noted := parts.get(part, {})).get("source") == source else None,
                "licence": _licence(source)[0],
            }
            for part, source in needed.items()
        ],
        "image_encoder": without_paths(encoder) if isinstance(encoder, str) else None,
        "recipe_yaml": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else "",
        "scores": [(metric, metric_in_words(metric), value) for metric, value in _main_scores(facts)],
        "baselines": public_scores(facts.scores)["honesty"]["baselines"],
        "losses": losses,
        "papers": _papers(facts),
        "memories": facts.memories,
        "patient_text_folder": PATIENT_TEXT_FOLDER,
    }


def _metadata(facts: ModelFacts, needed: Mapping[str, str]) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    on_hub = [source for source in needed.values() if not is_local(source)]
    licences = [licence for source in on_hub if (licence := _licence(source)[1]) is not None]
    name, results = None, _eval_results(facts)
    if results:
        name = _title(facts)
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


def _title(facts: ModelFacts) -> str:
    """What the model was to become, and what it was trained on; never the folder's name, which is its owner's."""
    title = str(facts.recipe.get("description") or f"{_family(facts)}, a model of chest X-rays")
    data_set = facts.data.get("data_set")
    if not data_set or str(data_set).lower() in title.lower():
        return title
    return f"{title}, trained on {data_set}"


def _family(facts: ModelFacts) -> str:
    return str(facts.config.get("model_type", "adapter"))


def _writes_reports(facts: ModelFacts) -> bool:
    return bool(facts.adapter) or ("text_config" in facts.config and _family(facts) != "mambaxray_dual_encoder")


def _licence(model: str | None) -> tuple[str, str | None]:
    """Name of a model's licence, and the Hub's word for it."""
    known = (licence for start, licence in _LICENCES.items() if (model or "").lower().startswith(start))
    return next(known, ("not known here; see its page", None))


def _description(facts: ModelFacts) -> str:
    """The docstring of the model's class, which says what it is and which paper it comes from; empty for others."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    family = _family(facts)
    model_class = MODEL_MAPPING.get(CONFIG_MAPPING[family], None) if family in CONFIG_MAPPING else None
    return inspect.getdoc(model_class) or "" if model_class is not None and has_code(model_class) else ""


def _papers(facts: ModelFacts) -> list[str]:
    """The BibTeX entries of the papers that the model comes from."""
    family = families().get(facts.config.get("model_type", ""))
    papers = list(family.papers) if family is not None else []
    if facts.config.get("vision_config", {}).get("model_type") in ("swin", "swinv2"):
        papers.append("r2gengpt")
    entries = (_TEMPLATES / "papers.bib").read_text(encoding="utf-8").strip().split("\n\n")
    known = {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}
    return [known.get(paper, paper) for paper in papers]


def _examples(folder: Path, facts: ModelFacts) -> list[dict[str, str]]:
    """Three phantoms with both reports, their images written into the folder; none where the model can't be run."""
    from .data.phantoms import make_study
    from .generate import load_pipeline

    size = facts.config.get("vision_config", {}).get("image_size")
    studies = [make_study(10**6 + number, image_size=size if isinstance(size, int) else 224) for number in range(3)]
    try:
        reporter = load_pipeline(str(folder))
        if reporter.model.recalls:
            # A card is public, and what is written from patients' reports could repeat them.
            reporter.model.study_memory = None
        reports = [reporter(study["images"][0])[0]["generated_text"] for study in studies]
    except (OSError, ValueError, RuntimeError) as error:
        _logger.warning("the card has no examples: %s", error)
        return []
    (folder / _EXAMPLES_FOLDER).mkdir(exist_ok=True)
    examples = []
    for number, (study, report) in enumerate(zip(studies, reports, strict=True), start=1):
        image = f"{_EXAMPLES_FOLDER}/phantom_{number}.png"
        study["images"][0].save(folder / image)
        examples.append({"image": image, "reference": _cell(study["report"]), "report": _cell(report)})
    return examples


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") or "(nothing)"


__all__ = ["CARD_FILE", "write_model_card"]
