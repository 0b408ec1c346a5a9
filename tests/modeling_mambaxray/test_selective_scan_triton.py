"""The Triton scan in Triton's interpreter on the CPU, and its kernels compiled for GPUs that need not be there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

SUPPORT = Path(__file__).parents[1] / "support"
# The interpreter has to be asked for before triton is imported, so this runs in a process of its own. What is not
# initialised is filled with NaN, and so is what lies between the rows of the inputs.
IN_THE_INTERPRETER = """
import torch
import triton_interpreter
from mambaxray import use_scan_backend
from mambaxray.modeling_mambaxray.ops import selective_scan_triton as scans
from mambaxray.modeling_mambaxray.ops.selective_scan import scan_backend, scan_problems, selective_scan

torch.manual_seed(0)
torch.use_deterministic_algorithms(True)

def make_inputs(directions, batch, length, channels, state):
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64)
    sequence, weights = (directions, batch, length, channels), (directions, batch, length, state)
    decay = -normal(directions, channels, state).exp()
    skip, bias = normal(directions, channels), normal(directions, channels)
    return [normal(*sequence), normal(*sequence), decay, normal(*weights), normal(*weights), skip, bias]

def among_poison(x):
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), torch.nan, dtype=x.dtype)
    wide[..., :x.shape[-1]] = x
    return wide[..., :x.shape[-1]]

def results(backend, inputs, cotangent):
    inputs = [x.detach().requires_grad_() for x in inputs]
    with use_scan_backend(backend):
        y = selective_scan(*inputs)
        with torch.no_grad():
            assert torch.equal(y, selective_scan(*inputs)), "the output depends on whether a backward pass follows"
    return [y.detach(), *torch.autograd.grad((y.double() * cotangent).sum(), inputs)]

def check(size, segments=1):
    assert scans._Plan.of(*size).segments == segments
    inputs = make_inputs(*size)
    cotangent = torch.randn_like(inputs[0])
    expected = results("reference", inputs, cotangent)
    actual = results("triton", [among_poison(x.float()) for x in inputs], cotangent)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a.double() - e).abs().max() <= 1e-5 * e.abs().max(), (size, a, e)

assert scan_problems()["triton"] == ""
assert scan_backend() != "triton", "the interpreter is for tests only"
# One step; a chunk, one step less and one more; states that are no power of two; channels that fill no block; states of
# a channel in two and four lanes, so many that a lane keeps several sums.
for size in [
    (1, 1, 1, 1, 1), (2, 1, 16, 3, 2), (1, 2, 15, 2, 1), (1, 1, 17, 5, 3), (1, 2, 3, 33, 16), (1, 1, 6, 3, 20),
    (1, 1, 4, 9, 64),
]:
    check(size)

# Long sequences in segments, the last one shorter.
scans._SHORTEST_SEGMENT, scans._FEWEST_SEGMENTS = 16, 2
check((1, 2, 40, 3, 2), segments=2)
check((2, 1, 49, 2, 3), segments=2)
check((1, 1, 80, 1, 1), segments=5)
scans._SHORTEST_SEGMENT, scans._FEWEST_SEGMENTS = 128, 4

# Half precision is read and written as it is; A, D and the bias stay float32.
inputs = [x.float() for x in make_inputs(2, 1, 18, 3, 2)]
for dtype, rounding in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
    half = [x.to(dtype) if index in (0, 1, 3, 4) else x for index, x in enumerate(inputs)]
    cotangent = torch.randn_like(inputs[0]).to(dtype).double()
    expected = results("reference", [x.double() for x in half], cotangent)
    for a, e, x in zip(results("triton", half, cotangent), [expected[0], *expected[1:]], [half[0], *half], strict=True):
        assert a.dtype == x.dtype
        assert (a.double() - e).abs().max() <= 2 * rounding * e.abs().max(), (dtype, a, e)

# Extreme steps and inputs whose channels do not lie together; directions that share their input.
inputs = [x.float() for x in make_inputs(2, 1, 17, 2, 2)]
inputs[0] = inputs[0][:1].expand(2, -1, -1, -1)
for delta in (-1e4, 1e4):
    inputs[1] = torch.full_like(inputs[1], delta).transpose(2, 3).contiguous().transpose(2, 3)
    assert all(x.isfinite().all() for x in results("triton", inputs, torch.ones_like(inputs[0])))

# Nothing to scan.
for size in ((2, 0, 5, 3, 2), (2, 1, 0, 3, 2)):
    inputs = [x.float() for x in make_inputs(*size)]
    assert results("triton", inputs, torch.ones_like(inputs[0]))[0].shape == inputs[0].shape

# More states than lanes can hold.
try:
    results("triton", [x.float() for x in make_inputs(1, 1, 2, 1, 513)], 1.0)
except ValueError as error:
    assert "at most 512 states, got 513" in str(error)
else:
    raise AssertionError("513 states were scanned")

torch.use_deterministic_algorithms(False)
inputs = [x.float() for x in make_inputs(1, 1, 3, 2, 2)]
with use_scan_backend("triton"):
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), selective_scan(*inputs), rtol=0, atol=0)
operator = torch.ops.mambaxray.selective_scan_triton.default
tests = ("test_schema", "test_autograd_registration", "test_faketensor")
torch.library.opcheck(operator, (*(x.requires_grad_() for x in inputs), True), test_utils=tests)
print("done")
"""


@pytest.mark.slow
def test_in_the_interpreter_output_and_gradients_are_close_to_the_float64_reference():
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, "-c", IN_THE_INTERPRETER], env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.stdout.splitlines()[-1:] == ["done"], result.stderr


def compiled_kernel(name, architecture, half):
    from compiled_kernels import SEQUENCES, TOOLS, compile_for

    if not (TOOLS / "cuobjdump").exists():
        pytest.skip("this build of triton has no cuobjdump")
    return compile_for(name, architecture, SEQUENCES if half else set())


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["forward", "forward, keeping states"])
@pytest.mark.parametrize("architecture", [80, 90])
def test_forward_keeps_states_in_registers_and_moves_nothing_between_lanes(architecture, name, half):
    from compiled_kernels import registers_and_stack

    compiled = compiled_kernel(name, architecture, half)
    code = compiled.asm["ptx"]
    assert not re.search(r"shfl\.|bar\.|\.shared|div\.rn", code)
    # 16 weights each of B and C, in pieces of four.
    assert len(re.findall(r"ld\.global\S*\.v[24]\.", code)) == 2 * 4
    registers, stack = registers_and_stack(compiled)
    # 3,072 programs on 132 multiprocessors are 23.3 on each, of which 65,536 registers hold 21 at once up to here.
    assert registers <= 96
    assert stack == 0


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "half"), [(80, False), (90, True)], ids=["a100-float32", "h100-bfloat16"])
def test_backward_spills_nothing_and_exchanges_32_values_a_step(architecture, half):
    from compiled_kernels import registers_and_stack

    from mambaxray.modeling_mambaxray.ops.selective_scan_triton import _PART

    compiled = compiled_kernel("backward", architecture, half)
    code = compiled.asm["ptx"]
    # Both sums over channels of 16 states by exchanging halves; one after the other they would need 160.
    assert len(re.findall(r"shfl\.sync", code)) == 2 * 16 * _PART
    assert ".shared" not in code
    registers, stack = registers_and_stack(compiled)
    assert registers <= 255
    assert stack == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["summarize", "summarize_backward"])
def test_the_kernels_for_segments_compile_and_spill_nothing(name):
    from compiled_kernels import registers_and_stack

    registers, stack = registers_and_stack(compiled_kernel(name, 90, half=True))
    assert registers <= 96
    assert stack == 0
