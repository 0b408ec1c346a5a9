"""What a training run's log says of how fast it learned, and how well that carries over to studies not trained on."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

_REPORT_LOSS = "report"


def best_evaluation(history: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> dict[str, float]:
    """When the best evaluation was, and how far validation and training loss were apart there.

    Args:
        history: the Trainer's log, see `RunResult.history`.
        training: the recipe's `training`; its `metric_for_best_model` and `greater_is_better` say what best means. The
            lowest validation loss where they are absent.

    Returns:
        - `epochs`: epochs of training up to there.
        - `loss_gap`: validation loss less the mean of the training losses logged since the evaluation before; absent
          when none was. Of systems with several losses that of the report counts alone, so that those with more losses
          can be compared with those with fewer.

        Empty without evaluations that have what is sought.
    """
    name = str(training.get("metric_for_best_model") or "loss")
    name = name if name.startswith("eval_") else f"eval_{name}"
    greater = training.get("greater_is_better")
    sign = 1 if (not name.endswith("loss") if greater is None else greater) else -1
    evaluations = [index for index, entry in enumerate(history) if name in entry and "epoch" in entry]
    if not evaluations:
        return {}
    best = max(evaluations, key=lambda index: sign * history[index][name])
    before = max((index for index in evaluations if index < best), default=-1)
    loss = _REPORT_LOSS if f"eval_{_REPORT_LOSS}" in history[best] else "loss"
    losses = [entry[loss] for entry in history[before + 1 : best] if loss in entry]
    found = {"epochs": float(history[best]["epoch"])}
    if losses and f"eval_{loss}" in history[best]:
        found["loss_gap"] = history[best][f"eval_{loss}"] - mean(losses)
    return found


__all__ = ["best_evaluation"]
