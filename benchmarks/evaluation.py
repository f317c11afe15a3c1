#!/usr/bin/env python
"""Times evaluation of features against the classical implementation, with the same number of threads.

    python benchmarks/evaluation.py [--jobs ranking reranking clustering expansion roc growth] [--sizes …] [--dims …]

The classical way is that of classical.py: full matrices, full sorts, loops. Ours: the library's. The bare product:
torch's matrix product in panels of 512 queries, and nothing else. They take turns, each in a fork of this process;
times are medians, memory is the peak beside the features. Where both ways give labels or an mAP, these are compared,
too. growth: ours over galleries of 10^4 to 10^6 images that lie in a file, and the exponents of time and memory. With
--device cuda ranking runs there, too: in this process, as a fork cannot use CUDA, and after all forks. Its memory is
the peak on the device, and ours may use a quarter of what is free there. --device-only skips everything else.
"""

import argparse
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

from fastreid.evaluation import jaccard_graph, roc_curve
from fastreid.retrieval import compiled_engine
from fastreid.retrieval.compiled_engine import CompiledDistances, rank_features
from fastreid.retrieval.matches import match_labels
from fastreid.retrieval.metric import FittedMetric
from fastreid.retrieval.query_expansion import expand
from fastreid.retrieval.ranking import rank_queries
from fastreid.retrieval.reranking import RerankedDistances
from fastreid.retrieval.torch_engine import TorchDistances
from fastreid.utils.errors import reported_as

import numpy as np
import torch
from sklearn.cluster import DBSCAN
from tabulate import tabulate

import classical
from figures import add_device, describe, figure, peak_gib, restart_peak, wait

PANEL = 512
GROWTH = (10_000, 32_000, 100_000, 320_000, 1_000_000)


@dataclass(frozen=True)
class Size:
    """Size of a benchmark, of which `distractors` gallery images show no query person."""

    queries: int
    gallery: int
    people: int
    cameras: int
    distractors: int = 0
    train: int = 0


SIZES = {
    "market": Size(3368, 15_913, 751, 6, distractors=2798, train=12_936),
    "msmt17": Size(11_659, 82_161, 3060, 15, train=32_621),
    "cargo": Size(312, 50_712, 2500, 13, train=51_451),
    "tiny": Size(60, 500, 30, 3, train=200),
}

Protocol = tuple[np.ndarray, ...]


def make(size: Size, dim: int, seed: int = 0) -> Protocol:
    """Random unit-length features and ids: a common part, a part per person, and noise per image."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((size.people, dim), dtype=np.float32)
    q_pids = rng.integers(0, size.people, size.queries)
    g_pids = rng.integers(0, size.people, size.gallery)
    g_pids[: size.distractors] = -2

    def features(pids: np.ndarray) -> np.ndarray:
        rows = rng.standard_normal((len(pids), dim), dtype=np.float32)
        rows *= rng.uniform(1, 4, (len(pids), 1)).astype(np.float32)
        rows += centres[pids] + 0.5
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    cameras = [rng.integers(0, size.cameras, n) for n in (size.queries, size.gallery)]
    return features(q_pids), features(g_pids), q_pids, g_pids, *cameras


def product(data: Protocol, device: torch.device | str = "cpu") -> None:
    """Compute all products of query and gallery rows, in panels."""
    q, g = (torch.from_numpy(side).to(device) for side in data[:2])
    out = torch.empty(PANEL, len(g), device=device)
    for start in range(0, len(q), PANEL):
        rows = q[start : start + PANEL]
        torch.mm(rows, g.T, out=out[: len(rows)])
    wait(torch.device(device))


def by_library(data: Protocol, device: torch.device | str = "cpu") -> float:
    """The library with the matrix product of torch instead of its kernel."""
    return TorchDistances(*data[:2], device=device).rank(match_labels(*data[2:])).mean_ap


def by_euclidean(data: Protocol) -> float:
    """The library with Euclidean distances, computed about a centre of the descriptors."""
    return rank_features(*data, metric="euclidean").mean_ap


def about_the_origin(data: Protocol) -> float:
    """The same without the centre, and so without the cost of computing and subtracting it."""
    origin = np.zeros(data[0].shape[1], dtype=np.float32)
    with mock.patch.object(compiled_engine, "fit_metric", lambda metric, query, gallery: FittedMetric(metric, origin)):
        return by_euclidean(data)


def measured(job: Callable[[], object], warm: bool = False) -> tuple[float, float, object]:
    """Return seconds, MiB of additional memory (Linux; nan elsewhere), and the result of a job.

    In a fork of this process, which must not have used its threads yet: what an earlier job left behind in memory
    (after 11 GB, small pages) would slow this one down. With `warm` it runs once before, to wake up threads.
    """
    receive, send = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        if warm:
            job()
        before = _memory(reset=True)
        start = time.perf_counter()
        result = job()
        seconds = time.perf_counter() - start
        send.send((seconds, _memory() - before, result))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    send.close()  # so that the death of the child is detected
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError("a job died; its error stands above") from None
    finally:
        child.join()


def measured_on(device: torch.device, job: Callable[[], object], warm: bool = True) -> tuple[float, float, object]:
    """Return seconds, peak MiB on a CUDA device, and the result of a job, in this process; arguments as `measured`."""
    if warm:
        job()
    wait(device)
    restart_peak(device)
    start = time.perf_counter()
    result = job()
    wait(device)
    return time.perf_counter() - start, 1024 * peak_gib(device), result


def _memory(reset: bool = False) -> float:
    """Peak resident MiB since the last reset."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def ranking(name: str, dim: int, rounds: int) -> list[list[object]]:
    """Table rows of one size: the whole evaluation, and ranking from a given matrix."""
    data = make(SIZES[name], dim)
    ids = data[2:]
    jobs = {
        "classical": lambda: classical.mean_ap(classical.distance_matrix(*data[:2]), *ids),
        "ours": lambda: rank_features(*data).mean_ap,
        "ours, euclidean": lambda: by_euclidean(data),  # of unit vectors: the same order
        "ours, euclidean about the origin": lambda: about_the_origin(data),
        "ours, torch's product": lambda: by_library(data),
        "bare product": lambda: product(data),
    }
    rows = _rows(f"{name} {dim}-d", jobs, rounds, baseline="classical", product="bare product")
    matrix = 1 - data[0] @ data[1].T
    jobs = {
        "classical": lambda: classical.mean_ap(matrix, *ids),
        "ours": lambda: rank_queries(matrix, *ids).mean_ap,
    }
    return rows + _rows(f"{name}, ready matrix", jobs, rounds, baseline="classical")


def ranking_on(device: torch.device, name: str, dim: int, rounds: int) -> list[list[object]]:
    """Table rows of one size on a device, by the engine that GPUs use."""
    data = make(SIZES[name], dim)
    jobs = {"ours": lambda: by_library(data, device), "bare product": lambda: product(data, device)}
    options = {"baseline": "bare product", "product": "bare product"}
    return _rows(f"{name} {dim}-d, {device}", jobs, rounds, measure=partial(measured_on, device), **options)


def reranking(name: str, dim: int, rounds: int) -> list[list[object]]:
    """Re-ranked evaluation; the classical one only if its matrices fit into memory."""
    query, gallery, *ids = make(SIZES[name], dim)
    jobs = {
        "classical": lambda: classical.mean_ap(classical.reranked(query, gallery), *ids),
        "ours": lambda: (
            RerankedDistances(CompiledDistances(query, gallery), query, gallery).rank(match_labels(*ids)).mean_ap
        ),
    }
    if len(query) + len(gallery) > 30_000:
        del jobs["classical"]
    return _rows(f"re-ranking, {name} {dim}-d", jobs, rounds, baseline=next(iter(jobs)))


def clustering(name: str, dim: int, rounds: int) -> list[list[object]]:
    """Jaccard distances of a training set and DBSCAN on them; labels must be the same."""
    size = SIZES[name]
    features = make(Size(size.train, 1, size.people, 1), dim)[0]

    def ours() -> np.ndarray:
        graph = jaccard_graph(features, k1=30, k2=6, max_distance=0.6)
        return DBSCAN(eps=0.6, min_samples=4, metric="precomputed").fit_predict(graph)

    jobs = {"classical": lambda: classical.clusters(features), "ours": ours}
    if size.train > 20_000:
        del jobs["classical"]
    return _rows(f"Jaccard + DBSCAN, {size.train:,} images", jobs, rounds, baseline=next(iter(jobs)))


def expansion(name: str, dim: int, rounds: int) -> list[list[object]]:
    """Average query expansion of queries and gallery, ten neighbours."""
    features = np.concatenate(make(SIZES[name], dim)[:2])
    jobs = {
        # One number of each is compared: a few neighbours of thousands differ by rounding.
        "classical": lambda: np.abs(classical.expanded(features)).mean(),
        "ours": lambda: np.abs(expand(features, 10, 3.0)).mean(),
    }
    if len(features) > 30_000:
        del jobs["classical"]
    return _rows(f"expansion, {name} {dim}-d", jobs, rounds, baseline=next(iter(jobs)))


def roc(name: str, dim: int, rounds: int) -> list[list[object]]:
    """The exact ROC curve of all pairs, against ranking."""
    query, gallery, *ids = make(SIZES[name], dim)
    matches, distances = match_labels(*ids), CompiledDistances(query, gallery)
    jobs = {
        "ranking": lambda: distances.rank(matches).mean_ap,
        "ROC curve": lambda: roc_curve(distances, matches).auc,
    }
    return _rows(f"ROC, {name} {dim}-d", jobs, rounds, baseline="ranking", same=False)


JOBS = {"ranking": ranking, "reranking": reranking, "clustering": clustering, "expansion": expansion, "roc": roc}


def _rows(
    title: str,
    jobs: dict[str, Callable[[], object]],
    rounds: int,
    *,
    baseline: str,
    product: str = "",
    same: bool = True,
    measure: Callable[..., tuple[float, float, object]] = measured,
) -> list[list[object]]:
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    results: dict[str, object] = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            seconds, memory, results[name] = measure(job, warm=name != "classical")  # long jobs need no warm-up
            runs[name].append((seconds, memory))
    expected = results[baseline]
    for name, result in results.items():  # the bare product gives nothing
        if not same or result is None or expected is None:
            continue
        if not np.allclose(result, expected, atol=1e-4):
            raise AssertionError(f"{title}: {name} gives {result}, {baseline} {expected}")
    seconds = {name: statistics.median(run[0] for run in of) for name, of in runs.items()}
    memory = {name: max(run[1] for run in of) for name, of in runs.items()}
    return [
        [
            title,
            name,
            f"{seconds[name]:.3f}",
            f"{seconds[baseline] / seconds[name]:.1f}x",
            f"{seconds[name] / seconds[product]:.2f}" if product else "",
            f"{memory[name]:,.0f}",
        ]
        for name in jobs
    ]


def growth(dim: int, sizes: Sequence[int]) -> None:
    """Time and memory by gallery size; the features are memory-mapped."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for count in sizes:
            size = Size(256, count, max(100, count // 20), 10)
            path = Path(folder) / "gallery.npy"
            ids = _write(path, size, dim)
            query = np.load(path, mmap_mode="r")[: size.queries].copy()
            gallery = np.load(path, mmap_mode="r")
            figures.append(measured(lambda q=query, g=gallery, i=ids: rank_features(q, g, *i).mean_ap)[:2])
            del gallery
    rows = [[f"{n:,}", f"{s:.2f}", f"{m:,.0f}"] for n, (s, m) in zip(sizes, figures, strict=True)]
    print(tabulate(rows, ["gallery", "seconds", "MiB, mapped pages included"], disable_numparse=True))
    logs = np.log(sizes)
    for what, column in (("time", 0), ("memory", 1)):
        print(f"{what} grows as size^{np.polyfit(logs, np.log([f[column] for f in figures]), 1)[0]:.2f}")


def _write(path: Path, size: Size, dim: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (size.gallery, dim))
    for start in range(0, size.gallery, 20_000):
        count = min(20_000, size.gallery - start)
        rows[start : start + count] = rng.standard_normal((count, dim), dtype=np.float32)
    rows.flush()
    pids = rng.integers(0, size.people, size.gallery)
    cameras = rng.integers(0, size.cameras, size.gallery)
    return pids[: size.queries], pids, (cameras[: size.queries] + 1) % size.cameras, cameras


def main() -> None:
    """Parse the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=[*JOBS, "growth"], default=list(JOBS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["market", "msmt17", "cargo"])
    parser.add_argument("--dims", nargs="+", type=int, default=[768, 2304])
    parser.add_argument("--rounds", type=int, default=3)
    add_device(parser, default="cpu")
    parser.add_argument("--device-only", action="store_true", help="rank on --device, and nothing else")
    args = parser.parse_args()
    print(f"cpu, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds in turn")
    headers = ["job", "way", "seconds", "baseline / it", "it / product", "MiB beside features"]
    for job in [] if args.device_only else args.jobs:
        if job == "growth":
            growth(args.dims[0], (1000, 3000) if args.sizes == ["tiny"] else GROWTH)
            continue
        dims = args.dims if job == "ranking" else args.dims[:1]
        rows = [row for name in args.sizes for dim in dims for row in JOBS[job](name, dim, args.rounds)]
        print(tabulate(rows, headers, disable_numparse=True), flush=True)
    if args.device_only or (args.device.type != "cpu" and "ranking" in args.jobs):  # at last, see above
        sizes = [(name, dim) for name in args.sizes for dim in args.dims]
        rows = [row for name, dim in sizes for row in ranking_on(args.device, name, dim, args.rounds)]
        print(describe(args.device))
        print(tabulate(rows, [*headers[:-1], "MiB on the device"], disable_numparse=True), flush=True)
        for title, way, _, _, share, _ in rows:
            if way == "ours":
                figure(f"ranking, {title}: it / product", float(str(share)), goal="1.3 or less")


if __name__ == "__main__":
    with reported_as("evaluation"):
        main()
