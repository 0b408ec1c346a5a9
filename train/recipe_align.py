"""Recipes of reinforcement learning: a report generator learns from rewards, after stage 3."""

from typing import Any, ClassVar

from pydantic import Field

from .recipe_base import Recipe
from .recipe_sections import Section, refuse_unknown
from .recipe_text import RecipeError

_TRL_ARGUMENTS = {"grpo": "GRPOConfig", "dpo": "DPOConfig"}


class AlignedSection(Section):
    """The report generator that is aligned.

    Attributes:
        checkpoint: folder or Hub name of the report generator to start from, such as what `finetune` left.
        freeze: parts that are not trained. A frozen vision encoder looks at every image once.
        lora: arguments of peft's `LoraConfig`, for adapters on the language model; then nothing else is trained. Null
            to train what is not frozen.
    """

    checkpoint: str
    freeze: list[str] = Field(default_factory=lambda: ["vision_encoder"])
    lora: dict[str, Any] | None = None


class AlignRecipe(Recipe):
    """Reinforcement learning of a report generator from rewards (after stage 3), by TRL.

    Attributes:
        model: what is trained.
        method: `grpo`, group relative policy optimisation on sampled reports; or `dpo`, direct preference optimisation
            on the best and the worst of the start's sampled reports.
        rewards: reward to weight, of `train/rewards.py`. Each is normalised within the reports of a study, so a weight
            is a share of the whole.
        uncertain: what an uncertain observation counts as in the reward `label_f1`: `positive`, `negative` or `ignore`.
        radeval_python: Python of an environment with radeval, for rewards by models of their own.
        num_samples: reports sampled for each study.
        beta: how much is paid for leaving the start: weight of the KL divergence (`grpo`), or the inverse temperature
            of the implicit reward (`dpo`).
        generation: how reports are sampled: `max_new_tokens`, `temperature` and other arguments of transformers'
            `GenerationConfig`.
        evaluation: how reports are written before and after, in place of the model's own settings.
        metrics: scores before and after, by the names of `evaluation.scoring.evaluate_reports`; the caption metrics
            without METEOR, the averages of F1 and the located scores when null.
        training: arguments of TRL's `GRPOConfig` or `DPOConfig`. With `grpo`, batch sizes count sampled reports.
    """

    model: AlignedSection
    method: str = "grpo"
    rewards: dict[str, float] = Field(default_factory=dict)
    uncertain: str = "negative"
    radeval_python: str | None = None
    num_samples: int = 8
    beta: float = 0.04
    generation: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    metrics: list[str] | None = None

    _RESERVED: ClassVar[tuple[str, ...]] = (
        *Recipe._RESERVED,
        *("num_generations", "beta", "reward_weights", "multi_objective_aggregation", "max_completion_length"),
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"),
        # Reports are written and scored before and after.
        *("eval_strategy", "eval_steps", "eval_on_start", "load_best_model_at_end", "metric_for_best_model"),
    )

    def model_post_init(self, context: Any) -> None:
        if self.training.get("push_to_hub"):
            raise RecipeError(
                "training.push_to_hub can't be set here: TRL's trainers upload all of their folder, also reports that "
                "were sampled. Push the finished model: mambaxray push"
            )
        if self.method not in _TRL_ARGUMENTS:
            raise RecipeError(f"method must be one of {', '.join(_TRL_ARGUMENTS)}, got {self.method!r}")
        super().model_post_init(context)
        from transformers import GenerationConfig

        from ..evaluation.score_tables import wanted_scores
        from .rewards import check_rewards

        for name in ("generation", "evaluation"):
            refuse_unknown(getattr(self, name), list(GenerationConfig().to_dict()), name)
        if self.uncertain not in ("positive", "negative", "ignore"):
            raise RecipeError(f"uncertain must be positive, negative or ignore, got {self.uncertain!r}")
        if self.num_samples < 2:
            raise RecipeError(f"num_samples must be at least 2, for reports are compared; got {self.num_samples}")
        if self.beta < 0 or (self.method == "dpo" and self.beta == 0):
            raise RecipeError(f"beta must be positive{'' if self.method == 'dpo' else ' or 0'}, got {self.beta}")
        try:
            # A plugin may register rewards of its own, and is imported when the recipe is used.
            if not self.plugins:
                check_rewards(self.rewards)
            wanted_scores(self.metrics)
        except (TypeError, ValueError) as error:
            raise RecipeError(str(error)) from error

    def arguments_class(self) -> type[Any]:
        try:
            import trl
        except ImportError as error:
            raise RecipeError('recipes of the stage align need TRL: pip install "mambaxray[rl]"') from error
        return getattr(trl, _TRL_ARGUMENTS[self.method])

    def fixed_arguments(self) -> dict[str, Any]:
        # TRL turns bfloat16 and recomputation on by default; here they are off unless the recipe says so.
        values: dict[str, Any] = {"beta": self.beta, "bf16": False, "gradient_checkpointing": False}
        if self.method == "dpo":
            return values | {"max_length": None}
        sampling = dict(self.generation)
        own = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        values |= {name: sampling.pop(name) for name in own if name in sampling}
        if "max_new_tokens" in sampling:
            values["max_completion_length"] = sampling.pop("max_new_tokens")
        return values | {
            "num_generations": self.num_samples,
            "generation_kwargs": sampling or None,
            "reward_weights": list(self.rewards.values()),
            "multi_objective_aggregation": "normalize_then_sum",
        }


__all__ = ["AlignRecipe", "AlignedSection"]
