"""Reports as vectors, by any text encoder or language model."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from ..hub.model_location import location_in

POOLINGS = ("last", "cls", "mean", "tokens")
UNITS = ("report", "sentence")


def last_valid_token(hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The hidden state `(batch, hidden)` of each row's last token that is not padding, on whichever side that is."""
    if attention_mask is None:
        return hidden_states[:, -1]
    positions = torch.arange(1, attention_mask.shape[1] + 1, device=hidden_states.device)
    last = (positions * (attention_mask != 0)).argmax(dim=1)
    return hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), last]


def pool_tokens(hidden_states: Tensor, attention_mask: Tensor | None, pooling: str) -> Tensor:
    """Token states `(batch, sequence, hidden)` as one vector per row, `(batch, hidden)`, or as they are for "tokens".

    "last" is the last token that is not padding, "cls" the first, "mean" the mean of all that are not padding.

    Raises:
        ValueError: the pooling is unknown.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")
    if pooling == "tokens":
        return hidden_states
    if pooling == "last":
        return last_valid_token(hidden_states, attention_mask)
    if attention_mask is None:
        return hidden_states[:, 0] if pooling == "cls" else hidden_states.mean(dim=1)
    if pooling == "cls":
        first = (attention_mask != 0).int().argmax(dim=1)
        return hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), first]
    weights = (attention_mask != 0).to(hidden_states.dtype).unsqueeze(-1)
    return (hidden_states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def without_pooler(text_config: Any) -> dict[str, bool]:
    """The option that leaves out a pooling layer, which would never be used, for the families that have one."""
    model_class = MODEL_MAPPING.get(type(text_config), None)
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    takes_option = model_class is not None and "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if takes_option else {}


def drop_pooler(text_encoder: PreTrainedModel) -> PreTrainedModel:
    """The same text encoder as if it had been made `without_pooler`."""
    if without_pooler(text_encoder.config):
        text_encoder.pooler = None
    return text_encoder


class ReportEncoder(nn.Module):
    """Encodes reports with any `AutoModel`.

    Args:
        model: a text encoder such as Bio_ClinicalBERT, or a language model's body.
        pooling: "last", "cls", "mean" or "tokens", see `pool_tokens`. CXPMRG-Bench takes the last token, AM-MRG and the
            dual-stage system cls, bidirectional learning all tokens.
        unit: "report" encodes a report as one text, "sentence" its sentences one by one, of which the mean is taken.
        frozen: whether it is never trained: no gradients, no dropout.

    Raises:
        ValueError: the pooling or unit is unknown, or "tokens" is asked of sentences.
    """

    def __init__(self, model: PreTrainedModel, *, pooling: str = "last", unit: str = "report", frozen: bool = False):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")
        if unit not in UNITS:
            raise ValueError(f"unit must be one of {UNITS}, got {unit!r}")
        if pooling == "tokens" and unit == "sentence":
            raise ValueError(
                'sentences of a report are averaged, so they need one vector each: pooling "tokens" can\'t'
            )
        self.model, self.pooling, self.unit, self.frozen = model, pooling, unit, frozen
        if frozen:
            model.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, *, pooling: str = "last", unit: str = "report", frozen: bool = False, **kwargs: Any
    ) -> Self:
        """Loads a text encoder, the body of a language model, or the text encoder of a model with one, such as a dual
        encoder of images and reports; arguments as above.

        Args:
            kwargs: passed to `AutoModel.from_pretrained` (`revision`, `dtype`, …).
        """
        config = AutoConfig.from_pretrained(name_or_path, **location_in(kwargs, "trust_remote_code"))
        model = AutoModel.from_pretrained(name_or_path, **without_pooler(config), **kwargs)
        model = getattr(model, "text_encoder", model)
        return cls(model, pooling=pooling, unit=unit, frozen=frozen)

    @property
    def hidden_size(self) -> int:
        """Width of the vectors."""
        return self.model.config.hidden_size

    def train(self, mode: bool = True) -> Self:
        """As usual, but a frozen model stays as it is used."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, counts: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Encodes a batch.

        Args:
            input_ids: `(rows, sequence)`, padded on either side. A row is a report, or a sentence with that unit.
            attention_mask: `(rows, sequence)`, 0 at padding.
            counts: how many rows, one behind the other, are the sentences of each report, `(batch,)`; for unit
                "sentence" only, and needed there.
            kwargs: passed to the model (`token_type_ids`, …).

        Returns:
            `(batch, hidden_size)`, or `(batch, sequence, hidden_size)` with pooling "tokens".

        Raises:
            ValueError: `counts` is missing, of no use, names a report without sentences, or does not fit the rows.
        """
        if (counts is None) == (self.unit == "sentence"):
            raise ValueError(
                'counts, the number of sentences of each report, goes with unit "sentence" and only with it'
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states = self.model(
                input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs
            ).last_hidden_state
            pooled = pool_tokens(states, attention_mask, self.pooling)
            return pooled if counts is None else _mean_by_report(pooled, counts)

    @torch.no_grad()
    def encode(
        self,
        reports: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        split: Callable[[str], list[str]] | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> Tensor:
        """One vector per report, without gradients and dropout, on the CPU in float32.

        Args:
            reports: texts.
            tokenizer: the model's.
            split: what makes sentences of a report; for unit "sentence", and needed there. A report without any is
                encoded as it is.
            batch_size: rows at a time; texts of like length go together.
            max_length: tokens of a text, the most; the tokenizer's limit when not given.

        Returns:
            `(reports, hidden_size)`.

        Raises:
            ValueError: the pooling is "tokens", or `split` is missing or of no use.
        """
        if self.pooling == "tokens":
            raise ValueError('pooling "tokens" gives no vector per report')
        if (split is None) == (self.unit == "sentence"):
            raise ValueError('split goes with unit "sentence" and only with it')
        texts = [(split(report) or [report]) if split else [report] for report in reports]
        rows = [text for several in texts for text in several]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        encoded = torch.empty(len(rows), self.hidden_size)
        was_training = self.training
        self.eval()
        for start in range(0, len(rows), batch_size):
            chosen = order[start : start + batch_size]
            batch = tokenizer(
                [rows[row] for row in chosen],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=max_length,
                return_token_type_ids=False,
            ).to(self.model.device)
            states = self.model(**batch, return_dict=True).last_hidden_state
            encoded[chosen] = pool_tokens(states, batch["attention_mask"], self.pooling).float().cpu()
        self.train(was_training)
        return _mean_by_report(encoded, torch.tensor([len(several) for several in texts]))


def _mean_by_report(rows: Tensor, counts: Tensor) -> Tensor:
    counts = counts.to(rows.device)
    if int(counts.sum()) != len(rows) or (len(counts) and int(counts.min()) < 1):
        raise ValueError(f"counts {counts.tolist()} must be positive and add up to the {len(rows)} rows")
    report = torch.arange(len(counts), device=rows.device).repeat_interleave(counts)
    total = rows.new_zeros(len(counts), rows.shape[1]).index_add(0, report, rows)
    return total / counts.unsqueeze(-1).to(rows.dtype)


__all__ = ["POOLINGS", "UNITS", "ReportEncoder", "last_valid_token", "pool_tokens", "without_pooler"]
