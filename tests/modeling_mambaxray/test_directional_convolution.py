"""What stands before and behind the scans of all directions: in compiled loops, in PyTorch and as Triton kernels."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mambaxray.modeling_mambaxray.ops.directional_convolution import directional_convolution, merge_directions
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


def merge_inputs(directions=4, batch=2, length=9, channels=6, dtype=torch.float32):
    x, orders, *_ = inputs(directions, batch, length, channels, dtype=dtype)
    scanned = torch.randn(directions, *x.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return scanned, x, orders, orders.argsort(dim=-1)


def put_back_one_after_another(scanned, gate, orders):
    """The definition."""
    raster = torch.zeros_like(scanned)
    for k, order in enumerate(orders):
        raster[k, :, order] = scanned[k]
    return raster.mean(0) * F.silu(gate)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [{}, {"directions": 1}, {"length": 1}, {"batch": 0}], ids=str)
def test_the_merged_directions_and_their_gradients_equal_the_definition(monkeypatch, backend, sizes):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    scanned, gate, orders, inverse_orders = merge_inputs(**sizes)
    tensors = [tensor.requires_grad_() for tensor in (scanned, gate)]
    out = merge_directions(*tensors, orders, inverse_orders)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(out, tensors, weights)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = put_back_one_after_another(*exact, orders)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    for a, e in zip(gradients, torch.autograd.grad(expected, exact, weights.double()), strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-5, atol=1e-6)


class Operators(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gradient_is_scattered_or_accumulated_by_index(monkeypatch, backend):
    monkeypatch.setenv("MAMBAXRAY_SCAN", backend)
    x, orders, weight, bias = (t.requires_grad_() if t.is_floating_point() else t for t in inputs())
    inverse_orders = orders.argsort(dim=-1)
    with Operators() as operators:
        u = directional_convolution(x, orders, weight, bias, inverse_orders)
        merge_directions(u, x, orders, inverse_orders).sum().backward()
    scattering = ("index_put", "index_add", "scatter")
    assert not [name for name in operators.names if any(word in name for word in scattering)]
    assert any("order" in name for name in operators.names)


def test_the_orders_operators_follow_torch_library_rules():
    scanned, x, orders, inverse_orders = merge_inputs(dtype=torch.float64)
    operators = torch.ops.mambaxray
    torch.library.opcheck(operators.take_in_orders.default, (x.requires_grad_(), orders, inverse_orders))
    torch.library.opcheck(operators.sum_over_orders.default, (scanned.requires_grad_(), orders, inverse_orders))


# The interpreter has to be asked for before triton is imported. What is not initialised is filled with NaN.
IN_THE_INTERPRETER = """
import torch
import triton_interpreter
from mambaxray import use_scan_backend
from mambaxray.modeling_mambaxray.ops.directional_convolution import directional_convolution, merge_directions

torch.use_deterministic_algorithms(True)

def run(backend, x, gate, orders, weight, bias, cotangent):
    inputs = [tensor.detach().requires_grad_() for tensor in (x, gate, weight, bias)]
    x, gate, weight, bias = inputs
    with use_scan_backend(backend):
        inverse_orders = orders.argsort(dim=-1)
        u = directional_convolution(x, orders, weight, bias, inverse_orders)
        out = merge_directions(u * 2, gate, orders, inverse_orders)
    return [u.detach(), out.detach(), *torch.autograd.grad((out * cotangent).sum(), inputs)]

for directions, batch, length, channels, width in (
    (4, 2, 9, 6, 4), (1, 1, 1, 1, 1), (2, 1, 37, 3, 3), (3, 2, 5, 130, 7), (2, 0, 5, 3, 4)
):
    generator = torch.Generator().manual_seed(length)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    # As the projection leaves them: x and gate are halves of one tensor.
    x, gate = normal(batch, length, 2 * channels).chunk(2, dim=-1)
    orders = torch.stack([torch.randperm(length, generator=generator) for _ in range(directions)])
    arguments = (x, gate, orders, normal(directions, channels, width), normal(directions, channels))
    cotangent = normal(batch, length, channels)
    for a, e in zip(run("triton", *arguments, cotangent), run("torch", *arguments, cotangent), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
    low = [tensor.bfloat16() if tensor.is_floating_point() else tensor for tensor in arguments]
    if batch:
        for a, e in zip(run("triton", *low, cotangent.bfloat16()), run("torch", *arguments, cotangent), strict=True):
            assert a.dtype == torch.bfloat16
            assert (a.float() - e).abs().max() <= 0.05 * e.abs().max(), (directions, length, a, e)

torch.use_deterministic_algorithms(False)
# What the first scan on a GPU tries, there as here, wherever it is called.
from mambaxray.modeling_mambaxray.ops import selective_scan_triton
torch.Tensor.cuda = lambda tensor: tensor
with torch.inference_mode():
    assert selective_scan_triton._difference_from_reference() < 1e-5
x, gate, orders, weight, bias = arguments = [t[:1] if i < 2 else t for i, t in enumerate(arguments)]
x, gate = torch.randn(2, 1, 5, 3)
tests = ("test_schema", "test_autograd_registration", "test_faketensor")
operators = torch.ops.mambaxray
for operator, inputs in (
    (operators.directional_convolution_triton, (x, orders, orders.argsort(dim=-1), weight, bias)),
    (operators.merge_directions_triton, (torch.randn(2, 1, 5, 3), gate, orders, orders.argsort(dim=-1))),
):
    inputs = [t.requires_grad_() if t.is_floating_point() else t for t in inputs]
    torch.library.opcheck(operator.default, inputs, test_utils=tests)
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_triton_kernels_compute_what_pytorch_does():
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, "-c", IN_THE_INTERPRETER], env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.stdout.splitlines()[-1:] == ["done"], result.stderr
