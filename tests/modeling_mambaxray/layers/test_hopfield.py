"""Recall from memories: equal to hflayers and to its equations, with energies that fall, and gradients."""

import pytest
import torch
from golden_cases import load_case
from torch import nn
from torch.nn import functional as F

from mambaxray.modeling_mambaxray.layers.hopfield import HopfieldAssociation
from mambaxray.train.convert import convert_hopfield

CASE = load_case("hopfield")
STEPS = CASE.config["update_steps"]


def association(seed=0, **options):
    torch.manual_seed(seed)
    values = {"hidden_size": 6, "memory_size": 5, "num_heads": 2, "head_size": 4, "value_size": 3, "output_size": 7}
    module = HopfieldAssociation(**values | {"beta": 2.0} | options)
    for norm in (module.state_norm, module.key_norm, module.value_norm):
        if norm is not None:
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)
    return module


def by_its_equations(module, states, memories, steps):
    """The recall with all memories projected, per head, as the papers write it."""
    norm = module.state_norm is not None
    q = module.q_proj(module.state_norm(states) if norm else states)
    k = module.k_proj(module.key_norm(memories) if norm else memories)
    v = module.v_proj(module.value_norm(memories) if norm else memories)
    q, k, v = (x.unflatten(-1, (module.num_heads, -1)).transpose(-2, -3) for x in (q, k, v))
    for _ in range(steps):
        q = (module.beta * q @ k.mT).softmax(-1) @ k
    weights = (module.beta * q @ k.mT).softmax(-1)
    return module.out_proj((weights @ v).transpose(1, 2).flatten(2)), weights


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("norm", ["plain", "norm"])
def test_projected_recall_equals_hflayers(norm, steps):
    config, io = CASE.config, CASE.tensors("io")
    module = HopfieldAssociation(
        config["E"],
        config["d"],
        num_heads=config["heads"],
        head_size=config["head"],
        value_size=config["pattern"],
        output_size=config["out"],
        beta=config["beta"],
        update_steps=steps,
        tolerance=config["update_steps_eps"],
        normalize=norm == "norm",
    )
    prefix = f"projected/{norm}/"
    weights = {n.removeprefix(prefix): w for n, w in CASE.tensors("weights").items() if n.startswith(prefix)}
    module.load_state_dict(convert_hopfield(weights))
    inputs = [io[f"projected/{name}"] for name in ("state", "stored", "pattern_projection")]
    output, association = module(*inputs, output_weights=True)
    CASE.assert_close("io/output", output, io[f"{prefix}steps{steps}/output"])
    CASE.assert_close("io/association", association, io[f"{prefix}steps{steps}/association"])
    without, none = module(*inputs)
    assert none is None
    torch.testing.assert_close(without, output)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("norm", ["plain", "norm"])
def test_recall_without_projections_equals_hflayers(norm, steps):
    """Projections that change nothing; hflayers' static form has layer norms without weights, as fresh ones are."""
    config, io = CASE.config, CASE.tensors("io")
    width = config["d"]
    module = HopfieldAssociation(
        width,
        head_size=width,
        beta=config["beta"],
        update_steps=steps,
        tolerance=config["update_steps_eps"],
        normalize=norm == "norm",
    )
    for layer in (module.q_proj, module.k_proj, module.v_proj, module.out_proj):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    output, association = module(io["static/state"], io["static/stored"], output_weights=True)
    CASE.assert_close("io/output", output, io[f"static/{norm}/steps{steps}/output"])
    CASE.assert_close("io/association", association, io[f"static/{norm}/steps{steps}/association"])


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("own_memories", [True, False])
def test_recall_and_gradients_equal_the_equations_though_no_memory_is_projected(own_memories, normalize, steps):
    module = association(update_steps=steps, tolerance=0.0, normalize=normalize).double()
    states = torch.randn(3, 4, 6, dtype=torch.double, requires_grad=True)
    memories = torch.randn(*((3,) if own_memories else ()), 9, 5, dtype=torch.double)
    cotangent = torch.randn(3, 4, 7, dtype=torch.double)
    results = []
    for compute in (
        lambda: module(states, memories, output_weights=True),
        lambda: by_its_equations(module, states, memories, steps),
    ):
        output, weights = compute()
        module.zero_grad()
        states.grad = None
        (output * cotangent).sum().backward()
        results.append([output, weights, states.grad, *(p.grad for p in module.parameters() if p.requires_grad)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_every_trained_parameter_gets_a_gradient():
    for steps in (0, 1):
        module = association(update_steps=steps)
        module(torch.randn(2, 3, 6), torch.randn(9, 5))[0].sum().backward()
        assert all((p.grad is not None) == p.requires_grad for p in module.parameters())
        assert module.k_proj.bias.requires_grad == (steps > 0)


def test_no_update_is_scaled_dot_product_attention():
    module = association(normalize=False, beta=None)
    states, memories = torch.randn(2, 3, 6), torch.randn(2, 8, 5)
    q, k, v = (
        layer(x).unflatten(-1, (2, -1)).transpose(1, 2)
        for layer, x in ((module.q_proj, states), (module.k_proj, memories), (module.v_proj, memories))
    )
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(states, memories)[0], module.out_proj(attended))


def test_weights_sum_to_one_and_one_bank_serves_every_sample_as_its_own_would():
    module = association(update_steps=2)
    states, bank = torch.randn(4, 3, 6), torch.randn(11, 5)
    output, weights = module(states, bank, output_weights=True)
    assert weights.shape == (4, 2, 3, 11)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 2, 3))
    own, own_weights = module(states, bank.expand(4, -1, -1), output_weights=True)
    torch.testing.assert_close(own, output)
    torch.testing.assert_close(own_weights, weights)


def test_until_convergence_comes_to_rest_at_a_fixed_point():
    until, many = (association(update_steps=steps, tolerance=1e-7) for steps in (-1, 200))
    states, memories = torch.randn(2, 3, 6), torch.randn(9, 5)
    torch.testing.assert_close(until(states, memories)[0], many(states, memories)[0])
    once_more = by_its_equations(until, states, memories, 300)[0]
    torch.testing.assert_close(until(states, memories)[0], once_more, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_projections_and_not_the_memories():
    module = association(update_steps=1)
    memories = torch.randn(9, 5)
    module(torch.randn(2, 3, 6), memories)[0].sum().backward()
    assert memories.grad is None
    for name in ("q_proj", "k_proj", "v_proj", "out_proj", "key_norm", "value_norm", "state_norm"):
        assert getattr(module, name).weight.grad.abs().sum() > 0, name


def test_memories_of_a_language_models_width_are_recalled_for_narrow_states():
    module = HopfieldAssociation(24, 4096, num_heads=2, head_size=16, value_size=8)
    output, weights = module(torch.randn(2, 14, 24), torch.randn(30, 4096), output_weights=True)
    assert output.shape == (2, 14, 24)
    assert weights.shape == (2, 2, 14, 30)


def test_bfloat16_stays_close_to_float32():
    module, states, memories = association(update_steps=1), torch.randn(2, 3, 6), torch.randn(50, 5)
    exact = module(states, memories)[0]
    rounded = module.bfloat16()(states.bfloat16(), memories)[0]
    assert rounded.dtype == torch.bfloat16
    assert F.cosine_similarity(exact.flatten(), rounded.float().flatten(), dim=0) > 0.99


@pytest.mark.parametrize(
    ("shape", "message"),
    [((9, 6), r"got \(9, 6\)"), ((3, 9, 5), r"got \(3, 9, 5\)"), ((0, 5), "no memories"), ((5,), r"got \(5,\)")],
)
def test_memories_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        association()(torch.randn(2, 3, 6), torch.randn(*shape))


def test_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="head_size must be positive, got 0"):
        HopfieldAssociation(6, head_size=0)


# Which energy falls under which step: `k` are the memories, one state, beta and d as the papers have them.


def states_and_memories(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield (
            torch.randn(8, generator=generator, dtype=torch.double) * 2,
            torch.randn(12, 8, generator=generator, dtype=torch.double),
        )


def test_the_energy_of_ramsauer_falls_under_the_standard_step():
    """E(xi) = -lse(beta, K xi) + xi^T xi / 2 (equation 3 there, without the constant), beta = 4 as in AM-MRG."""

    def energy(xi, k):
        return -torch.logsumexp(4 * k @ xi, 0) / 4 + xi @ xi / 2

    for xi, k in states_and_memories(20):
        for _ in range(6):
            updated = (4 * k @ xi).softmax(0) @ k
            assert energy(updated, k) <= energy(xi, k) + 1e-12
            xi = updated


def test_the_energy_of_am_mrg_falls_under_its_own_gradient_which_has_a_root_of_d_that_equation_4_lacks():
    """Equation 2, E(x) = -log sum exp(beta x.m / sqrt(d)); its gradient is -(beta / sqrt(d)) sum alpha m."""
    beta, root = 4, 8**0.5

    def energy(x, m):
        return -torch.logsumexp(beta * m @ x / root, 0)

    for x, m in states_and_memories(20):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x, m), x)
        alpha = (beta * m @ x / root).softmax(0)
        torch.testing.assert_close(gradient, -(beta / root) * alpha @ m)
        assert energy(x - 1e-2 * gradient, m) < energy(x, m)
        # Equation 4 as printed.
        assert not torch.allclose(gradient, -beta * alpha @ m)
