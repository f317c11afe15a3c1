"""Starts one process per GPU (or several on a CPU) and runs a function in each."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

logger = logging.getLogger(__name__)


class LaunchError(ValueError):
    """A number of processes or machines that cannot be."""


def launch(
    main: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple[Any, ...] = (),
    *,
    device: str = "cuda",
) -> Any:
    """Run ``main(*args)`` in ``num_gpus_per_machine`` processes on each of ``num_machines``.

    One process in all is a plain call, whose value is returned. Otherwise each process joins a
    process group, nccl if ``device`` is CUDA and gloo if it is "cpu"; None is returned, and an
    error in one process stops the others. ``dist_url`` "auto" takes a free local port.

    Raises:
        LaunchError: more GPUs than there are, an impossible rank, or "auto" for several machines.
    """
    _check(num_gpus_per_machine, num_machines, machine_rank, dist_url, device)
    world_size = num_gpus_per_machine * num_machines
    if world_size == 1:
        return main(*args)
    if dist_url == "auto":
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    mp.spawn(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(main, world_size, num_gpus_per_machine, machine_rank, dist_url, device, args),
    )
    return None


def _check(num_gpus: int, num_machines: int, machine_rank: int, dist_url: str, device: str) -> None:
    if num_gpus < 1 or num_machines < 1:
        raise LaunchError(f"--num-gpus {num_gpus} and --num-machines {num_machines} must be at least 1")
    if not 0 <= machine_rank < num_machines:
        raise LaunchError(f"--machine-rank {machine_rank} must be in 0..{num_machines - 1} (--num-machines)")
    if dist_url == "auto" and num_machines > 1:
        raise LaunchError("several machines need --dist-url tcp://ADDRESS:PORT of the first one, not auto")
    there = torch.cuda.device_count()
    if device.startswith("cuda") and num_gpus > max(there, 1):
        raise LaunchError(
            f"--num-gpus {num_gpus} but this machine shows {there} CUDA devices; lower it, or "
            "check CUDA_VISIBLE_DEVICES"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _worker(
    local_rank: int,
    main: Callable[..., Any],
    world_size: int,
    num_per_machine: int,
    machine_rank: int,
    dist_url: str,
    device: str,
    args: tuple[Any, ...],
) -> None:
    os.environ["LOCAL_RANK"] = str(local_rank)
    on_cuda = device.startswith("cuda")
    if on_cuda:
        torch.cuda.set_device(local_rank)  # plain "cuda" is now this process's own device
    else:
        # Processes share the cores; each taking all of them is slower than taking its part.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_per_machine))
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_per_machine + local_rank,
    )
    main(*args)
    # Not after an error: closing the group would make the others fail first, and hide the reason.
    dist.destroy_process_group()
