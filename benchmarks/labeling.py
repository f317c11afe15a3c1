#!/usr/bin/env python
"""Times the labelling of an epoch without person labels against the classical implementation, in one run.

    python benchmarks/labeling.py [--sizes market msmt17] [--rounds 1] [--eps 0.5] [--device cuda]

From features of all training images and of three parts of each to labels (Jaccard distances, DBSCAN) and consistency
scores. The classical way is that of classical.py: dense Jaccard distances, and scores image by image in Python. Each
way runs in a fork of this process; memory is its peak beside the features. Labels and scores of both are compared.
With --device the library also runs on a GPU, where its memory is the peak; --device-only skips the other ways.
"""

import argparse
import functools
import os
import time
from dataclasses import dataclass

from fastreid.labeling.clustering import Clustering, count_of
from fastreid.labeling.purity import purity_of
from fastreid.methods.pisl.consistency import consistency_scores
from fastreid.utils.errors import reported_as

import numpy as np
import torch
from tabulate import tabulate

import classical
from evaluation import measured, measured_on
from figures import add_device, describe, figure

PARTS, DIM, LATENT, NEIGHBORS = 3, 2048, 96, 20
HEADERS = [
    "size",
    "way",
    "labels, s",
    "scores, s",
    "both, s",
    "classical / it",
    "MiB beside features",
    "clusters found",
]


@dataclass(frozen=True)
class Size:
    """Size of a training set."""

    images: int
    people: int
    cameras: int
    dim: int = DIM
    has_classical: bool = True


SIZES = {
    "market": Size(12_936, 751, 6),
    "msmt17": Size(32_621, 1041, 15, has_classical=False),  # its matrices do not fit into memory
    "tiny": Size(300, 20, 3, dim=64),
}


@dataclass(frozen=True)
class Found:
    """Results of one way: labels [N], scores [N, P], and the seconds of each."""

    labels: np.ndarray
    scores: np.ndarray
    label_seconds: float
    score_seconds: float


def make(size: Size, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of people under cameras, for the whole images and for each part, and the people.

    As features of trained networks, they vary in far fewer directions than they have numbers: LATENT, plus noise.
    """
    rng = np.random.default_rng(seed)
    people, cameras = rng.integers(0, size.people, size.images), rng.integers(0, size.cameras, size.images)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    def features() -> np.ndarray:
        spread = rng.uniform(0.4, 1.2, (size.images, 1)).astype(np.float32)
        latent = normal(size.people, LATENT)[people] + np.float32(0.3) * normal(size.cameras, LATENT)[cameras]
        latent += spread * normal(size.images, LATENT)
        rows = latent @ normal(LATENT, size.dim) / np.float32(LATENT**0.5)
        rows += np.float32(0.2) * normal(size.images, size.dim)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return features(), np.stack([features() for _ in range(PARTS)], axis=1), people


def ours(features: np.ndarray, parts: np.ndarray, eps: float, device: str = "cpu") -> Found:
    """The library; on a GPU by the search of torch."""
    options = {"search": "auto" if device == "cpu" else "torch", "device": device}
    start = time.perf_counter()
    rows, clustering = torch.from_numpy(features), Clustering(eps=eps, **options)
    nearest = clustering.neighbors(rows, NEIGHBORS + 1)  # once for both, as `Relabel` does
    labels = clustering.find(rows, torch.zeros(len(features)), nearest)
    middle = time.perf_counter()
    scores = consistency_scores(features, parts, k=NEIGHBORS, nearest=nearest, **options)
    return Found(labels.numpy(), scores.cpu().numpy(), middle - start, time.perf_counter() - middle)


def by_loops(features: np.ndarray, parts: np.ndarray, eps: float) -> Found:
    """The classical way."""
    start = time.perf_counter()
    labels = classical.clusters(features, eps=eps)
    middle = time.perf_counter()
    scores = classical.consistency(features, parts)
    return Found(labels, scores, middle - start, time.perf_counter() - middle)


def on_device(name: str, args: argparse.Namespace) -> list[list[object]]:
    """Table rows of one size on --device, in this process, as a fork cannot use CUDA."""
    features, parts, people = make(SIZES[name])
    job = functools.partial(ours, features, parts, args.eps, str(args.device))
    runs = [measured_on(args.device, job, warm=number == 0) for number in range(args.rounds)]
    best = min(runs, key=lambda run: run[0])
    figure(f"labelling, {name} on {args.device.type}: labels and scores", best[0], " s")
    return [_row(name, f"ours, {args.device}", best, None, people)]


def compared(name: str, eps: float, rounds: int) -> list[list[object]]:
    """Table rows of one size, each of the fastest of its rounds.

    Raises:
        AssertionError: the two ways differ.
    """
    size = SIZES[name]
    features, parts, people = make(size)
    ways = {"classical": by_loops, "ours": ours} if size.has_classical else {"ours": ours}
    best: dict[str, tuple[float, float, Found]] = {}
    for _ in range(rounds):
        for way, job in ways.items():
            run = measured(lambda job=job: job(features, parts, eps))
            best[way] = min(best.get(way, run), run, key=lambda run: run[0])
    if "classical" in best:
        _check(best["ours"][2], best["classical"][2])
    return [_row(name, way, run, best.get("classical"), people) for way, run in best.items()]


def _check(found: Found, expected: Found) -> None:
    differ = float((found.labels != expected.labels).mean())
    error = float(np.abs(found.scores - expected.scores).max(axis=1).mean())
    if differ > 1e-3 or error > 1e-3:  # a few neighbours of thousands differ by rounding
        raise AssertionError(f"{differ:.2%} of the labels differ, scores differ by {error:.1e}")
    print(f"{differ:.2%} of the labels differ; scores differ by {error:.1e} in the mean")


def _row(name: str, way: str, run: tuple, classical_run: tuple | None, people: np.ndarray) -> list[object]:
    seconds, memory, found = run
    purity = purity_of(torch.from_numpy(found.labels), torch.from_numpy(people))
    return [
        name,
        way,
        f"{found.label_seconds:.2f}",
        f"{found.score_seconds:.2f}",
        f"{seconds:.2f}",
        f"{classical_run[0] / seconds:.1f}" if classical_run else "",
        f"{memory:,.0f}",
        f"{count_of(torch.from_numpy(found.labels))}, {(found.labels < 0).sum()} outliers, NMI {purity.nmi:.3f}",
    ]


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["market", "msmt17"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--eps", type=float, default=0.5, help="of DBSCAN")
    add_device(parser, default="cpu")
    parser.add_argument("--device-only", action="store_true", help="label on --device, and nothing else")
    args = parser.parse_args()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, load before the run {load:.1f}")
    for name in [] if args.device_only else args.sizes:
        print(tabulate(compared(name, args.eps, args.rounds), HEADERS, disable_numparse=True), flush=True)
    if args.device_only or args.device.type != "cpu":  # at last: what used CUDA cannot be forked
        rows = [row for name in args.sizes for row in on_device(name, args)]
        print(describe(args.device))
        print(tabulate(rows, HEADERS, disable_numparse=True), flush=True)


if __name__ == "__main__":
    with reported_as("labeling"):
        main()
