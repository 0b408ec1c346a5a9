"""Efficient tuning of the vision Mamba (EMRRG): low-rank adapters on whole projections and on single features of them.

In a Mamba block one matrix makes several things: the rows of `in_proj` the scanned input X and the gate Z, those of
`x_proj` the low-rank step dt and the scan's B and C. Partial LoRA gives one of these an adapter of its own.

Every union of features comes out as an ordinary LoRA adapter of peft. Features that share a matrix share its adapter:
their down-projections lie below each other in `lora_A`, and `lora_B` has a block for each, with zeros for rows that are
not the feature's. So what is saved loads with peft alone, and merges, unmerges, stacks and switches off as any LoRA.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling_mambaxray.modeling_vision_mamba import VisionMambaEmbeddings, VisionMambaMixer

_Rows = Callable[[VisionMambaMixer], slice]


def _half(second: bool) -> _Rows:
    def rows(mixer: VisionMambaMixer) -> slice:
        middle = mixer.in_proj.out_features // 2
        return slice(middle, 2 * middle) if second else slice(0, middle)

    return rows


def _split(index: int) -> _Rows:
    def rows(mixer: VisionMambaMixer) -> slice:
        splits = mixer.directions[0].splits
        start = sum(splits[:index])
        return slice(start, start + splits[index])

    return rows


_PARTIAL: dict[str, tuple[str, _Rows]] = {
    "X": ("in_proj", _half(False)),
    "Z": ("in_proj", _half(True)),
    "dt": ("x_proj", _split(0)),
    "B": ("x_proj", _split(1)),
    "C": ("x_proj", _split(2)),
}
"""Features that are rows of a matrix: which matrix of the mixer, and which rows."""
_WHOLE = ("embedding", "in_proj", "x_proj", "dt_proj", "out_proj")
FEATURES: tuple[str, ...] = (*_PARTIAL, *_WHOLE)
"""What can be adapted. `x_proj`, `dt_proj` and their features are adapted in each scan direction by itself; the others
are shared by all directions."""

# Parts of a model that come pre-trained; what else it has is new, and small enough to be trained whole.
_PRETRAINED = ("vision_encoder", "language_model", "text_encoder")


class BlockLinear(nn.Linear):
    """The up-projection `lora_B` of an adapter of which only some blocks are learned; the rest stays zero."""

    def __init__(self, plain: nn.Linear, block: Tensor):
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight = plain.weight
        # Not saved: the zeros in the weight say the same.
        self.register_buffer("block", block.to(plain.weight), persistent=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return F.linear(hidden_states, self.weight * self.block)

    @property
    def num_trained(self) -> int:
        """Weights that are learned."""
        return int(self.block.sum())


def apply_efficient_tuning(
    model: nn.Module,
    features: str = "X+in_proj",
    *,
    rank: int | Mapping[str, int] = 32,
    scale: float = 1.0,
    dropout: float = 0.0,
    lora: Mapping[str, Any] | None = None,
    train_whole: Sequence[str] | None = None,
    adapter_name: str = "default",
) -> PeftModel:
    """Puts adapters on features of a model's vision Mamba and freezes everything else but new parts.

    Args:
        model: a `VisionMambaModel` or any model that has one; or what this function returned, for one more adapter.
            When that has an adapter of this name already, loaded with `PeftModel.from_pretrained(…, is_trainable=True)`
            for example, its training continues under the same restriction.
        features: names of `FEATURES`, joined by `+`: rows of projections (`X`, `Z`, `dt`, `B`, `C`) or whole ones.
        rank: rank of every feature's adapter, or the rank by feature.
        scale: what the product of an adapter's matrices is multiplied by (LoRA's `alpha / r`).
        dropout: share of the adapters' inputs that is dropped in training.
        lora: arguments of peft's `LoraConfig` for adapters on the language model at the same time; `target_modules`
            names modules within it, `q_proj` and `v_proj` when not given.
        train_whole: parts of the model that are trained as they are and saved with the adapters; when not given, those
            of a report generator that are neither encoder nor language model, unless they are frozen.
        adapter_name: peft's name for all of these adapters together.

    Returns:
        The model in peft's wrapper. `save_pretrained` saves the adapters only.

    Raises:
        ValueError: a feature or rank that does not exist, a model without a vision Mamba, or an adapter of this name
            that was made for other features.

    Source: EMRRG, section "Partial LoRA"; Mamba-PEFT (Yoshimura et al., 2025) for the features; LoRA (Hu et al., 2022).
    """
    ranks = _ranks(features, rank)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    blocks = _blocks(base, ranks)
    if not (isinstance(model, PeftModel) and adapter_name in model.peft_config):
        config = _lora_config(base, blocks, scale, dropout, lora, train_whole)
        if isinstance(model, PeftModel):
            model.add_adapter(adapter_name, config)
        else:
            model = get_peft_model(model, config, adapter_name)
    for name, members in blocks.items():
        _restrict(base.get_submodule(name), name, members, adapter_name)
    return model


def _ranks(features: str, rank: int | Mapping[str, int]) -> dict[str, int]:
    names = [name.strip() for name in features.split("+")]
    for name in names:
        if name not in FEATURES:
            raise ValueError(f"unknown feature {name!r} in {features!r}; join some of {', '.join(FEATURES)} by +")
        if names.count(name) > 1:
            raise ValueError(f"{features!r} names {name} twice")
    ranks = dict(rank) if isinstance(rank, Mapping) else dict.fromkeys(names, rank)
    if set(ranks) != set(names):
        raise ValueError(f"ranks are given for {', '.join(ranks)}, but the features are {', '.join(names)}")
    for name, value in ranks.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"the rank of {name} must be a positive integer, got {value!r}")
    return {name: ranks[name] for name in names}


def _blocks(model: nn.Module, ranks: Mapping[str, int]) -> dict[str, list[tuple[int, slice]]]:
    """By the full name of each matrix to adapt: the rank and the rows of each of its features."""
    mixers = {name: module for name, module in model.named_modules() if isinstance(module, VisionMambaMixer)}
    if not mixers:
        raise ValueError(f"{type(model).__name__} has no vision Mamba, whose features could be adapted")
    blocks: dict[str, list[tuple[int, slice]]] = {}
    for feature, rank in ranks.items():
        if feature == "embedding":
            for name in _patch_convolutions(model):
                blocks.setdefault(name, []).append((rank, slice(None)))
            continue
        matrix, rows = _PARTIAL.get(feature, (feature, lambda _: slice(None)))
        for name, mixer in mixers.items():
            owners = [name]
            if matrix in ("x_proj", "dt_proj"):
                owners = [f"{name}.directions.{index}" for index in range(len(mixer.directions))]
            for owner in owners:
                blocks.setdefault(f"{owner}.{matrix}", []).append((rank, rows(mixer)))
    return blocks


def _patch_convolutions(model: nn.Module) -> list[str]:
    """The convolutions that make patches of pixels: one, or those of a stem."""
    stems = [f"{n}.patch_embeddings" for n, m in model.named_modules() if isinstance(m, VisionMambaEmbeddings)]
    if not stems:
        raise ValueError(f"the patch embedding of {type(model).__name__} can't be adapted; take the encoder alone")
    return [
        name
        for name, module in model.named_modules()
        # An adapter of an earlier call wraps the convolution that it belongs to, under the convolution's name.
        if isinstance(getattr(module, "base_layer", module), nn.Conv2d)
        and not name.endswith(".base_layer")
        and ".lora_" not in name
        and any(name == stem or name.startswith(f"{stem}.") for stem in stems)
    ]


def _lora_config(
    model: nn.Module,
    blocks: Mapping[str, Sequence[tuple[int, slice]]],
    scale: float,
    dropout: float,
    lora: Mapping[str, Any] | None,
    train_whole: Sequence[str] | None,
) -> LoraConfig:
    # One pattern for the same matrix of all layers and directions.
    ranks = {re.sub(r"\b\d+\b", r"\\d+", re.escape(name)): sum(r for r, _ in of) for name, of in blocks.items()}
    values = dict(lora or {})
    if values.setdefault("lora_dropout", dropout) != dropout:
        raise ValueError(
            f"all adapters share one dropout, but dropout is {dropout} and lora.lora_dropout {values['lora_dropout']}"
        )
    targets = list(ranks)
    if lora is not None:
        targets.append(rf"language_model\..*\.({'|'.join(values.pop('target_modules', ['q_proj', 'v_proj']))})")
    if train_whole is None:
        train_whole = _new_parts(model)
    alphas = {pattern: scale * rank for pattern, rank in ranks.items()}
    return LoraConfig(
        target_modules="|".join(f"(?:{target})" for target in targets),
        rank_pattern=ranks | values.pop("rank_pattern", {}),
        alpha_pattern=alphas | values.pop("alpha_pattern", {}),
        modules_to_save=list(train_whole) or None,
        **values,
    )


def _new_parts(model: nn.Module) -> list[str]:
    children = dict(model.named_children())
    if "vision_encoder" not in children:
        return []
    return [
        name
        for name, part in children.items()
        if name not in _PRETRAINED and any(parameter.requires_grad for parameter in part.parameters())
    ]


def _restrict(module: nn.Module, name: str, members: Sequence[tuple[int, slice]], adapter_name: str) -> None:
    """Lets an adapter learn only the blocks of its features."""
    found = getattr(module, "r", {}).get(adapter_name)
    if found != (rank := sum(r for r, _ in members)):
        raise ValueError(f"adapter {adapter_name!r} has rank {found} on {name}; these features make it {rank}")
    if all(rows == slice(None) for _, rows in members):
        return
    up = module.lora_B[adapter_name]
    block = torch.zeros_like(up.weight)
    column = 0
    for rank, rows in members:
        block[rows, column : column + rank] = 1
        column += rank
    if torch.count_nonzero(up.weight * (1 - block)):
        raise ValueError(f"adapter {adapter_name!r} on {name} was made for other features: it changes more rows")
    module.lora_B[adapter_name] = BlockLinear(up, block)


__all__ = ["FEATURES", "BlockLinear", "apply_efficient_tuning"]
