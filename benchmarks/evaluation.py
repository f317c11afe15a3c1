#!/usr/bin/env python
"""Times evaluation from features against the classical way, in one process and with the same number of threads.

    python benchmarks/evaluation.py [--sizes market msmt17 cargo] [--dims 768 2304] [--rounds 3] [--growth]

The classical way: the matrix of all distances, a full argsort of every row, a scan of every sorted row. Ours: the
library's. The bare product: torch's matrix product in panels of 512 queries, and nothing else. They take turns; times
are medians, memory is the peak beside the features. With --growth: ours over galleries of 10^4 to 10^6 images that lie
in a file, and the exponents of time and memory.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from fastreid.evaluation import blocked, fused
from fastreid.evaluation.rank import rank_queries

PANEL = 512


@dataclass(frozen=True)
class Size:
    """How large a benchmark is; gallery images of `nobody` are distractors."""

    queries: int
    gallery: int
    people: int
    cameras: int
    nobody: int = 0


SIZES = {
    "market": Size(3368, 15_913, 751, 6, nobody=2798),
    "msmt17": Size(11_659, 82_161, 3060, 15),
    "cargo": Size(312, 50_712, 2500, 13),
}

Protocol = tuple[np.ndarray, ...]


def make(size: Size, dim: int, seed: int = 0) -> Protocol:
    """Clustered unit-length features and ids: a common part, a person's, and noise that differs by image."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((size.people, dim), dtype=np.float32)
    q_pids = rng.integers(0, size.people, size.queries)
    g_pids = rng.integers(0, size.people, size.gallery)
    g_pids[: size.nobody] = -2

    def features(pids: np.ndarray) -> np.ndarray:
        rows = rng.standard_normal((len(pids), dim), dtype=np.float32)
        rows *= rng.uniform(2, 5, (len(pids), 1)).astype(np.float32)
        rows += centres[pids] + 0.5
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    cameras = [rng.integers(0, size.cameras, n) for n in (size.queries, size.gallery)]
    return features(q_pids), features(g_pids), q_pids, g_pids, *cameras


def distance_matrix(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    q, g = torch.from_numpy(query), torch.from_numpy(gallery)
    return (1 - q @ g.T).numpy()


def classical_rank(distances: np.ndarray, q_pids, g_pids, q_cams, g_cams) -> float:
    """mAP by a full sort and a scan."""
    order = np.argsort(distances, axis=1)
    aps = []
    for row, pid, cam in zip(order, q_pids, q_cams, strict=True):
        right = g_pids[row] == pid
        hits = right[~(right & (g_cams[row] == cam))]
        places = np.flatnonzero(hits)
        if len(places):
            aps.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    return float(np.mean(aps))


def classical(data: Protocol) -> float:
    return classical_rank(distance_matrix(*data[:2]), *data[2:])


def product(data: Protocol) -> None:
    q, g = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    out = torch.empty(PANEL, len(g))
    for start in range(0, len(q), PANEL):
        rows = q[start : start + PANEL]
        torch.mm(rows, g.T, out=out[: len(rows)])


def ours(data: Protocol) -> float:
    return fused.rank_features(*data).mean_ap


def library_product(data: Protocol) -> float:
    """Ours where the processor has no kernel of its own: torch's panels."""
    tensors = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    return blocked.rank_features(*tensors, *data[2:], metric="cosine", memory_budget=400).mean_ap


def measured(job: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and MiB of memory above what was there before (Linux; nan elsewhere)."""
    before = _memory(reset=True)
    start = time.perf_counter()
    job()
    seconds = time.perf_counter() - start
    return seconds, _memory() - before


def _memory(reset: bool = False) -> float:
    """Peak resident MiB since the last reset."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def compare(name: str, dim: int, rounds: int) -> list[list[object]]:
    """Table rows of one size: the whole evaluation, then ranking alone from a ready matrix."""
    data = make(SIZES[name], dim)
    jobs = {
        "classical": lambda: classical(data),
        "ours": lambda: ours(data),
        "ours, torch's panels": lambda: library_product(data),
        "bare product": lambda: product(data),
    }
    rows = _rows(f"{name} {dim}-d", jobs, rounds, baseline="classical", product="bare product")
    matrix = distance_matrix(*data[:2])
    ids = data[2:]
    jobs = {
        "classical ranking": lambda: classical_rank(matrix, *ids),
        "our ranking": lambda: rank_queries(matrix, *ids).mean_ap,
    }
    return rows + _rows(f"{name}, ready matrix", jobs, rounds, baseline="classical ranking")


def _rows(
    title: str, jobs: dict[str, Callable[[], object]], rounds: int, *, baseline: str, product: str = ""
) -> list[list[object]]:
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    figures = {name: job() for name, job in jobs.items() if name not in (baseline, product)}  # and a warm-up
    for _ in range(rounds):
        for name, job in jobs.items():
            runs[name].append(measured(job))
    expected = jobs[baseline]() if rounds else None
    for name, figure in figures.items():
        if expected is not None and abs(figure - expected) > 1e-4:
            raise AssertionError(f"{title}: {name} gives mAP {figure}, {baseline} {expected}")
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


def growth(dim: int) -> None:
    """Time and memory over the gallery's size; the features lie in a file and are mapped."""
    sizes, figures = (10_000, 32_000, 100_000, 320_000, 1_000_000), []
    with tempfile.TemporaryDirectory() as folder:
        for count in sizes:
            size = Size(256, count, max(100, count // 20), 10)
            path = Path(folder) / "gallery.npy"
            ids = _write(path, size, dim)
            query = np.load(path, mmap_mode="r")[: size.queries].copy()
            gallery = np.load(path, mmap_mode="r")
            figures.append(measured(lambda q=query, g=gallery, i=ids: fused.rank_features(q, g, *i)))
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
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--dims", nargs="+", type=int, default=[768, 2304])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", action="store_true")
    args = parser.parse_args()
    print(f"cpu, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds in turn")
    if args.growth:
        growth(args.dims[0])
        return
    rows = [row for name in args.sizes for dim in args.dims for row in compare(name, dim, args.rounds)]
    headers = ["size", "way", "seconds", "classical / it", "it / product", "MiB beside features"]
    print(tabulate(rows, headers, disable_numparse=True))


if __name__ == "__main__":
    main()
