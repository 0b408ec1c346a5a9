"""Every scan backend computes the recurrence, forwards and backwards, whatever the sizes."""

import pytest
import torch

from mambaxray.modeling_mambaxray.ops import selective_scan as scan_module
from mambaxray.modeling_mambaxray.ops.selective_scan import BACKENDS, scan_backend, selective_scan
from mambaxray.modeling_mambaxray.ops.selective_scan_reference import selective_scan_reference
from mambaxray.modeling_mambaxray.ops.selective_scan_torch import _chunks, _tile_sizes

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def make_inputs(directions, batch, length, channels, state, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "u": normal(directions, batch, length, channels),
        "delta": normal(directions, batch, length, channels),
        "A": -normal(directions, channels, state).exp(),
        "B": normal(directions, batch, length, state),
        "C": normal(directions, batch, length, state),
        "D": normal(directions, channels),
        "delta_bias": normal(directions, channels),
    }


def loop_in_float64(u, delta, A, B, C, D, delta_bias):
    """The recurrence written element by element, independent of the backends."""
    y = torch.zeros_like(u)
    for k in range(u.shape[0]):
        for b in range(u.shape[1]):
            state = torch.zeros(u.shape[3], A.shape[-1], dtype=u.dtype)
            for t in range(u.shape[2]):
                step = torch.log1p(torch.exp(delta[k, b, t] + delta_bias[k]))
                state = torch.exp(step[:, None] * A[k]) * state + (step * u[k, b, t])[:, None] * B[k, b, t]
                y[k, b, t] = state @ C[k, b, t] + D[k] * u[k, b, t]
    return y


@pytest.fixture(params=list(BACKENDS))
def backend(request, monkeypatch):
    monkeypatch.setenv("MAMBAXRAY_SCAN", request.param)
    return request.param


def test_scan_equals_the_recurrence_written_as_a_loop(backend):
    inputs = make_inputs(2, 3, 7, 4, 3)
    torch.testing.assert_close(selective_scan(**inputs), loop_in_float64(**inputs), rtol=1e-12, atol=1e-12)


SIZES = [
    (4, 2, 1, 3, 16),  # a single step
    (1, 1, 2, 1, 1),
    (4, 2, 65, 8, 16),  # one step over the longest chunk
    (4, 2, 64, 8, 16),
    (1, 3, 63, 5, 5),
    (4, 5, 30, 384, 16),  # several tiles of the batch, with a remainder
    (2, 3, 130, 96, 7),
]


@pytest.mark.parametrize("size", SIZES)
def test_float32_output_and_gradients_are_close_to_the_float64_reference(backend, size):
    exact = {name: x.requires_grad_() for name, x in make_inputs(*size).items()}
    rounded = {name: x.detach().float().requires_grad_() for name, x in exact.items()}
    weights = torch.randn(exact["u"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = selective_scan_reference(**exact)
    actual = selective_scan(**rounded)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), list(exact.values()))
    actual_gradients = torch.autograd.grad((actual * weights.float()).sum(), list(rounded.values()))
    names = ("output", *NAMES)
    for name, a, e in zip(names, (actual, *actual_gradients), (expected, *expected_gradients), strict=True):
        error, scale = (a.double() - e).abs().max(), e.abs().max()
        assert error <= 1e-5 * scale, f"{name}: error {error:.2e} where the largest value is {scale:.2e}"


def test_sizes_above_cover_several_chunks_and_several_tiles():
    tiles = {size: _tile_sizes(*size) for size in SIZES}
    assert any(size[1] % samples for size, (samples, _) in tiles.items())
    assert any(len(_chunks(size[2], steps)) > 1 for size, (_, steps) in tiles.items())


def test_gradients_pass_gradcheck_in_float64(backend):
    inputs = [x.requires_grad_() for x in make_inputs(2, 2, 9, 3, 2).values()]
    assert torch.autograd.gradcheck(selective_scan, inputs)


def test_strided_inputs_give_the_result_of_contiguous_ones(backend):
    inputs = make_inputs(2, 3, 10, 4, 3)
    strided = dict(inputs)
    for name in ("u", "delta", "B", "C"):
        strided[name] = inputs[name].transpose(1, 2).contiguous().transpose(1, 2)
        assert not strided[name].is_contiguous()
    torch.testing.assert_close(selective_scan(**strided), selective_scan(**inputs), rtol=0, atol=1e-12)


def test_an_empty_batch_and_an_empty_sequence_stay_empty(backend):
    for size in ((4, 0, 5, 3, 2), (4, 2, 0, 3, 2)):
        inputs = {name: x.requires_grad_() for name, x in make_inputs(*size).items()}
        y = selective_scan(**inputs)
        assert y.shape == inputs["u"].shape
        y.sum().backward()
        assert inputs["u"].grad.shape == inputs["u"].shape


@pytest.mark.parametrize("delta", [-1e4, 1e4])
def test_extreme_step_sizes_give_finite_values_and_gradients(backend, delta):
    inputs = make_inputs(1, 2, 12, 3, 4, dtype=torch.float32)
    inputs["delta"] = torch.full_like(inputs["delta"], delta)
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    y = selective_scan(**inputs)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(x.grad.isfinite().all() for x in inputs.values())


def test_bfloat16_differs_from_float32_by_rounding_only(backend):
    inputs = make_inputs(4, 2, 50, 6, 16, dtype=torch.float32)
    low = {name: inputs[name].bfloat16() if name in ("u", "delta", "B", "C") else inputs[name] for name in inputs}
    y = selective_scan(**low)
    assert y.dtype == torch.bfloat16
    exact = selective_scan(**{name: x.float() for name, x in low.items()})
    assert (y.float() - exact).abs().max() <= 2**-8 * exact.abs().max()


def test_autocast_leaves_the_scan_in_float32(backend):
    inputs = make_inputs(2, 2, 20, 4, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = selective_scan(**inputs)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, selective_scan(**inputs), rtol=0, atol=0)


def test_the_custom_operator_follows_torch_library_rules():
    inputs = make_inputs(2, 2, 9, 3, 2)
    inputs.pop("delta_bias")
    torch.library.opcheck(
        torch.ops.mambaxray.selective_scan.default, tuple(x.requires_grad_() for x in inputs.values())
    )


def test_a_wrong_shape_is_named():
    inputs = make_inputs(2, 2, 5, 3, 4)
    inputs["C"] = inputs["C"][..., :3]
    with pytest.raises(ValueError, match=r"C must have shape \(2, 2, 5, 4\)"):
        selective_scan(**inputs)
    with pytest.raises(ValueError, match="u must be"):
        selective_scan(**make_inputs(2, 2, 5, 3, 4) | {"u": torch.zeros(2, 5, 3)})


def test_an_unknown_backend_is_refused_with_the_choices(monkeypatch):
    monkeypatch.setenv("MAMBAXRAY_SCAN", "abacus")
    with pytest.raises(ValueError, match=r"abacus.*torch, reference"):
        scan_backend()
    monkeypatch.delenv("MAMBAXRAY_SCAN")
    assert scan_backend() == "torch"
    assert scan_module.BACKENDS["torch"] is not scan_module.BACKENDS["reference"]
