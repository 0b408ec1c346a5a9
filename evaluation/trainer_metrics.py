"""`compute_metrics` for a Trainer that generates reports at evaluation."""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .honesty import unique_ratio
from .scoring import score_reports
from .tokenization import Tokenize

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TRAINING_SCORES = (
    "BLEU",
    "ROUGE_L",
    "CIDEr",
    *(f"F1_{kind}_{size}_uncertain-negative" for size in (14, 5) for kind in ("micro", "macro", "example")),
)
"""What a log of training has room for, without METEOR, which starts a Java program each time."""


def report_metrics(
    metrics: Iterable[str] = TRAINING_SCORES,
    *,
    tokenize: Tokenize = "none",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> "Callable[[EvalPrediction], dict[str, float]]":
    """A function for the `compute_metrics` of a Trainer.

    Args:
        metrics, tokenize: as for `scoring.evaluate_reports`.
        tokenizer: decodes predictions and labels that are token ids `(studies, tokens)`; texts, as `ReportTrainer`
            gives them, need none. Label -100 is left out.

    Returns:
        A function from an `EvalPrediction` to the scores and `unique_ratio` (see `honesty.honesty_checks`).
    """
    chosen = tuple(metrics)

    def compute(prediction: "EvalPrediction") -> dict[str, float]:
        hypotheses, references = (_texts(part, tokenizer) for part in (prediction.predictions, prediction.label_ids))
        scores, unavailable = score_reports(references, hypotheses, metrics=chosen, tokenize=tokenize)
        for name, reason in unavailable.items():
            logger.warning("%s is not computed: %s", name, reason)
        return scores | {"unique_ratio": unique_ratio(hypotheses)}

    return compute


def _texts(values: Any, tokenizer: "PreTrainedTokenizerBase | None") -> list[str]:
    if all(isinstance(value, str) for value in values):
        return list(values)
    if tokenizer is None:
        raise ValueError("predictions are token ids; give report_metrics the tokenizer that decodes them")
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = [np.where(np.asarray(row) < 0, filler, row) for row in values]
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
