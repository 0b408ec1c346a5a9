"""The causal convolution of all scan directions, in compiled loops and in PyTorch."""

import pytest
import torch
from torch.nn import functional as F

from mambaxray.modeling_mambaxray.ops.directional_convolution import directional_convolution
from mambaxray.modeling_mambaxray.ops.selective_scan_native import native_problem

BACKENDS = [
    pytest.param("native", marks=pytest.mark.skipif(bool(native_problem()), reason=native_problem() or "usable")),
    "torch",
]


def inputs(directions=4, batch=2, length=9, channels=6, width=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(length * channels)
    x = torch.randn(batch, length, channels, generator=generator, dtype=dtype)
    orders = torch.stack([torch.randperm(length, generator=generator) for _ in range(directions)])
    weight = torch.randn(directions, channels, width, generator=generator, dtype=dtype)
    bias = torch.randn(directions, channels, generator=generator, dtype=dtype)
    return x, orders, weight, bias


def one_direction_after_another(x, orders, weight, bias):
    """The definition, with one `conv1d` per direction."""
    length, channels = x.shape[1:]
    return torch.stack(
        [
            F.silu(F.conv1d(x[:, order].mT, w[:, None], b, padding=w.shape[1] - 1, groups=channels)[..., :length].mT)
            for order, w, b in zip(orders, weight, bias, strict=True)
        ]
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"directions": 1},
        {"length": 1},
        {"length": 3},
        {"width": 1},
        {"width": 7, "length": 5},
        {"channels": 128},
        {"channels": 300, "batch": 3},
        {"batch": 0},
    ],
    ids=str,
)
def test_values_and_gradients_equal_the_definition(monkeypatch, backend, sizes):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    x, orders, weight, bias = inputs(**sizes)
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    out = directional_convolution(x, orders, weight, bias)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(out, (x, weight, bias), grad_out)

    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    expected = one_direction_after_another(exact[0], orders, *exact[1:])
    expected_gradients = torch.autograd.grad(expected, exact, grad_out.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_inputs_give_numbers_and_nan_stays_nan(monkeypatch, backend):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    x, orders, weight, bias = inputs()
    large = (x * 1e4).requires_grad_()
    out = directional_convolution(large, orders, weight, bias)
    assert out.isfinite().all()
    assert torch.autograd.grad(out.sum(), large)[0].isfinite().all()
    x[0, 0, 0] = float("nan")
    assert directional_convolution(x, orders, weight, bias)[0, 0, :, 0].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_memory_layout_gives_the_same(monkeypatch, backend):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    x, orders, weight, bias = inputs(channels=20)
    expected = directional_convolution(x, orders, weight, bias)
    wide = torch.cat([x, x + 1], dim=-1).chunk(2, dim=-1)[0]
    strided = weight.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(directional_convolution(wide, orders.T.contiguous().T, strided, bias), expected)


@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_the_number_of_threads_changes_no_bit(monkeypatch, backend):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            x, orders, weight, bias = inputs(batch=3, channels=300, length=20)
            x.requires_grad_()
            out = directional_convolution(x, orders, weight, bias)
            results.append((out, *torch.autograd.grad(out.square().sum(), x)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_custom_operation_is_registered_completely(monkeypatch, backend):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    x, orders, weight, bias = inputs()
    compiled = torch.compile(directional_convolution, backend="aot_eager", fullgraph=True)
    first, second = (tensor.clone().requires_grad_() for tensor in (x, x))
    expected, out = directional_convolution(first, orders, weight, bias), compiled(second, orders, weight, bias)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(
        torch.autograd.grad(out.square().sum(), second), torch.autograd.grad(expected.square().sum(), first)
    )


def test_half_precision_and_doubles_take_the_path_in_pytorch(monkeypatch):
    monkeypatch.delenv("MAMBAXRAY_SCAN", raising=False)
    x, orders, weight, bias = inputs()
    expected = directional_convolution(x, orders, weight, bias)
    for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float64, 1e-5)):
        out = directional_convolution(x.to(dtype), orders, weight.to(dtype), bias.to(dtype))
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)
