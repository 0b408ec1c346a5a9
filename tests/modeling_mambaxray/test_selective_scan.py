"""Every scan backend computes the recurrence, forwards and backwards, whatever the sizes."""

import ctypes
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from mambaxray.modeling_mambaxray.ops.selective_scan import BACKENDS, scan_backend, selective_scan, use_scan_backend
from mambaxray.modeling_mambaxray.ops.selective_scan_native import native_problem
from mambaxray.modeling_mambaxray.ops.selective_scan_reference import selective_scan_reference
from mambaxray.modeling_mambaxray.ops.selective_scan_torch import _tile_sizes

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def make_inputs(directions, batch, length, channels, state, dtype=torch.float64, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

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


def choose(name, monkeypatch):
    """Scans with a backend, and says where it does."""
    if problem := BACKENDS[name].problem():
        pytest.skip(f"{name}: {problem}")
    monkeypatch.setenv("MAMBAXRAY_SCAN", name)
    return BACKENDS[name].device_type or "cpu"


@pytest.fixture(params=list(BACKENDS))
def device(request, monkeypatch):
    return choose(request.param, monkeypatch)


@pytest.fixture(params=[name for name, backend in BACKENDS.items() if backend.takes("cpu", torch.float64)])
def float64_backend(request, monkeypatch):
    return choose(request.param, monkeypatch)


@pytest.fixture
def native(monkeypatch):
    return choose("native", monkeypatch)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def scan_with_gradients(inputs):
    inputs = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    y = selective_scan(**inputs)
    return y.detach(), *torch.autograd.grad(y.square().sum(), list(inputs.values()))


def test_scan_equals_the_recurrence_written_as_a_loop(float64_backend):
    inputs = make_inputs(2, 3, 7, 4, 3)
    torch.testing.assert_close(selective_scan(**inputs), loop_in_float64(**inputs), rtol=1e-12, atol=1e-12)


SIZES = [
    (4, 2, 1, 3, 16),  # a single step
    (1, 1, 2, 1, 1),
    (4, 2, 65, 8, 16),  # one step over the longest chunk
    (4, 2, 64, 8, 16),
    (1, 3, 63, 5, 5),
    (4, 3, 20, 1536, 16),  # tiles of some directions, one sample each
    (1, 5, 30, 1536, 16),  # several tiles of the batch, with a remainder
    (2, 3, 130, 96, 7),
    (1, 1, 33, 300, 3),  # channels in several groups, with a remainder
    (1, 2, 32, 129, 4),
]


@pytest.mark.parametrize("size", SIZES)
def test_float32_output_and_gradients_are_close_to_the_float64_reference(device, size):
    exact = {name: x.requires_grad_() for name, x in make_inputs(*size, device=device).items()}
    rounded = {name: x.detach().float().requires_grad_() for name, x in exact.items()}
    weights = torch.randn(exact["u"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    expected = selective_scan_reference(**exact)
    actual = selective_scan(**rounded)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), list(exact.values()))
    actual_gradients = torch.autograd.grad((actual * weights.float()).sum(), list(rounded.values()))
    names = ("output", *NAMES)
    for name, a, e in zip(names, (actual, *actual_gradients), (expected, *expected_gradients), strict=True):
        error, scale = (a.double() - e).abs().max(), e.abs().max()
        assert error <= 1e-5 * scale, f"{name}: error {error:.2e} where the largest value is {scale:.2e}"


def test_sizes_above_cover_several_chunks_and_tiles_of_directions_and_samples():
    tiles = {size: _tile_sizes(*size) for size in SIZES}
    assert any(directions < size[0] for size, (directions, *_) in tiles.items())
    assert any(size[1] % samples for size, (_, samples, _) in tiles.items())
    assert any(steps < size[2] for size, (*_, steps) in tiles.items())


def test_gradients_pass_gradcheck_in_float64(float64_backend):
    inputs = [x.requires_grad_() for x in make_inputs(2, 2, 9, 3, 2).values()]
    assert torch.autograd.gradcheck(selective_scan, inputs)


def test_strided_inputs_give_the_result_of_contiguous_ones(device):
    inputs = make_inputs(2, 3, 10, 4, 3, dtype=torch.float32, device=device)
    strided = dict(inputs)
    for name in ("u", "delta", "B", "C"):
        strided[name] = inputs[name].transpose(1, 2).contiguous().transpose(1, 2)
        assert not strided[name].is_contiguous()
    # Another layout may take another path through the processor's vector units, which rounds otherwise.
    torch.testing.assert_close(selective_scan(**strided), selective_scan(**inputs), rtol=1e-6, atol=1e-6)


def test_memory_that_was_never_written_does_not_show(device):
    """Neither that of new tensors nor that between the rows of the inputs."""
    inputs = make_inputs(2, 3, 35, 5, 3, dtype=torch.float32, device=device)
    poisoned = {}
    for name, x in inputs.items():
        wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), torch.nan, device=device)
        poisoned[name] = wide[..., : x.shape[-1]]
        poisoned[name].copy_(x)
    expected = scan_with_gradients(inputs)
    try:
        torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
        actual = scan_with_gradients(poisoned)
    finally:
        torch.use_deterministic_algorithms(False)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-6)


def test_an_empty_batch_and_an_empty_sequence_stay_empty(device):
    for size in ((4, 0, 5, 3, 2), (4, 2, 0, 3, 2)):
        inputs = {
            name: x.requires_grad_() for name, x in make_inputs(*size, dtype=torch.float32, device=device).items()
        }
        y = selective_scan(**inputs)
        assert y.shape == inputs["u"].shape
        y.sum().backward()
        assert inputs["u"].grad.shape == inputs["u"].shape


@pytest.mark.parametrize("delta", [-1e4, 1e4])
def test_extreme_step_sizes_give_finite_values_and_gradients(device, delta):
    inputs = make_inputs(1, 2, 12, 3, 4, dtype=torch.float32, device=device)
    inputs["delta"] = torch.full_like(inputs["delta"], delta)
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    y = selective_scan(**inputs)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(x.grad.isfinite().all() for x in inputs.values())


def test_bfloat16_differs_from_float32_by_rounding_only(device):
    inputs = make_inputs(4, 2, 50, 6, 16, dtype=torch.float32, device=device)
    low = {name: inputs[name].bfloat16() if name in ("u", "delta", "B", "C") else inputs[name] for name in inputs}
    y = selective_scan(**low)
    assert y.dtype == torch.bfloat16
    exact = selective_scan(**{name: x.float() for name, x in low.items()})
    assert (y.float() - exact).abs().max() <= 2**-8 * exact.abs().max()


def test_autocast_leaves_the_scan_in_float32(device):
    inputs = make_inputs(2, 2, 20, 4, 8, dtype=torch.float32, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = selective_scan(**inputs)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, selective_scan(**inputs), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "dtype"), [("torch", torch.float64), ("native", torch.float32)])
def test_the_custom_operators_follow_torch_library_rules(name, dtype, monkeypatch):
    choose(name, monkeypatch)
    operator = {"torch": "selective_scan", "native": "selective_scan_native"}[name]
    inputs = make_inputs(2, 2, 9, 3, 2, dtype)
    op = getattr(torch.ops.mambaxray, operator).default
    torch.library.opcheck(op, (*inputs.values(), False))
    torch.library.opcheck(op, (*(x.requires_grad_() for x in inputs.values()), True))


def test_the_compiled_graph_is_whole_with_our_backends_and_gives_the_same(device):
    inputs = make_inputs(2, 2, 9, 3, 2, dtype=torch.float32, device=device)
    whole = scan_backend(device) != "mamba_ssm"  # its operator is none that the compiler knows
    compiled = torch.compile(selective_scan, fullgraph=whole, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs), selective_scan(**inputs), rtol=1e-6, atol=1e-6)


def test_the_choice_of_a_backend_is_a_constant_for_the_compiler():
    """Its trials, which run kernels, are not looked into."""

    def name_length(x):
        return x * len(scan_backend("cuda", torch.float32, x.shape[0]))

    torch.compiler.reset()
    compiled = torch.compile(name_length, fullgraph=True, backend="aot_eager", dynamic=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in (3, 5, 5000):
            assert torch.equal(compiled(torch.ones(length)), name_length(torch.ones(length)))


def test_activation_checkpointing_gives_the_same_gradients(device):
    inputs = make_inputs(2, 2, 35, 3, 2, dtype=torch.float32, device=device)
    inputs = [x.requires_grad_() for x in inputs.values()]
    expected = torch.autograd.grad(selective_scan(*inputs).square().sum(), inputs)
    recomputed = checkpoint(selective_scan, *inputs, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(recomputed.square().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def peak_mebibytes(work):
    """Resident memory at the peak of a call above what it was before."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak

    def read(name):
        return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024

    before = read("VmRSS")
    work()
    return read("VmHWM") - before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory in use from /proc")
@pytest.mark.parametrize("name", ["native", "torch"])
def test_the_forward_pass_needs_little_memory_beside_its_output(name, monkeypatch):
    choose(name, monkeypatch)
    inputs = list(make_inputs(4, 8, 145, 768, 16, dtype=torch.float32).values())
    selective_scan(*inputs)
    assert peak_mebibytes(lambda: selective_scan(*inputs)) <= inputs[0].nbytes / 2**20 + 16


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory in use from /proc")
def test_the_native_backward_pass_needs_five_times_the_output(native):
    inputs = [x.requires_grad_() for x in make_inputs(4, 8, 145, 768, 16, dtype=torch.float32).values()]

    def forward_and_backward():
        y = selective_scan(*inputs)
        torch.autograd.grad(y, inputs, torch.ones_like(y))

    forward_and_backward()
    assert peak_mebibytes(forward_and_backward) <= 5 * inputs[0].nbytes / 2**20 + 24


GRADIENTS_OF_TWO_PROCESSES = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from mambaxray import VisionMambaConfig, VisionMambaModel

dist.init_process_group("gloo")
torch.manual_seed(0)
model = VisionMambaModel(VisionMambaConfig(hidden_size=24, num_hidden_layers=2, image_size=32, patch_size=8))
images = torch.randn(4, 3, 32, 32)
weights = torch.randn(17, 24)  # without them the last layer norm's output has a loss that hardly changes
(model(images).last_hidden_state * weights).mean().backward()
expected = {name: x.grad.clone() for name, x in model.named_parameters()}
model.zero_grad()
mine = images.chunk(2)[dist.get_rank()]
parallel = DistributedDataParallel(model)  # it has to live until the gradients are there
(parallel(mine).last_hidden_state * weights).mean().backward()
for name, x in model.named_parameters():
    torch.testing.assert_close(x.grad, expected[name], rtol=1e-4, atol=1e-6)
print("same gradients")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["native", "torch"])
def test_two_processes_have_the_gradients_of_one(name, monkeypatch, tmp_path):
    choose(name, monkeypatch)
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS_OF_TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.stdout.count("same gradients") == 2, result.stderr


def test_not_a_number_is_not_hidden(device):
    inputs = make_inputs(1, 1, 40, 20, 4, dtype=torch.float32, device=device)
    inputs["u"][0, 0, 5, 3] = torch.nan
    inputs["delta"][0, 0, 7, 17] = torch.nan
    y = selective_scan(**inputs)[0, 0]
    assert y[5:, 3].isnan().all()
    assert y[7:, 17].isnan().all()
    assert y[:5].isfinite().all()
    assert y[:, 4].isfinite().all()


def test_decays_that_underflow_forget_the_past_exactly(native):
    inputs = make_inputs(1, 1, 3, 20, 2, dtype=torch.float32)
    inputs["A"] = torch.full_like(inputs["A"], -200.0)
    inputs["delta"] = torch.full_like(inputs["delta"], 3.0)
    inputs["u"][:, :, 1:] = 0
    assert (selective_scan(**inputs)[:, :, 1:] == 0).all()


def test_the_native_scan_leaves_float64_to_torch(native, monkeypatch):
    inputs = make_inputs(1, 2, 5, 4, 3)
    y = selective_scan(**inputs)
    monkeypatch.setenv("MAMBAXRAY_SCAN", "torch")
    torch.testing.assert_close(y, selective_scan(**inputs), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(4, 5, 40, 20, 4), (1, 1, 40, 300, 4)])
def test_the_number_of_threads_does_not_change_the_native_result(native, size, three_threads):
    inputs = make_inputs(*size, dtype=torch.float32)
    with_three = scan_with_gradients(inputs)
    torch.set_num_threads(1)
    for a, b in zip(with_three, scan_with_gradients(inputs), strict=True):
        assert torch.equal(a, b)


def test_several_threads_may_scan_at_the_same_time(native, three_threads):
    cases = [make_inputs(4, 3, 40, 20, 4, dtype=torch.float32, seed=seed) for seed in range(4)]
    alone = [scan_with_gradients(case) for case in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        for _ in range(10):
            for results, expected in zip(pool.map(scan_with_gradients, cases), alone, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


class ScannedSamples(Dataset):
    """Samples that are made by a scan, on several threads even in a data loader's worker."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        torch.set_num_threads(2)
        return selective_scan(**make_inputs(2, 2, 9, 5, 3, dtype=torch.float32, seed=index))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_worker_scans_beside_its_parent(native, three_threads):
    samples = ScannedSamples()
    expected = [selective_scan(**make_inputs(2, 2, 9, 5, 3, dtype=torch.float32, seed=i)) for i in range(len(samples))]
    loader = DataLoader(samples, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60)
    for from_worker, from_parent in zip(loader, expected, strict=True):
        scan_with_gradients(make_inputs(4, 3, 40, 20, 4, dtype=torch.float32))
        assert torch.equal(from_worker, from_parent)


SCAN_IN_A_NEW_PROCESS = """
import logging, sys, torch
logging.basicConfig(format="%(levelname)s %(message)s")
from mambaxray.modeling_mambaxray.ops.selective_scan import scan_backend, selective_scan
print("numba" in sys.modules)
u, B = torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 4)
for _ in range(2):
    y = selective_scan(u, u, -torch.ones(1, 2, 4), B, B, torch.ones(1, 2))
print(scan_backend(), bool(y.isfinite().all()))
"""


def run_python(script, **environment):
    environment = {name: value for name, value in os.environ.items() if name != "MAMBAXRAY_SCAN"} | environment
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)


def test_without_numba_torch_scans_silently():
    result = run_python("import sys; sys.modules['numba'] = None" + SCAN_IN_A_NEW_PROCESS)
    assert result.stdout.splitlines()[-1] == "torch True", result.stderr
    assert "WARNING" not in result.stderr


def test_native_asked_for_without_numba_is_refused_and_the_extra_named():
    result = run_python("import sys; sys.modules['numba'] = None" + SCAN_IN_A_NEW_PROCESS, MAMBAXRAY_SCAN="native")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ValueError: MAMBAXRAY_SCAN='native' can't be used: numba is not installed")
    assert "pip install 'mambaxray[native]'" in last


def test_with_a_numba_that_does_not_work_torch_scans_after_one_warning(tmp_path):
    package = tmp_path / "numba"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    result = run_python(SCAN_IN_A_NEW_PROCESS, PYTHONPATH=str(tmp_path))
    assert result.stdout.splitlines() == ["False", "torch True"], result.stderr
    warnings = [line for line in result.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert "Numba needs NumPy 1.0 or less" in warnings[0]


def test_numba_is_imported_by_the_first_scan_only(native):
    result = run_python(SCAN_IN_A_NEW_PROCESS)
    assert result.stdout.splitlines() == ["False", "native True"], result.stderr


@pytest.mark.slow
def test_the_native_scan_needs_no_place_for_its_cache(native, tmp_path):
    """Compiles everything anew, which takes a while."""
    (tmp_path / "file").touch()
    result = run_python(
        SCAN_IN_A_NEW_PROCESS,
        NUMBA_CACHE_DIR=str(tmp_path / "file" / "folder"),
        NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator",
    )
    assert result.stdout.splitlines() == ["False", "native True"], result.stderr
    assert "WARNING" not in result.stderr


def test_a_wrong_shape_is_named():
    inputs = make_inputs(2, 2, 5, 3, 4)
    inputs["C"] = inputs["C"][..., :3]
    with pytest.raises(ValueError, match=r"C must have shape \(2, 2, 5, 4\)"):
        selective_scan(**inputs)
    with pytest.raises(ValueError, match="u must be"):
        selective_scan(**make_inputs(2, 2, 5, 3, 4) | {"u": torch.zeros(2, 5, 3)})


def test_an_unknown_backend_is_refused_with_the_choices(monkeypatch):
    monkeypatch.setenv("MAMBAXRAY_SCAN", "abacus")
    with pytest.raises(ValueError, match=r"abacus.*native, mamba_ssm, triton, torch, reference"):
        scan_backend()
    monkeypatch.delenv("MAMBAXRAY_SCAN")
    assert scan_backend() == ("torch" if native_problem() else "native")
    on_gpu = [name for name in ("triton", "mamba_ssm") if not BACKENDS[name].problem()]
    assert scan_backend("cuda") == [*on_gpu, "torch"][0]
    assert scan_backend("cuda", torch.float64) == "torch"
    assert scan_backend(dtype=torch.float64) == "torch"


def test_mamba_ssm_is_preferred_for_long_sequences_only(monkeypatch):
    monkeypatch.delenv("MAMBAXRAY_SCAN", raising=False)
    for name in ("triton", "mamba_ssm"):
        monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], problem=str, device_type="cuda", automatic=True))
    assert scan_backend("cuda", length=145) == "triton"
    assert scan_backend("cuda", length=4097) == "mamba_ssm"
    with use_scan_backend("triton"):
        assert scan_backend("cuda", length=4097) == "triton"


def test_inside_a_with_block_its_backend_scans_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("MAMBAXRAY_SCAN", "torch")
    inputs = make_inputs(1, 2, 5, 4, 3)
    with use_scan_backend("reference"):
        assert scan_backend() == "reference"
        with use_scan_backend("torch"):
            assert scan_backend() == "torch"
        assert scan_backend() == "reference"
        assert torch.equal(selective_scan(**inputs), selective_scan_reference(**inputs))
    assert scan_backend() == "torch"


def test_a_with_block_refuses_an_unknown_backend_and_ends_with_an_error_inside():
    with (
        pytest.raises(ValueError, match=r"abacus.*native, mamba_ssm, triton, torch, reference"),
        use_scan_backend("abacus"),
    ):
        pass
    before = scan_backend()
    with pytest.raises(KeyError), use_scan_backend("reference"):
        raise KeyError
    assert scan_backend() == before
