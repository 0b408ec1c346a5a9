"""Preference pairs for DPO: of several sampled reports of a study, the one that the rewards like best and the worst.

The file grows while reports are sampled, and an interrupted run goes on where it stopped: the reports of a study depend
on the recipe and the study's place only, not on when they were sampled. Each line says of which recipe, data and model
it is, since a run that has come to no checkpoint may be given again with others.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from ..evaluation.report_writing import in_main_process
from .recipe_align import AlignRecipe
from .rewards import Reward, normalized_sum
from .run_inputs import run_inputs
from .training_studies import digest_of

_STUDIES_AT_A_TIME = 8
_DECISIVE = ("seed", "data", "rewards", "uncertain", "radeval_python", "num_samples", "generation")


def preference_pairs(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    studies: Dataset,
    rewards: Sequence[Reward],
    recipe: AlignRecipe,
    file: Path,
) -> list[dict[str, Any]]:
    """The best and the worst of `recipe.num_samples` sampled reports of each study.

    Args:
        model, processor: the report generator.
        studies: of the package's schema.
        rewards: functions of `make_rewards`; their sum, each normalised within the study, ranks the reports.
        recipe: says how reports are sampled, and the rewards' weights.
        file: JSON lines, one per study, complete ones of which are kept if they are of this recipe, its data and its
            model: `study_id`, `chosen`, `rejected`, the values of each reward for both, and `made_from`, a digest of
            recipe, data and model. Where all reports are worth the same, `chosen` and `rejected` are null.

    Returns:
        Those with a difference, in the order of the studies, the same in every process; the main one samples.
    """

    def sample() -> list[dict[str, Any]]:
        made_from = _made_from(recipe)
        done = [pair for pair in _read(file) if pair.get("made_from") == made_from]
        groups = range(0, len(studies), _STUDIES_AT_A_TIME)
        todo = [start for start in groups if min(start + _STUDIES_AT_A_TIME, len(studies)) > len(done)]
        # A group that was interrupted is sampled anew, from its own seed.
        done = done[: todo[0]] if todo else done[: len(studies)]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{json.dumps(pair, ensure_ascii=False)}\n" for pair in done), encoding="utf-8")
        with file.open("a", encoding="utf-8") as lines:
            for start in todo:
                group = studies.select(range(start, min(start + _STUDIES_AT_A_TIME, len(studies))))
                for pair in _pairs_of(model, processor, group, rewards, recipe, recipe.seed + start):
                    done.append(pair | {"made_from": made_from})
                    lines.write(f"{json.dumps(done[-1], ensure_ascii=False)}\n")
                lines.flush()
        return done

    return [pair for pair in in_main_process(sample) if pair["chosen"] is not None]


def _made_from(recipe: AlignRecipe) -> str:
    values = recipe.to_dict()
    inputs = run_inputs(values | {"model": {"checkpoint": recipe.model.checkpoint}})
    return digest_of([{name: values[name] for name in _DECISIVE}, recipe.model.checkpoint, inputs])[:16]


def _read(file: Path) -> list[dict[str, Any]]:
    """Complete lines of an earlier run."""
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _pairs_of(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    studies: Dataset,
    rewards: Sequence[Reward],
    recipe: AlignRecipe,
    seed: int,
) -> Iterator[dict[str, Any]]:
    count = recipe.num_samples
    reports = sampled_reports(model, processor, studies, count, recipe.generation, seed)
    references = [text for text in studies["report"] for _ in range(count)]
    values = {reward.__name__: reward(completions=reports, report=references) for reward in rewards}
    for place, name in enumerate(studies["study_id"]):
        part = slice(place * count, (place + 1) * count)
        own = {reward: column[part] for reward, column in values.items()}
        yield {"study_id": name} | _best_and_worst(reports[part], own, recipe.rewards)


def _best_and_worst(
    reports: Sequence[str], values: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]
) -> dict[str, Any]:
    totals = normalized_sum(values, weights)
    best, worst = (pick(range(len(totals)), key=totals.__getitem__) for pick in (max, min))
    if totals[best] - totals[worst] < 1e-6 or reports[best] == reports[worst]:
        return {"chosen": None, "rejected": None}
    return {
        "chosen": reports[best],
        "rejected": reports[worst],
        "chosen_rewards": {name: column[best] for name, column in values.items()},
        "rejected_rewards": {name: column[worst] for name, column in values.items()},
    }


def sampled_reports(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    studies: Dataset,
    count: int,
    generation: Mapping[str, Any],
    seed: int,
) -> list[str]:
    """`count` sampled reports of each study, one study after the other.

    Args:
        model, processor: the report generator.
        studies: of the package's schema, few enough for one batch.
        count: reports per study; each is encoded once.
        generation: arguments of `GenerationConfig`; what they leave open is plain sampling at temperature 1, as in
            TRL, and none of the model's own settings.
        seed: of the sampling.
    """
    inputs = processor.prepare_studies(list(studies)).to(model.device)
    # The model's own file of settings is for writing one report; only its special tokens hold here.
    own = model.generation_config
    tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    options = {"do_sample": True, "top_k": 0, "num_return_sequences": count}
    sampling = GenerationConfig(**tokens | options | dict(generation))
    was_training = model.training
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        ids = model.generate(**inputs, generation_config=sampling)
    model.train(was_training)
    return processor.post_process_image_text_to_text(ids[:, inputs["input_ids"].shape[1] :])


__all__ = ["preference_pairs", "sampled_reports"]
