"""Every benchmark, one row per protocol in `DATASET_REGISTRY`."""

from functools import partial
from pathlib import Path

from fastreid.data.benchmarks.ag_reid import AG_REID_V1, AG_REID_V2
from fastreid.data.benchmarks.attributes import PA100K, PEOPLE_ATTRIBUTES, load_pa100k
from fastreid.data.benchmarks.base import Benchmark, Protocol
from fastreid.data.benchmarks.cargo import CARGO
from fastreid.data.benchmarks.cuhk03 import CUHK03
from fastreid.data.benchmarks.diff_person import load_diff_person
from fastreid.data.benchmarks.g2aps import G2APS_REID
from fastreid.data.benchmarks.image_retrieval import RETRIEVAL_SETS
from fastreid.data.benchmarks.lagper import LAGPER
from fastreid.data.benchmarks.lists import Listed
from fastreid.data.benchmarks.market1501 import DUKEMTMC, MARKET1501
from fastreid.data.benchmarks.msmt17 import MSMT17
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Folder
from fastreid.data.benchmarks.vehicle_id import VEHICLE_ID
from fastreid.data.benchmarks.veri import VERI
from fastreid.data.benchmarks.veri_wild import VERI_WILD
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.structures import View

BENCHMARKS = (
    *(CARGO, AG_REID_V1, AG_REID_V2, LAGPER, G2APS_REID),
    *(MARKET1501, DUKEMTMC, MSMT17, CUHK03),
    *(VERI, VEHICLE_ID, VERI_WILD),
)
# Registered name -> its benchmark.
BENCHMARK_OF = {name: benchmark for benchmark in BENCHMARKS for name in benchmark.names()}

_LOADERS = {name: partial(benchmark.load, name) for name, benchmark in BENCHMARK_OF.items()}
for _name, _load in _LOADERS.items():
    DATASET_REGISTRY.register(_load, name=_name)
# Generated pictures, without a protocol.
DATASET_REGISTRY.register(load_diff_person, name="DiffPerson")
# Classes of things instead of people: none of the tables and pictures of people is about them.
for _set in RETRIEVAL_SETS:
    for _name in filter(None, (_set.name, _set.other_name)):
        DATASET_REGISTRY.register(_set.load, name=_name)
# Attributes of people, which are not ranked.
DATASET_REGISTRY.register(partial(load_pa100k, PA100K, "test"), name=PA100K)
DATASET_REGISTRY.register(partial(load_pa100k, f"{PA100K}_VAL", "val"), name=f"{PA100K}_VAL")
for _attributes in PEOPLE_ATTRIBUTES:
    DATASET_REGISTRY.register(_attributes.load, name=_attributes.name)


def home_of(name: str, root: str) -> Path | None:
    """Return the folder of a benchmark; None for other data sets, and for a name that a user's class has replaced.

    Args:
        name: the data set.
        root: folder of all data sets.
    """
    own = name in BENCHMARK_OF and DATASET_REGISTRY.get(name) is _LOADERS[name]
    return BENCHMARK_OF[name].home(root) if own else None


__all__ = ["BENCHMARKS", "BENCHMARK_OF", "Benchmark", "Folder", "Listed", "Protocol", "Sizes", "View", "home_of"]
