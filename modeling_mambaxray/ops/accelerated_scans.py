"""The implementations of the selective scan that need more than PyTorch, the preferred one first."""

from .directional_convolution_native import directional_convolution_native
from .directions_triton import directional_convolution_triton, merge_directions_triton
from .scan_backends import ScanBackend
from .selective_scan_mamba_ssm import mamba_ssm_problem, selective_scan_mamba_ssm
from .selective_scan_native import native_problem, selective_scan_native
from .selective_scan_triton import is_interpreting, selective_scan_triton, triton_problem

ACCELERATED_SCANS = {
    "native": ScanBackend(selective_scan_native, native_problem, "cpu", convolve=directional_convolution_native),
    # Measured on an H100: at some hundred steps ours is faster, at 4,097 mamba-ssm's was. Ours has been rewritten for
    # these since, which no GPU has measured yet (`benchmarks/gpu_all.py` does).
    "mamba_ssm": ScanBackend(selective_scan_mamba_ssm, mamba_ssm_problem, "cuda", for_long_only=True),
    "triton": ScanBackend(
        selective_scan_triton,
        triton_problem,
        "cpu" if is_interpreting() else "cuda",
        reads_half=True,
        automatic=not is_interpreting(),
        convolve=directional_convolution_triton,
        merge=merge_directions_triton,
    ),
}

__all__ = ["ACCELERATED_SCANS"]
