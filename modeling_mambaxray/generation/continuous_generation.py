"""`generate` for many studies: finished reports leave the batch, and new studies take their places.

A plain batch goes on until its longest report ends. Here a report that ends makes room at once, the image and the
prompt of a study are computed and kept once for all its beams, and no step copies the cache (`slot_cache.py`). On a
GPU the next prompts are computed while reports go on (`side_stream.py`). The reports are those of plain `generate`,
token for token; what could make them differ is left to plain `generate`.

transformers has continuous batching of its own (`generate_batch`, 5.24). It takes token ids only, so no images, no
beams, a paged attention of its own, and most of the memory at once; it does not serve here.
"""

import inspect
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.distributed.fsdp import is_fsdp_managed_module
from transformers.generation import GenerationMode
from transformers.generation import logits_process as processors
from transformers.generation import stopping_criteria as criteria
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from ..layers.image_features import Evidence
from .attention_kernels import attention_for_changing_shapes
from .plain_generation import generate_in_batches
from .report_search import BeamSearch, GreedySearch
from .side_stream import side_stream_for, to_device
from .slot_cache import SlotCache, index_on
from .step_graphs import StepGraphs
from .study_batch import stack_studies

logger = logging.getLogger(__name__)

# Logits processors whose output for a row depends on that row alone. Those of the second group ask for the ids.
_BY_SCORES = (
    processors.SuppressTokensLogitsProcessor,
    processors.InfNanRemoveLogitsProcessor,
    processors.LogitNormalization,
)
_BY_IDS = (
    processors.RepetitionPenaltyLogitsProcessor,
    processors.NoRepeatNGramLogitsProcessor,
    processors.SequenceBiasLogitsProcessor,
    processors.NoBadWordsLogitsProcessor,
    processors.MinLengthLogitsProcessor,
    processors.MinNewTokensLengthLogitsProcessor,
    processors.ForcedBOSTokenLogitsProcessor,
    processors.ForcedEOSTokenLogitsProcessor,
    processors.ExponentialDecayLengthPenalty,
    processors.SuppressTokensAtBeginLogitsProcessor,
)
_CRITERIA = (criteria.MaxLengthCriteria, criteria.EosTokenCriteria)
_ATTENTION = ("sdpa", "eager")
# Arguments of `generate` that its own loops take, or that hold state of one call.
_OF_PLAIN_LOOPS = {"assistant_model", "cache", "custom_generate", "streamer", "synced_gpus", "tokenizer"}


def generate_continuously(
    model: PreTrainedModel,
    studies: Iterable[Mapping[str, Tensor]],
    *,
    batch_size: int = 8,
    on_evidence: Callable[[int, list[Evidence]], None] | None = None,
    **generate_kwargs: Any,
) -> Iterator[tuple[int, Tensor]]:
    """Generates a report for each study, as soon as there is room for it.

    Options that can't be served exactly (sampling, several returned sequences, assisted decoding, a cache
    implementation, …) and decoders that can't be called as it needs (see `docs/generation.md`) are left to plain
    `generate` in batches, which the log says.

    Args:
        model: a `MambaXrayForConditionalGeneration`, in evaluation mode.
        studies: what the processor makes of one study each: `input_ids` and `attention_mask` `(1, tokens)`,
            `pixel_values` `(1, views, 3, height, width)` and `view_mask` `(1, views)`. Up to `batch_size` are read
            ahead. Of those that are there, studies whose prompts are equally long start together. The model's
            `study_inputs` belong to it, `(1, …)`.
        batch_size: studies in work at a time. On a GPU, the prompts of up to a quarter as many wait beside them.
        on_evidence: called with a study's position and its evidence, before its report is yielded, where the model
            gives any.
        generate_kwargs: arguments of `model.generate`.

    Yields:
        Each study's position in `studies` and its new tokens `(tokens,)`, end-of-sequence included, in the order in
        which reports are finished. Of several sequences per study it is the first one, which is the best.

    Raises:
        ValueError: the batch size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    waiting = _Waiting(studies, batch_size)
    batch = _Batch(model, waiting.count(), generate_kwargs, on_evidence)
    side = side_stream_for(model)
    ahead: _Prompts | None = None
    try:
        while waiting.peek() or ahead is not None or batch.count:
            if ahead is not None and batch.room >= len(ahead.positions):
                prompts, ahead = ahead, None
                side.join(prompts.tensors())
                yield from batch.admit(prompts)
            # In groups, since a prompt alone computes less efficiently.
            elif ahead is None and waiting.peek() and (batch.count == 0 or batch.room >= batch.quarter):
                yield from batch.admit(batch.prefill(waiting.take(batch.room)))
            elif ahead is None and side is not None and waiting.peek():
                # Launched behind the step, whose kernels run meanwhile.
                some = waiting.take(batch.quarter)
                side.follow(value for _, study in some for value in study.values() if isinstance(value, Tensor))
                batch.launch_step()
                with side.beside():
                    ahead = batch.prefill(some)
                yield from batch.finish_step()
            else:
                yield from batch.step()
    except _NotServable as reason:
        while batch.count:
            yield from batch.step()
        logger.info("plain generate in batches of %d: %s", batch_size, reason)
        options = {"batch_size": batch_size, "on_evidence": on_evidence, **generate_kwargs}
        for position, tokens in generate_in_batches(model, waiting.give_back(), **options):
            yield position, tokens if tokens.ndim == 1 else tokens[0]
    finally:
        if side is not None:
            side.join()


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether processes hold a part of the model each (FSDP, ZeRO-3) and must call it together."""
    return is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)


class _NotServable(Exception):
    """Why plain `generate` has to do it: these studies, and all that follow."""


class _Waiting:
    """Studies that are read but not begun."""

    def __init__(self, studies: Iterable[Mapping[str, Tensor]], ahead: int):
        self._source = enumerate(studies)
        self._ahead = ahead
        self._studies: list[tuple[int, dict[str, Tensor]]] = []
        self._taken: list[tuple[int, dict[str, Tensor]]] = []

    def peek(self) -> bool:
        """Whether there is any."""
        if not self._studies:
            self._read(1)
        return bool(self._studies)

    def count(self) -> int:
        """How many there are, the most that are read ahead."""
        self._read(self._ahead)
        return len(self._studies)

    def take(self, most: int) -> list[tuple[int, dict[str, Tensor]]]:
        """The study that has waited longest and others with a prompt of the same length."""
        self._read(self._ahead)
        length = _prompt_length(self._studies[0][1])
        self._taken = [study for study in self._studies if _prompt_length(study[1]) == length][:most]
        positions = {position for position, _ in self._taken}
        self._studies = [study for study in self._studies if study[0] not in positions]
        return self._taken

    def give_back(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """What was taken last, then all the others."""
        yield from sorted([*self._taken, *self._studies], key=lambda study: study[0])
        yield from ((position, _unpadded(study)) for position, study in self._source)

    def _read(self, count: int) -> None:
        while len(self._studies) < count and (entry := next(self._source, None)) is not None:
            self._studies.append((entry[0], _unpadded(entry[1])))


def _unpadded(study: Mapping[str, Tensor]) -> dict[str, Tensor]:
    is_text = study["attention_mask"][0] != 0
    return {**study, **{name: study[name][:, is_text] for name in ("input_ids", "attention_mask")}}


def _prompt_length(study: Mapping[str, Tensor]) -> int:
    return study["input_ids"].shape[1]


class _Group:
    """Reports that were begun together, so that they have the same length, and how `generate` treats their logits."""

    def __init__(self, logits_processor: LogitsProcessorList):
        self.logits_processor = logits_processor
        self.needs_ids = any(type(processor) not in _BY_SCORES for processor in logits_processor)


@dataclass
class _Prompts:
    """Studies whose prompts, of one length, are computed, and whose reports are not begun.

    Attributes:
        positions: of the studies.
        ids: `(studies, tokens)`.
        cache: the decoder's, with a row for each study.
        logits: `(studies, 1, vocabulary)`, of each first token.
        config: for `generate`.
        group: how `generate` treats the logits.
        evidence: of each study, where the model gives any.
    """

    positions: list[int]
    ids: Tensor
    cache: Cache
    logits: Tensor
    config: GenerationConfig
    group: _Group
    evidence: list[list[Evidence]]

    def tensors(self) -> Iterator[Tensor]:
        """All that was computed and is used later."""
        yield from (self.ids, self.logits)
        for part in (*self.cache.layers, *self.group.logits_processor, *itertools.chain(*self.evidence)):
            yield from (value for value in vars(part).values() if isinstance(value, Tensor))


@dataclass
class _Report:
    """A report in work: its study, its prompt `(tokens,)`, and the number of steps that it took so far."""

    position: int
    prompt: Tensor
    group: _Group
    length: int = 0


class _Batch:
    """The studies in work: rows of a cache and of a search, the first `count` of them in use."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: int,
        generate_kwargs: Mapping[str, Any],
        on_evidence: Callable[[int, list[Evidence]], None] | None,
    ):
        self._model = model
        self._on_evidence = on_evidence
        self._rows = rows
        self._generate_kwargs = generate_kwargs
        self._reports: list[_Report] = []
        self._cache: SlotCache | None = None
        self._search: GreedySearch | None = None
        self._eos: Tensor | None = None
        self._chosen: Tensor | None = None
        self._graphs = StepGraphs(self._decode)
        self._captured_generation = 0
        self.quarter = max(1, rows // 4)
        # On a GPU a step computes rows in multiples of this, so that its shapes repeat; rows cost it little.
        self._row_multiple = self.quarter if model.device.type == "cuda" else 1

    @property
    def count(self) -> int:
        return len(self._reports)

    @property
    def room(self) -> int:
        return self._rows - self.count

    def prefill(self, studies: list[tuple[int, dict[str, Tensor]]]) -> _Prompts:
        """Computes the prompts of studies, all of one length; what is in work is not touched.

        Raises:
            _NotServable: plain `generate` has to write their reports.
        """
        if unserved := sorted(_OF_PLAIN_LOOPS & self._generate_kwargs.keys()):
            raise _NotServable(f"{', '.join(unserved)} given")
        inputs = stack_studies([study for _, study in studies], study_inputs=self._model.study_inputs)
        inputs = {name: to_device(value, self._model.device) for name, value in inputs.items()}
        text = {name: inputs.pop(name) for name in ("input_ids", "attention_mask")}

        def compute(
            model: PreTrainedModel,
            input_ids: Tensor,
            logits_processor: LogitsProcessorList,
            stopping_criteria: StoppingCriteriaList,
            generation_config: GenerationConfig,
            **model_kwargs: Any,
        ) -> _Prompts:
            cache = model_kwargs.get("cache")
            if reason := _refusal(model, generation_config, logits_processor, stopping_criteria, cache):
                raise _NotServable(reason)
            # `generate` has repeated the studies for their beams; what these share is computed once.
            beams = generation_config.num_beams
            prompts = input_ids[::beams]
            model_kwargs = {name: _one_per_study(value, beams) for name, value in model_kwargs.items()}
            if inputs:
                model_kwargs["mm_encoder_outputs"] = {"image": model.get_image_features(**inputs)}
            inputs_of_first = model.prepare_inputs_for_generation(prompts, is_first_iteration=True, **model_kwargs)
            outputs = model(**inputs_of_first, return_dict=True)
            return _Prompts(
                [position for position, _ in studies],
                prompts,
                outputs.cache,
                outputs.logits[:, -1:],
                generation_config,
                _Group(logits_processor),
                outputs.evidence or [],
            )

        # `generate` prepares everything, and calls `compute` in place of its loop. It gets no images: what it prepares
        # waits for the device now and then, which then has none to encode.
        with attention_for_changing_shapes():
            return self._model.generate(**text, **self._generate_kwargs, custom_generate=compute)

    @torch.no_grad()
    def admit(self, prompts: _Prompts) -> list[tuple[int, Tensor]]:
        """Begins the reports behind prompts; returns those that are finished at once."""
        if self._on_evidence is not None:
            for position, evidence in zip(prompts.positions, prompts.evidence, strict=False):
                self._on_evidence(position, evidence)
        if self._cache is None:
            self._open(len(prompts.cache.layers), prompts.config)
        rows = slice(self.count, self.count + len(prompts.positions))
        self._cache.put_prompts(rows.start, prompts.cache)
        length = prompts.ids.shape[1]
        self._search.start(rows, length, prompts.config.max_length - length)
        self._reports += [
            _Report(position, ids, prompts.group) for position, ids in zip(prompts.positions, prompts.ids, strict=True)
        ]
        return self._conclude(rows, self._choose(rows, prompts.logits.expand(-1, prompts.config.num_beams, -1)))

    def _open(self, num_layers: int, config: GenerationConfig) -> None:
        device = self._model.device
        eos = [] if config.eos_token_id is None else config.eos_token_id
        self._eos = torch.as_tensor(eos, dtype=torch.long, device=device).reshape(-1)
        self._cache = SlotCache(num_layers, self._rows, config.num_beams, device)
        search = GreedySearch if config.num_beams == 1 else BeamSearch
        self._search = search.create(self._rows, config, device)

    def step(self) -> list[tuple[int, Tensor]]:
        """Adds a token to every report in work; returns those that are finished."""
        self.launch_step()
        return self.finish_step()

    @torch.no_grad()
    def launch_step(self) -> None:
        """Begins a step, unless one is begun."""
        if self._chosen is not None:
            return
        rows = min(self._rows, -(-self.count // self._row_multiple) * self._row_multiple)
        if self._cache.generation != self._captured_generation:
            self._graphs.forget()
            self._captured_generation = self._cache.generation
        self._cache.begin_step(self.count, rows)
        tokens, positions = self._search.last_tokens(rows)
        with attention_for_changing_shapes():
            logits = self._graphs((rows, self._cache.length), tokens, positions)
        self._chosen = self._choose(slice(0, self.count), logits[: self.count])

    @torch.no_grad()
    def finish_step(self) -> list[tuple[int, Tensor]]:
        """Waits for the step that was begun; returns the reports that are finished."""
        chosen, self._chosen = self._chosen, None
        return self._conclude(slice(0, self.count), chosen)

    def _decode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Logits behind the newest tokens, all `(studies, beams)` and more."""
        visible = self._cache.mask
        # Added to the attention's scores, which every implementation understands.
        mask = torch.zeros(visible.shape, dtype=self._model.language_model.dtype, device=visible.device)
        mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)
        # Embedded here: given ids, the model would look whether they are images, and wait for the device.
        return self._model(
            inputs_embeds=self._model.get_input_embeddings()(tokens),
            attention_mask=mask,
            position_ids=positions,
            cache=self._cache,
            use_cache=True,
            return_dict=True,
        ).logits

    def _choose(self, rows: slice, logits: Tensor) -> Tensor:
        """The next tokens of these rows, from logits `(studies, beams, vocabulary)`.

        Returns:
            `(3, studies)`, what `_conclude` wants to know: whether each report is finished, the highest slot of its
            row, and its length.
        """
        scores = self._process(rows, self._search.normalize(logits.float()))
        parents, done = self._search.step(rows, scores, self._eos)
        if parents is not None:
            self._cache.follow(rows, parents)
        highest = self._cache.reserve(rows)
        return torch.stack([done.long(), highest, self._search.report_lengths(rows)])

    def _conclude(self, rows: slice, chosen: Tensor) -> list[tuple[int, Tensor]]:
        """Takes note of what `_choose` returned, and gives up the rows of finished reports; returns these."""
        # The only wait for the device in a step.
        done, highest, lengths = chosen.tolist()
        self._cache.set_extents(rows.start, highest)
        for report in self._reports[rows]:
            report.length += 1
        ended = [rows.start + index for index, is_done in enumerate(done) if is_done]
        if not ended:
            return []
        tokens = self._search.reports(ended)
        finished = [
            (self._reports[row].position, report[: lengths[row - rows.start]])
            for row, report in zip(ended, tokens, strict=True)
        ]
        self._remove(ended)
        return finished

    def _remove(self, ended: Sequence[int]) -> None:
        """Gives up rows, and lets the last ones move into the gaps."""
        left = self.count - len(ended)
        gaps = [row for row in ended if row < left]
        movers = [row for row in range(left, self.count) if row not in set(ended)]
        if gaps:
            self._cache.move(movers, gaps)
            self._search.move(movers, gaps)
            for source, target in zip(movers, gaps, strict=True):
                self._reports[target] = self._reports[source]
        del self._reports[left:]

    def _process(self, rows: slice, scores: Tensor) -> Tensor:
        """Puts scores through the logits processors, each group's own."""
        members: dict[_Group, list[int]] = {}
        for index, report in enumerate(self._reports[rows]):
            members.setdefault(report.group, []).append(index)
        if not any(group.needs_ids for group in members):
            return _processed(next(iter(members)), None, scores)
        if len(members) == 1:
            (group,) = members
            return _processed(group, self._ids(rows, self._reports[rows]), scores)
        processed = torch.empty_like(scores)
        for group, indices in members.items():
            reports = [self._reports[rows][index] for index in indices]
            chosen = index_on(scores.device, indices)
            ids = self._ids(chosen + rows.start, reports)
            processed[chosen] = _processed(group, ids, scores[chosen])
        return processed

    def _ids(self, rows: slice | Tensor, reports: Sequence[_Report]) -> Tensor:
        """Prompts and what was written so far of equally long reports, `(studies, beams, tokens)`."""
        written = self._search.tokens[rows][:, :, : reports[0].length]
        prompts = torch.stack([report.prompt for report in reports]).unsqueeze(1)
        return torch.cat([prompts.expand(-1, written.shape[1], -1), written], dim=-1)


def _processed(group: _Group, ids: Tensor | None, scores: Tensor) -> Tensor:
    ids = None if ids is None else ids.flatten(0, 1)
    processed = scores.flatten(0, 1)
    # One by one: the list's own call inspects the signature of each, every time.
    for processor in group.logits_processor:
        processed = processor(ids, processed)
    return processed.view_as(scores)


def _one_per_study(value: Any, repeats: int) -> Any:
    """Undoes the repetition of studies for their beams in an argument of the model."""
    return value[::repeats] if isinstance(value, Tensor) else value


def _refusal(
    model: PreTrainedModel,
    config: GenerationConfig,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    cache: Cache | None,
) -> str | None:
    """Why reports can't be generated continuously, or None when they can."""
    if is_sharded(model):
        return "the model is sharded, so all processes must call it equally often"
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.BEAM_SEARCH):
        return f"{mode.value} depends on what else is in the batch"
    if config.num_return_sequences > 1 or config.return_dict_in_generate or config.prefill_chunk_size is not None:
        return "num_return_sequences, return_dict_in_generate or prefill_chunk_size is set"
    for part in (*logits_processor, *stopping_criteria):
        if type(part) not in (*_BY_SCORES, *_BY_IDS, *_CRITERIA):
            return f"{type(part).__name__} may look at the whole batch"
    # Code that a repository brings along may be older than the attribute.
    if not getattr(model, "supports_continuous_generation", False):
        return f"{type(model).__name__} keeps more of a study than the decoder's cache"
    decoder = model.language_model
    if "position_ids" not in inspect.signature(decoder.forward).parameters or getattr(decoder.config, "alibi", False):
        return f"{type(decoder).__name__} takes no positions"
    if decoder.config._attn_implementation not in _ATTENTION:
        return f"{decoder.config._attn_implementation} takes no mask of four dimensions"
    if type(cache) is not DynamicCache:
        return "another cache is asked for"
    for layer in cache.layers:
        fits = type(layer) is DynamicSlidingWindowLayer and config.max_length < layer.sliding_window
        if not (fits or type(layer) is DynamicLayer):
            return f"{type(layer).__name__} keeps less than all tokens"
    return None


__all__ = ["generate_continuously", "is_sharded"]
