"""Every benchmark, one row per protocol in `DATASET_REGISTRY`."""

from functools import partial

from fastreid.data.benchmarks.base import Benchmark, DatasetError, Folder, Protocol, Sizes, View
from fastreid.data.benchmarks.cargo import CARGO
from fastreid.data.datasets import DATASET_REGISTRY

BENCHMARKS = (CARGO,)

for _benchmark in BENCHMARKS:
    for _protocol in _benchmark.protocols:
        DATASET_REGISTRY.register(partial(_benchmark.load, _protocol), name=_protocol)

__all__ = [
    "BENCHMARKS",
    "CARGO",
    "Benchmark",
    "DatasetError",
    "Folder",
    "Protocol",
    "Sizes",
    "View",
]
