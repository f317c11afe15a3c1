"""What the benchmarks share that measure a GPU: waiting for it, its memory, its rate, and lines for benchmarks/gpu.sh.

Nothing here waits on a CPU, where a call ends when its work is done.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

from fastreid.utils.devices import usable_device
from fastreid.utils.errors import ArgumentError

import torch

Value = TypeVar("Value")


def device_of(name: str) -> torch.device:
    """Return a device by its name, for argparse: "auto", "cpu", "cuda", "cuda:1"."""
    try:
        return torch.device(usable_device(name, key="--device"))
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_device(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add --device to the options of a script."""
    parser.add_argument(
        "--device", type=device_of, default=default, help=f"auto, cpu, cuda, cuda:1 (default {default})"
    )


def describe(device: torch.device) -> str:
    """Return the device, the threads and the version of torch, for the line above a table."""
    name = f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Return the seconds of a call, in a block of several calls between two synchronisations."""
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - start) / calls


def restart_peak(device: torch.device) -> None:
    """Begin to measure the peak of the memory that tensors take on a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    """Return the peak since `restart_peak` in GiB; nan on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else math.nan


def memory_of(call: Callable[[], Value], device: torch.device) -> tuple[Value, float]:
    """Return the result of a call, and the peak of the GiB that it takes on a GPU beside what is there before."""
    restart_peak(device)
    before = peak_gib(device)
    result = call()
    return result, peak_gib(device) - before


def product_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16, size: int = 8192) -> float:
    """Return the multiply-accumulate operations a second of the product of two large matrices.

    Args:
        device: where they are.
        dtype: their format.
        size: rows and columns on a GPU; on a CPU 1024.
    """
    size = size if device.type == "cuda" else min(size, 1024)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds_of(lambda: a @ b, device, calls=3)
    return size**3 / statistics.median(seconds_of(lambda: a @ b, device, calls=10) for _ in range(3))


def figure(what: str, value: float, unit: str = "", goal: str = "") -> None:
    """Print a line that benchmarks/gpu.sh collects.

    Args:
        what: what was measured.
        value: the number.
        unit: its unit.
        goal: the goal, if there is one.
    """
    print(f"FIGURE {what} = {value:.4g}{unit}{f' (goal: {goal})' if goal else ''}", flush=True)
