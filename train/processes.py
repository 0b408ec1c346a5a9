"""Several processes on one machine that train as one, started from within a program.

Kept beside accelerate's launchers (read in 1.15), which do not do this: `notebook_launcher` and `debug_launcher` fork,
which breaks once this process has used CUDA or torch's threads; the first refuses where accelerate's state exists, as
it does in a bench, and the second is for debugging only and takes one fixed port; neither shares the cores out. On the
CPU `accelerate launch --num_processes 2` silently runs one process.
"""

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import distributed, multiprocessing


def run_in_processes(function: Callable[..., None], arguments: Sequence[Any], num_processes: int) -> None:
    """Runs a training function in processes that the `Trainer` takes for one data-parallel group.

    Small models gain little from several threads, and stand still when another program takes a core away from one of
    them; processes with a share of the threads each do not.

    Args:
        function: a function of a module; each process calls it once, as under `torchrun`. On the CPU its
            `TrainingArguments` need `use_cpu=True` and, with several processes, `ddp_backend="gloo"`: with less they
            silently train apart (accelerate 1.15).
        arguments: its arguments, which must be picklable.
        num_processes: how many; with 1 the function is simply called.

    Raises:
        ValueError: the number is not positive.
        torch.multiprocessing.ProcessRaisedException: a process failed; the message holds its traceback.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be positive, got {num_processes}")
    if num_processes == 1:
        function(*arguments)
        return
    threads = max(1, torch.get_num_threads() // num_processes)
    multiprocessing.spawn(
        _run_one, (function, tuple(arguments), num_processes, threads, _free_port()), nprocs=num_processes
    )


def _run_one(
    rank: int, function: Callable[..., None], arguments: tuple[Any, ...], world_size: int, threads: int, port: int
) -> None:
    torch.set_num_threads(threads)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
    }
    function(*arguments)
    if distributed.is_initialized():
        # A process that leaves early takes the group's connections down with it.
        distributed.barrier()
        distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


__all__ = ["run_in_processes"]
