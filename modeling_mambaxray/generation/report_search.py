"""Greedy and beam search over studies that are at different lengths of their reports.

The same decisions as in `generate` of transformers (5.24), study by study: the rules of a row depend on that row alone.
Rows are as in `SlotCache`; all tensors have the rows in front, so that a row can move.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig

from .slot_cache import index_on

# What transformers gives hypotheses that don't count.
_NEVER = -1.0e9


@dataclass
class GreedySearch:
    """The most probable token at every step.

    Attributes:
        tokens: `(rows, beams, width)`, what was written so far; one beam.
        lengths: `(rows,)`, tokens written.
        limits: `(rows,)`, most tokens of each report.
        prompt_lengths: `(rows,)`, tokens before the report.
    """

    tokens: Tensor
    lengths: Tensor
    limits: Tensor
    prompt_lengths: Tensor

    @classmethod
    def create(cls, rows: int, config: GenerationConfig, device: torch.device) -> "GreedySearch":
        """A search with this many rows, as the generation config wants it."""
        return cls(**_empty(rows, config.num_beams, device))

    def start(self, rows: slice, prompt_length: int, limit: int) -> None:
        """Begins new reports in these rows, of at most `limit` tokens each."""
        self._widen(limit)
        self.lengths[rows] = 0
        self.limits[rows] = limit
        self.prompt_lengths[rows] = prompt_length

    def _widen(self, width: int) -> None:
        self.tokens = functional.pad(self.tokens, (0, max(0, width - self.tokens.shape[-1])))

    def normalize(self, logits: Tensor) -> Tensor:
        """What the logits processors get."""
        return logits

    def step(self, rows: slice, scores: Tensor, eos: Tensor) -> tuple[Tensor | None, Tensor]:
        """Adds a token to each of these rows.

        Args:
            rows: of the studies.
            scores: `(studies, beams, vocabulary)` float32.
            eos: ids that end a report.

        Returns:
            The beam from which each beam goes on, `(studies, beams)`, or None when all go on from themselves; and
            which studies are finished, `(studies,)`.
        """
        chosen = scores.argmax(dim=-1)
        self.tokens[rows] = _with_token(self.tokens[rows], chosen, self.lengths[rows])
        self.lengths[rows] += 1
        return None, torch.isin(chosen[:, 0], eos) | (self.lengths[rows] >= self.limits[rows])

    def last_tokens(self, count: int) -> tuple[Tensor, Tensor]:
        """The newest token of each beam of the first rows and its position, both `(studies, beams)`."""
        # Of rows that were never in use, too.
        last = (self.lengths[:count, None] - 1).clamp(min=0).expand(-1, self.tokens.shape[1])
        tokens = self.tokens[:count].gather(2, last.unsqueeze(-1)).squeeze(-1)
        return tokens, self.prompt_lengths[:count, None] + last

    def report_lengths(self, rows: slice) -> Tensor:
        """Tokens of each row's report as it stands, `(studies,)`."""
        return self.lengths[rows]

    def reports(self, rows: Sequence[int]) -> Tensor:
        """The reports of finished rows, `(reports, width)`, as long as `report_lengths` says."""
        return self.tokens[index_on(self.tokens.device, rows), 0]

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies rows over others, all at once."""
        source, target = (index_on(self.tokens.device, numbers) for numbers in (sources, targets))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value[target] = value[source]


@dataclass
class BeamSearch(GreedySearch):
    """The report whose mean log-probability is highest among those that `num_beams` hypotheses come to.

    Attributes:
        scores: `(rows, beams)`, log-probability of the hypotheses that go on, the best first.
        best: `(rows, beams, width)`, the best finished reports, `best_lengths` and `best_scores` `(rows, beams)`
            theirs, and `is_finished` `(rows, beams)` whether there are so many.
        can_improve: `(rows,)`, whether a hypothesis that goes on may still beat a finished one.
        length_penalty, early_stopping: as in `GenerationConfig`.
    """

    scores: Tensor
    best: Tensor
    best_lengths: Tensor
    best_scores: Tensor
    is_finished: Tensor
    can_improve: Tensor
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    @classmethod
    def create(cls, rows: int, config: GenerationConfig, device: torch.device) -> "BeamSearch":
        common = _empty(rows, config.num_beams, device)
        per_beam = common["tokens"].new_zeros(rows, config.num_beams)
        return cls(
            **common,
            scores=per_beam.float(),
            best=common["tokens"].clone(),
            best_lengths=per_beam,
            best_scores=per_beam.float(),
            is_finished=per_beam.bool(),
            can_improve=common["lengths"].bool(),
            length_penalty=config.length_penalty,
            early_stopping=config.early_stopping,
        )

    def start(self, rows: slice, prompt_length: int, limit: int) -> None:
        super().start(rows, prompt_length, limit)
        # All beams begin alike; only the first one counts, or they would stay alike.
        self.scores[rows] = _NEVER
        self.scores[rows, 0] = 0.0
        self.best_scores[rows] = _NEVER
        self.best_lengths[rows] = 0
        self.is_finished[rows] = False
        self.can_improve[rows] = True

    def _widen(self, width: int) -> None:
        super()._widen(width)
        self.best = functional.pad(self.best, (0, self.tokens.shape[-1] - self.best.shape[-1]))

    def normalize(self, logits: Tensor) -> Tensor:
        return functional.log_softmax(logits, dim=-1)

    def step(self, rows: slice, scores: Tensor, eos: Tensor) -> tuple[Tensor | None, Tensor]:
        num_beams, vocabulary = scores.shape[1:]
        totals = (scores + self.scores[rows].unsqueeze(-1)).flatten(1)
        # So many that enough go on when all the best ones end here.
        totals, indices = totals.topk(max(2, 1 + len(eos)) * num_beams)
        parents, chosen = indices // vocabulary, indices % vocabulary
        candidates = _with_token(_pick(self.tokens[rows], parents), chosen, self.lengths[rows])
        self.lengths[rows] += 1
        lengths, limits = self.lengths[rows], self.limits[rows]
        ends = torch.isin(chosen, eos) | (lengths >= limits).unsqueeze(1)

        going_on = totals + ends.float() * _NEVER
        order = going_on.topk(num_beams).indices
        self.scores[rows] = going_on.gather(1, order)
        self.tokens[rows] = _pick(candidates, order)
        self._keep_finished(rows, candidates, totals, ends)

        best_length = limits if self.early_stopping == "never" and self.length_penalty > 0 else lengths
        best_possible = self.scores[rows, 0] / best_length.float() ** self.length_penalty
        worst = self.best_scores[rows].amin(dim=1)
        # Compared with each place, filled or not, as transformers does.
        beatable = torch.where(self.is_finished[rows], worst.unsqueeze(1), _NEVER)
        self.can_improve[rows] &= (best_possible.unsqueeze(1) > beatable).any(dim=1)
        done = ~self.can_improve[rows] | ends.all(dim=1)
        if self.early_stopping is True:
            done |= self.is_finished[rows].all(dim=1)
        return parents.gather(1, order), done

    def _keep_finished(self, rows: slice, candidates: Tensor, totals: Tensor, ends: Tensor) -> None:
        """Takes in the reports that end here, when they are better than those that ended before."""
        num_beams = self.scores.shape[1]
        # The candidates behind the first `num_beams` are there to go on only.
        ends = ends & (torch.arange(ends.shape[1], device=ends.device) < num_beams)
        lengths = self.lengths[rows]
        scores = totals / (lengths.float() ** self.length_penalty).unsqueeze(1)
        closed = ~self.can_improve[rows]
        if self.early_stopping is True:
            closed = closed | self.is_finished[rows].all(dim=1)
        scores = scores + closed.float().unsqueeze(1) * _NEVER + (~ends).float() * _NEVER

        merged = torch.cat([self.best_scores[rows], scores], dim=1)
        order = merged.topk(num_beams).indices
        self.best_scores[rows] = merged.gather(1, order)
        self.is_finished[rows] = torch.cat([self.is_finished[rows], ends], dim=1).gather(1, order)
        of_candidates = lengths.unsqueeze(1).expand_as(scores)
        self.best_lengths[rows] = torch.cat([self.best_lengths[rows], of_candidates], dim=1).gather(1, order)
        self.best[rows] = _pick(torch.cat([self.best[rows], candidates], dim=1), order)

    def report_lengths(self, rows: slice) -> Tensor:
        return self.best_lengths[rows, 0]

    def reports(self, rows: Sequence[int]) -> Tensor:
        return self.best[index_on(self.best.device, rows), 0]


def _pick(sequences: Tensor, order: Tensor) -> Tensor:
    """Rows' sequences `(studies, beams, width)` in another order `(studies, n)`."""
    return sequences.gather(1, order.unsqueeze(-1).expand(-1, -1, sequences.shape[-1]))


def _with_token(sequences: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Sequences `(studies, beams, width)` with tokens `(studies, beams)` written behind the first `lengths`."""
    places = lengths[:, None, None].expand(-1, sequences.shape[1], 1)
    return sequences.scatter(2, places, tokens.unsqueeze(-1))


def _empty(rows: int, num_beams: int, device: torch.device) -> dict[str, Tensor]:
    numbers = torch.zeros(rows, dtype=torch.long, device=device)
    return {
        "tokens": numbers.new_zeros(rows, num_beams, 0),
        "lengths": numbers,
        "limits": numbers.clone(),
        "prompt_lengths": numbers.clone(),
    }


__all__ = ["BeamSearch", "GreedySearch"]
