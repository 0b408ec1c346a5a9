"""The report memory of AM-MRG: training reports as vectors, chosen by how frequent each observation is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ..configuration.configuration_mambaxray import MambaXrayConfig
from ..data.schema import OBSERVATIONS, PRESENT
from ..evaluation.labeler_sentences import sentences_of
from ..modeling_mambaxray.layers.report_encoder import POOLINGS, UNITS, ReportEncoder
from ..modeling_mambaxray.layers.study_memory import MemorySource
from .memory_building import MemoryPlan
from .memory_schedule import Track
from .stored_models import StoredModel
from .training_studies import MemoryBuildError, TrainingStudies, order_by_seed


@dataclass(frozen=True)
class ReportMemoryOptions:
    """What the report memory is made of.

    Attributes:
        reports: reports in the memory, the most.
        unit: "report" encodes a report as one text, "sentence" its sentences one by one, of which the mean is taken;
            the paper says both.
        pooling: `cls`, `last` or `mean`, see `pool_tokens`; for a decoder `last` or `mean`.
        dtype: of the encoder's weights, such as `bfloat16`; its own when None.
        max_length: tokens of a text, the most; the tokenizer's limit, at most 512, when None.

    Source: AM-MRG, section III-C, tables VI and VIII.
    """

    reports: int = 6000
    unit: str = "sentence"
    pooling: str = "cls"
    dtype: str | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        poolings = [name for name in POOLINGS if name != "tokens"]
        for name, allowed in (("unit", UNITS), ("pooling", poolings)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.dtype is not None and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype must be one of torch's, such as bfloat16, got {self.dtype!r}")
        for name in ("reports", "max_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")


@dataclass(frozen=True)
class ReportVectors:
    """Makes `values` of studies: their reports, encoded.

    Attributes:
        folder: of the text encoder or language model.
        options: how reports are encoded.
        device: where it works.
    """

    folder: str
    options: ReportMemoryOptions
    device: str = "cpu"

    def on(self, device: str) -> Self:
        """The same for a device."""
        return replace(self, device=device)

    @cached_property
    def _encoder(self) -> ReportEncoder:
        options = self.options
        dtype = {} if options.dtype is None else {"dtype": getattr(torch, options.dtype)}
        encoder = ReportEncoder.from_pretrained(
            self.folder, pooling=options.pooling, unit=options.unit, frozen=True, **dtype
        )
        encoder = encoder.to(self.device).eval()
        if options.pooling == "cls":
            _check_first_token(encoder, self._tokenizer)
        return encoder

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def __call__(self, track: str, studies: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """See `StudyEncoder`."""
        positions = getattr(self._encoder.model.config, "max_position_embeddings", _LONGEST)
        longest = self.options.max_length or min(self._tokenizer.model_max_length, positions, _LONGEST)
        values = self._encoder.encode(
            [study["report"] for study in studies],
            self._tokenizer,
            split=sentences_of if self.options.unit == "sentence" else None,
            max_length=longest,
        )
        return {"values": values, "study": torch.arange(len(studies))}


def _check_first_token(encoder: ReportEncoder, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a model whose first token knows nothing of those behind it, so that all texts would have one vector.

    Raises:
        MemoryBuildError: it is a decoder.
    """
    ids = tokenizer("No pleural effusion.", return_tensors="pt")["input_ids"].to(encoder.model.device)
    others = ids.clone()
    others[:, 1:] = ids[:, 1:].flip(1)
    with torch.no_grad():
        first, second = (encoder.model(input_ids=each).last_hidden_state[:, 0].float() for each in (ids, others))
    if torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        raise MemoryBuildError(
            f"pooling cls takes a text's first token, which in a {encoder.model.config.model_type} model has seen "
            "nothing of the text: choose last or mean (--pooling)"
        )


# Tokens of a report where the tokenizer knows no limit.
_LONGEST = 512


def plan_report_memory(
    studies: TrainingStudies,
    encoder: StoredModel,
    data_set: str,
    options: ReportMemoryOptions | None = None,
    *,
    with_reports: bool = True,
    seed: int = 0,
    batch_size: int = 32,
) -> MemoryPlan:
    """A report memory: reports of each observation by its share of all labels, drawn by the seed.

    Args:
        studies: what may be remembered.
        encoder: a text encoder or language model, or a dual encoder, whose text encoder is used.
        data_set: name of the data set.
        options: what the memory is made of.
        with_reports: whether the memory also holds the text, which evidence shows.
        seed: decides which studies of an observation are chosen.
        batch_size: reports that are encoded at once.

    Raises:
        MemoryBuildError: no study has a report and an observation, or the encoder is none of texts.
    """
    options = options or ReportMemoryOptions()
    config = AutoConfig.from_pretrained(encoder.folder)
    text = getattr(config, "text_config", config)
    if isinstance(config, MambaXrayConfig) or not hasattr(text, "hidden_size") or not hasattr(text, "vocab_size"):
        raise MemoryBuildError(f"{encoder.name} is a {config.model_type} model, not a text encoder or a language model")
    candidates = reports_by_observation(studies, seed)
    if not candidates:
        raise MemoryBuildError(
            "no training study has both a report and a label that says that an observation is present, so there is "
            "nothing to keep: prepare the data set with labels"
        )
    chosen = choose_by_share(candidates, options.reports)
    source = MemorySource(
        data_set,
        encoder.name,
        encoder.revision,
        seed,
        {
            "memory": "report",
            **vars(options),
            "with_reports": with_reports,
            "batch_size": batch_size,
            "model": encoder.content,
            "studies": studies.content,
        },
    )
    tracks = [Track(name, rows) for name, rows in chosen.items()]
    vectors = ReportVectors(encoder.folder, options)
    return MemoryPlan(tracks, vectors, ("report",), source, with_reports, batch_size)


def reports_by_observation(studies: TrainingStudies, seed: int) -> dict[str, list[int]]:
    """Of each observation that there is, the studies that have it and a report, in an order drawn by the seed.

    A patient's report that stands in the data set once per image counts once.
    """
    first: dict[tuple[str, str], int] = {}
    for row in studies.with_report():
        first.setdefault((studies.patient_ids[row], studies.reports[row]), row)
    kept = set(first.values())
    found = {
        name: order_by_seed(kept.intersection(studies.with_label(name, PRESENT)), studies.study_ids, seed, name)
        for name in OBSERVATIONS
    }
    return {name: rows for name, rows in found.items() if rows}


def choose_by_share(candidates: Mapping[str, Sequence[int]], total: int) -> dict[str, list[int]]:
    """Chooses at most `total` items, of each group by its share of all candidates, each item once.

    An item can be a candidate of several groups. The smallest group chooses first, so that what is rare is there; what
    a group lacks, because others have taken it, is shared out again.

    Args:
        candidates: by group, in order of choice.
        total: items, the most.

    Returns:
        By group, in the groups' order.
    """
    chosen: dict[str, list[int]] = {name: [] for name in candidates}
    taken: set[int] = set()
    while len(taken) < total:
        left = {name: [item for item in items if item not in taken] for name, items in candidates.items()}
        quotas = _quotas({name: len(candidates[name]) for name, items in left.items() if items}, total - len(taken))
        if not quotas:
            break
        for name in sorted(quotas, key=lambda name: len(candidates[name])):
            items = [item for item in left[name] if item not in taken][: quotas[name]]
            chosen[name] += items
            taken.update(items)
    return chosen


def _quotas(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole numbers in proportion to the sizes that add up to the total, by the largest remainders."""
    if not sizes:
        return {}
    whole = sum(sizes.values())
    shares = {name: divmod(total * size, whole) for name, size in sizes.items()}
    quotas = {name: share for name, (share, _) in shares.items()}
    by_remainder = sorted(shares, key=lambda name: shares[name][1], reverse=True)
    for name in by_remainder[: total - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


__all__ = ["ReportMemoryOptions", "ReportVectors", "choose_by_share", "plan_report_memory", "reports_by_observation"]
