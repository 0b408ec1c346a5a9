"""The selective scan as compiled loops for float32 on the CPU; needs numba, which brings its own compiler.

The kernels are shared out over as many threads as PyTorch uses. The threads are Python's, not numba's: its OpenMP layer
ends a process that forks (as data loaders do), its work queue one that scans from two threads at once.
"""

import functools
import importlib.util
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_LOG2_E = 1.4426950408889634
# Time steps between kept states; selective_scan_kernels.CHUNK, known here without numba.
_CHUNK = 32
# Tasks below which samples are split into groups of channels, which costs the backward pass a sum over the groups.
_ENOUGH_TASKS = 8
_MIN_GROUP = 128
