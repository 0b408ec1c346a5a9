"""The Triton scan in Triton's interpreter on the CPU, and its compilation for GPUs that need not be there."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

# The interpreter has to be asked for before triton is imported, so this runs in a process of its own.
IN_THE_INTERPRETER = """
import torch
from mambaxray import use_scan_backend
from mambaxray.modeling_mambaxray.ops.selective_scan import scan_backend, scan_problems, selective_scan

torch.manual_seed(0)

def make_inputs(directions, batch, length, channels, state):
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64)
    sequence, weights = (directions, batch, length, channels), (directions, batch, length, state)
    decay = -normal(directions, channels, state).exp()
    skip, bias = normal(directions, channels), normal(directions, channels)
    return [normal(*sequence), normal(*sequence), decay, normal(*weights), normal(*weights), skip, bias]

def results(backend, inputs, cotangent):
    inputs = [x.detach().requires_grad_() for x in inputs]
    with use_scan_backend(backend):
        y = selective_scan(*inputs)
        with torch.no_grad():
            assert torch.equal(y, selective_scan(*inputs)), "the output depends on whether a backward pass follows"
    return [y.detach(), *torch.autograd.grad((y.double() * cotangent).sum(), inputs)]

assert scan_problems()["triton"] == ""
assert scan_backend() != "triton", "the interpreter is for tests only"
# One step; a chunk, one step less and one more; one state; channels that fill no block.
for size in [(1, 1, 1, 1, 1), (2, 1, 16, 3, 2), (1, 2, 15, 2, 1), (1, 1, 33, 5, 3)]:
    inputs = make_inputs(*size)
    cotangent = torch.randn_like(inputs[0])
    expected = results("reference", inputs, cotangent)
    actual = results("triton", [x.float() for x in inputs], cotangent)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a.double() - e).abs().max() <= 1e-5 * e.abs().max(), (size, a, e)

# Half precision is read and written as it is; A, D and the bias stay float32.
inputs = [x.float() for x in make_inputs(2, 1, 18, 3, 2)]
for dtype, rounding in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
    half = [x.to(dtype) if index in (0, 1, 3, 4) else x for index, x in enumerate(inputs)]
    cotangent = torch.randn_like(inputs[0]).to(dtype).double()
    expected = results("reference", [x.double() for x in half], cotangent)
    for a, e, x in zip(results("triton", half, cotangent), [expected[0], *expected[1:]], [half[0], *half], strict=True):
        assert a.dtype == x.dtype
        assert (a.double() - e).abs().max() <= 2 * rounding * e.abs().max(), (dtype, a, e)

# Extreme steps and a strided input.
inputs = [x.float() for x in make_inputs(1, 1, 17, 2, 2)]
for delta in (-1e4, 1e4):
    inputs[1] = torch.full_like(inputs[1], delta).transpose(2, 3).contiguous().transpose(2, 3)
    assert all(x.isfinite().all() for x in results("triton", inputs, torch.ones_like(inputs[0])))

# Nothing to scan.
for size in ((2, 0, 5, 3, 2), (2, 1, 0, 3, 2)):
    inputs = [x.float() for x in make_inputs(*size)]
    assert results("triton", inputs, torch.ones_like(inputs[0]))[0].shape == inputs[0].shape

inputs = [x.float() for x in make_inputs(1, 1, 3, 2, 2)]
operator = torch.ops.mambaxray.selective_scan_triton.default
tests = ("test_schema", "test_autograd_registration", "test_faketensor")
torch.library.opcheck(operator, (*(x.requires_grad_() for x in inputs), True), test_utils=tests)
print("done")
"""


@pytest.mark.slow
def test_in_the_interpreter_output_and_gradients_are_close_to_the_float64_reference():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", IN_THE_INTERPRETER], env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.stdout.splitlines()[-1:] == ["done"], result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_the_kernels_compile_for_a100_and_h100_without_one(name, architecture):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mambaxray.modeling_mambaxray.ops import selective_scan_triton_kernels as kernels
    from mambaxray.modeling_mambaxray.ops.selective_scan_triton import _BLOCK, _CHUNK, _WARPS

    kernel = getattr(kernels, name)
    constants = {"N": 16, "T": _CHUNK, "BLOCK": _BLOCK}
    half = {f"{tensor}_ptr" for tensor in ("u", "delta", "B", "C", "y", "grad_y", "grad_u", "grad_delta")}
    signature = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(constants, "constexpr")
    signature |= {a: "*bf16" if a in half else "*fp32" for a in kernel.arg_names if a.endswith("_ptr")}
    compiled = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": _WARPS},
    )
    assert len(compiled.asm["cubin"]) > 0
