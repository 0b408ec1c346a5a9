"""Recall from a bank of memories by a modern Hopfield network.

Shapes in this file: B batch, L states, M memories, W width of a memory, H heads, d head_size, v value_size per head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# By so much less than the largest product, a weight is 1e-30 of the largest, far below what rounding leaves of a sum.
_NEGLIGIBLE = 69.0


def bring_weights(module: nn.Module) -> None:
    """Brings the weights of a module that is not called, where accelerate keeps them elsewhere between calls."""
    if (hook := getattr(module, "_hf_hook", None)) is not None:
        hook.pre_forward(module)


def put_weights_back(module: nn.Module) -> None:
    """Undoes `bring_weights`."""
    if (hook := getattr(module, "_hf_hook", None)) is not None:
        hook.post_forward(module, None)


class HopfieldProjection(nn.Linear):
    """Makes queries, keys or values. It starts as those of hflayers do, for which how sharp a fresh recall is hardly
    depends on its sizes."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class HopfieldAssociation(nn.Module):
    r"""Each state recalls a mixture of the memories that are like it.

    With queries `q` from the normed states, keys `k` and values `v` from the normed memories, per head:

        xi_0 = q,    xi_{t+1} = softmax(beta xi_t k^T) k,    output = softmax(beta xi_T k^T) v,

    so `update_steps=T` takes `T + 1` softmaxes, and none is scaled dot-product attention with `beta` in the place of
    `1 / sqrt(d)`. The memories' projections are never made: as keys and values are linear in the normed memories, their
    weights are applied to the queries and to the recalled mixture instead. For a bank of some thousand memories and few
    states that is a small fraction of the work, in training too, and gives the same gradients.

    Args:
        hidden_size: width of the states.
        memory_size: width `W` of the memories; that of the states when not given.
        num_heads: heads.
        head_size: width `d` of queries and keys, of each head.
        value_size: width `v` of the values, of each head; `head_size` when not given.
        output_size: width of the output; `hidden_size` when not given.
        beta: inverse temperature; `1 / sqrt(head_size)` when not given.
        update_steps: at most N updates of the states before the recall; until convergence when negative.
        tolerance: a head is done with a sample when its update (norm over the sample's states) is no longer than that.
        normalize: whether states, keys' memories and values' memories go through a layer norm each.
        layer_norm_eps: epsilon of these.

    Raises:
        ValueError: a size or `beta` is not positive.

    Source: Ramsauer et al., "Hopfield Networks is All You Need" (ICLR 2021), equation 10, and their `hflayers`; AM-MRG,
    section III-D.
    """

    # Convergence is exponentially fast; this only ends what rounding keeps from coming to rest.
    max_steps = 1000

    def __init__(
        self,
        hidden_size: int,
        memory_size: int | None = None,
        *,
        num_heads: int = 1,
        head_size: int,
        value_size: int | None = None,
        output_size: int | None = None,
        beta: float | None = None,
        update_steps: int = 0,
        tolerance: float = 1e-4,
        normalize: bool = True,
        layer_norm_eps: float = 1e-5,
    ):
        super().__init__()
        memory_size = hidden_size if memory_size is None else memory_size
        value_size = head_size if value_size is None else value_size
        output_size = hidden_size if output_size is None else output_size
        for name, value in (
            ("hidden_size", hidden_size),
            ("memory_size", memory_size),
            ("num_heads", num_heads),
            ("head_size", head_size),
            ("value_size", value_size),
            ("output_size", output_size),
            ("beta", 1 if beta is None else beta),
        ):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        self.beta = head_size**-0.5 if beta is None else beta
        self.num_heads, self.update_steps, self.tolerance = num_heads, update_steps, tolerance
        self.layer_norm_eps = layer_norm_eps
        self.q_proj = HopfieldProjection(hidden_size, num_heads * head_size)
        self.k_proj = HopfieldProjection(memory_size, num_heads * head_size)
        self.v_proj = HopfieldProjection(memory_size, num_heads * value_size)
        self.out_proj = nn.Linear(num_heads * value_size, output_size)
        self.state_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps) if normalize else None
        self.key_norm = nn.LayerNorm(memory_size, eps=layer_norm_eps) if normalize else None
        self.value_norm = nn.LayerNorm(memory_size, eps=layer_norm_eps) if normalize else None
        if update_steps == 0:
            # What all keys have in common changes no softmax: such a parameter would never get a gradient.
            self.k_proj.bias.requires_grad_(False)
            if self.key_norm is not None:
                self.key_norm.bias.requires_grad_(False)

    def forward(
        self,
        states: Tensor,
        memories: Tensor,
        value_memories: Tensor | None = None,
        output_weights: bool = False,
        are_standardized: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Recalls.

        Args:
            states: `(B, L, hidden_size)`.
            memories: the bank, `(M, W)`, or one of each sample, `(B, M, W)`.
            value_memories: what is recalled in place of `memories`, shaped as these.
            output_weights: whether to return how much of each memory is recalled.
            are_standardized: whether the memories went through `standardized` before. That depends on no weight, so a
                bank can be kept so.

        Returns:
            `(B, L, output_size)`, and the weights `(B, H, L, M)`, which sum to 1 over the memories, or None.

        Raises:
            ValueError: the memories do not have the width or the batch that they should.
        """
        self._check_memories(states, memories, value_memories)
        folded = [part for part in (self.k_proj, self.v_proj, self.key_norm, self.value_norm) if part is not None]
        for part in folded:
            bring_weights(part)
        prepared = (lambda bank: bank.to(self.k_proj.weight.dtype)) if are_standardized else self.standardized
        keys = prepared(memories)
        values = keys if value_memories is None else prepared(value_memories)
        states = states if self.state_norm is None else self.state_norm(states)
        patterns = self.q_proj(states).unflatten(-1, (self.num_heads, -1))  # (B, L, H, d)
        patterns = self._updated(patterns, keys)
        weights = self._weights(patterns, keys)
        recalled = self._head_by_head(weights @ values, self.v_proj, self.value_norm)
        for part in folded:
            put_weights_back(part)
        output = self.out_proj(recalled.flatten(2))
        return output, weights.unflatten(1, (-1, self.num_heads)).transpose(1, 2) if output_weights else None

    def _check_memories(self, states: Tensor, *banks: Tensor | None) -> None:
        for bank in banks:
            if bank is None:
                continue
            width = self.k_proj.in_features
            if bank.ndim not in (2, 3) or bank.shape[-1] != width or (bank.ndim == 3 and len(bank) != len(states)):
                raise ValueError(
                    f"memories must be (memories, {width}) or ({len(states)}, memories, {width}), got "
                    f"{tuple(bank.shape)}"
                )
            if not bank.shape[-2]:
                raise ValueError("there are no memories to recall from")

    def standardized(self, memories: Tensor) -> Tensor:
        """The memories at mean 0 and variance 1, which both of their layer norms have in common, in the dtype of the
        weights; as they are without layer norms."""
        memories = memories.to(self.k_proj.weight.dtype)
        if self.key_norm is None:
            return memories
        return F.layer_norm(memories, memories.shape[-1:], eps=self.layer_norm_eps)

    def _updated(self, patterns: Tensor, keys: Tensor) -> Tensor:
        """The patterns `(B, L, H, d)` after their updates; heads that have converged stay."""
        steps = self.max_steps if self.update_steps < 0 else self.update_steps
        running = torch.ones(len(patterns), self.num_heads, dtype=torch.bool, device=patterns.device)
        previous = None
        for _ in range(steps):
            updated = self._head_by_head(self._weights(patterns, keys) @ keys, self.k_proj, self.key_norm)
            if previous is not None:
                moved = torch.linalg.vector_norm((updated - previous).detach(), dim=(1, 3))
                running = running & (moved > self.tolerance)
                if not running.any():
                    break
            patterns = torch.where(running[:, None, :, None], updated, patterns)
            previous = updated
        return patterns

    def _weights(self, patterns: Tensor, keys: Tensor) -> Tensor:
        """How much of each memory patterns `(B, L, H, d)` recall, `(B, L * H, M)`.

        Taken into the memories' space, a pattern's products with the standardized memories are those with the keys, but
        for what is the same for all memories and falls out of the softmax.
        """
        weight = self.k_proj.weight.unflatten(0, (self.num_heads, -1))
        queries = self.beta * torch.einsum("blhd,hdw->blhw", patterns, weight)
        if self.key_norm is not None:
            queries = queries * self.key_norm.weight
        products = queries.flatten(1, 2) @ keys.mT
        # A processor computes many times slower with denormal numbers, and most weights of a sharp recall would be.
        products = products.clamp(min=products.detach().amax(dim=-1, keepdim=True) - _NEGLIGIBLE)
        weights = products.softmax(dim=-1, dtype=torch.promote_types(products.dtype, torch.float32))
        return weights.to(products.dtype)

    def _head_by_head(self, mixture: Tensor, projection: nn.Linear, norm: nn.LayerNorm | None) -> Tensor:
        """Mixtures of standardized memories `(B, L * H, W)` through a layer norm's weights and each head's own rows of
        a projection, `(B, L, H, size)`; right for mixtures whose weights sum to 1."""
        if norm is not None:
            mixture = mixture * norm.weight + norm.bias
        weight = projection.weight.unflatten(0, (self.num_heads, -1))
        projected = torch.einsum("blhw,hdw->blhd", mixture.unflatten(1, (-1, self.num_heads)), weight)
        return projected + projection.bias.unflatten(0, (self.num_heads, -1))


__all__ = ["HopfieldAssociation", "HopfieldProjection"]
