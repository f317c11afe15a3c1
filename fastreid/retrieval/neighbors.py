"""Each image's nearest others by exact search, without the matrix of all distances; for re-ranking and expansion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.config import resolve_device
from fastreid.retrieval import compiled_engine
from fastreid.retrieval.checked import in_place
from fastreid.retrieval.coordinates import Space, space_of
from fastreid.retrieval.distances import MANY_PAIRS
from fastreid.retrieval.metric import as_rows, check_pair, metric_named
from fastreid.retrieval.torch_engine import TorchDistances
from fastreid.utils.counts import thread_count, whole_number
from fastreid.utils.errors import ArgumentError
from fastreid.utils.optional import optional
from fastreid.utils.progress import progress
from fastreid.utils.suggest import explain_choice

FAISS_EFFECT = "TEST.SEARCH auto finds the same neighbours without it (else: pip install faiss-cpu)"
_SEGMENT_ROWS = 8192  # images between two looks at the clock
_FAR = 8  # images that may be the farthest
_SAMPLE = 256  # images that are tried first
_MANY_UNSURE = 0.1
_BLOCK_BYTES = 64 << 20  # distances that torch holds at once


@dataclass(frozen=True)
class Neighbors:
    """Nearest first; equal distances by lower index."""

    indices: np.ndarray  # int32 [N, k]
    distances: np.ndarray  # float32 [N, k]
    farthest: np.ndarray | None  # float32 [N]: the greatest distance of each, if it was asked for


def nearest_neighbors(
    features: ArrayLike,
    k: int,
    *,
    gallery: ArrayLike | None = None,
    metric: str = "cosine",
    search: str = "auto",
    device: str | torch.device = "cpu",
    with_farthest: bool = False,
    num_threads: int | None = None,
) -> Neighbors:
    """The k nearest images of each, exactly; an image is its own first neighbour, but for copies of lower index.

    Args:
        features: [N, D], arrays or tensors.
        gallery: [G, D], where to search; `features` themselves if not said, and then each pair is multiplied once.
        metric: "cosine" or "euclidean" (squared).
        search: "compiled" (the library's kernels, on the CPU), "torch" (on `device`), "faiss" (`IndexFlat`, on the
            CPU; "auto" if it is not installed), or "auto": compiled if it is built and the device a CPU, else torch. Of
            equal distances at the end of a list torch and faiss may keep any.
        with_farthest: give each image's greatest distance, too.
        num_threads: of "compiled"; torch's if not said, or 0.

    Raises:
        ValueError: shapes, k outside of 1 … G or no whole number, unknown names, a device that this machine lacks, an
            impossible number of threads, a descriptor that is not finite.
    """
    threads = thread_count(num_threads)
    k = whole_number(k, "k")
    if search not in SEARCHES and search != "auto":
        raise ValueError(explain_choice("neighbour search (TEST.SEARCH)", search, ["auto", *SEARCHES]))
    if search == "faiss" and optional("faiss", FAISS_EFFECT) is None:
        search = "auto"
    device = torch.device(resolve_device(device, key="device"))
    if search == "auto":
        search = "compiled" if compiled_engine.is_available() and device.type == "cpu" else "torch"
    features, gallery = in_place(features), None if gallery is None else in_place(gallery)
    if gallery is None and (features.ndim != 2 or not features.shape[1]):
        raise ArgumentError(f"descriptors must be [N, D], one row for each image, got shape {list(features.shape)}")
    if gallery is not None:
        check_pair(features, gallery)
    many = len(features) if gallery is None else len(gallery)
    if not 1 <= k <= many:
        raise ArgumentError(f"k must lie between 1 and the number of images, {many}, got {k}")
    return SEARCHES[search](features, gallery, k, metric, device, with_farthest, threads)


def _compiled(
    features: ArrayLike,
    gallery: ArrayLike | None,
    k: int,
    metric: str,
    device: torch.device,
    with_farthest: bool,
    num_threads: int | None,
) -> Neighbors:
    from fastreid.retrieval.rank_cylib.rank_cy import NeighborLists, Queries, has_coarse

    rows = as_rows(features)
    others = rows if gallery is None else as_rows(gallery)
    check_pair(rows, others)
    space, threads = space_of(metric_named(metric), rows, others), thread_count(num_threads)
    rows, *scales = space.scales(space.read(rows), 0, "image", threads)
    if gallery is None:
        space.check_spread(scales[1])
    if gallery is None and has_coarse() and 4 * _rough_length(k) <= len(rows):
        found = _rough_then_exact(rows, scales, k, space, threads, with_farthest)
        if found:
            return found
    queries = Queries(rows, *scales, **compiled_engine.kernel_options(space))
    lists = NeighborLists(len(rows), k, with_farthest=with_farthest, num_threads=threads)
    greatest = np.zeros(1, np.float32)
    for start in _told(range(0, len(others), _SEGMENT_ROWS), len(rows) * len(others)):
        some = slice(start, start + _SEGMENT_ROWS)
        if gallery is None:
            own = rows[some], scales[0][some], scales[1][some]
        else:
            own = space.scales(space.read(others[some]), start, "gallery image", threads)
            greatest = np.maximum(greatest, own[2].max())
        queries.offer_to(lists, *own, start, each_pair_once=gallery is None)
    if gallery is not None:
        space.check_spread(greatest)
    return Neighbors(*lists.read())


def _rough_length(k: int) -> int:
    """Of the lists by rough distance: so long that almost all hold every image that may be among the k nearest."""
    return 2 * k + 12


def _rough_then_exact(
    rows: np.ndarray,
    scales: list[np.ndarray],
    k: int,
    space: Space,
    threads: int,
    with_farthest: bool,
) -> Neighbors | None:
    """The very same lists, from products of rounded numbers: a bound on their error says which pairs need an exact one.

    None where a sample says that too few lists could be told to be complete: images much alike, for instance.

    |<a, b> - <a', b'>| <= |a| |b - b'| + |b| |a - a'| + |a - a'| |b - b'|, and what summing in float32 adds.
    """
    from fastreid.retrieval.rank_cylib.rank_cy import NeighborLists, Queries, rounded_pairs

    factors, offsets = scales
    pairs, lengths, lost = rounded_pairs(rows, factors, space.centre, threads)
    slope, options = space.metric.slope, compiled_engine.kernel_options(space)
    # Both sums are chains of at most D rounded steps: three times that is ample. Numbers below float32's normal ones
    # count as zero. Then the distance itself is rounded.
    longest, most_lost, unit, dim = lengths.max(), lost.max(), 2.0**-24, rows.shape[1]
    of_product = lengths * most_lost + longest * lost + lost * most_lost + 3 * dim * unit * lengths * longest
    of_product += dim * 2.0**-124 * (1 + lengths + longest)
    of_sum = 8 * unit * (np.abs(offsets) + np.abs(offsets).max() + abs(slope) * lengths * longest)
    slack = 2 * (abs(slope) * of_product + of_sum)

    sample = slice(0, None, max(1, len(rows) // _SAMPLE))
    few = Queries(
        *(np.ascontiguousarray(values[sample]) for values in (pairs, factors, offsets)), **options, coarse=True
    )
    lists = NeighborLists(len(pairs[sample]), _rough_length(k), with_farthest=False, num_threads=threads)
    few.offer_to(lists, pairs, factors, offsets, 0)
    distances = lists.read()[1]
    if (distances[:, -1] <= distances[:, k - 1] + slack[sample]).mean() > _MANY_UNSURE:
        return None
    rough = Queries(pairs, factors, offsets, **options, coarse=True)
    num_far = _FAR if with_farthest else 0
    lists = NeighborLists(len(rows), _rough_length(k), with_farthest=False, num_threads=threads, num_far=num_far)
    for start in _told(range(0, len(rows), _SEGMENT_ROWS), len(rows) ** 2):
        some = slice(start, start + _SEGMENT_ROWS)
        rough.offer_to(lists, pairs[some], factors[some], offsets[some], start, each_pair_once=True)
    queries = Queries(rows, factors, offsets, **options, only_pairs=True)

    def exact_of(images: np.ndarray, chosen: np.ndarray, missing: float) -> np.ndarray:
        """Exact distances of the chosen entries of lists, `missing` elsewhere."""
        exact = np.full(images.shape, missing, dtype=np.float32)
        row, place = (np.ascontiguousarray(part) for part in np.nonzero(chosen))
        near = images[row, place].astype(np.int64)
        exact[row, place] = queries.pairs(rows, factors, offsets, row, near, threads)
        return exact

    images, distances, _ = lists.read()
    limit = distances[:, k - 1] + slack
    is_sure, farthest = distances[:, -1] > limit, None
    if with_farthest:
        far, far_distances = lists.read_far()
        far_limit = far_distances[:, 0] - slack
        is_sure &= far_distances[:, -1] < far_limit
        chosen = (far_distances >= far_limit[:, None]) & is_sure[:, None]
        farthest = exact_of(far, chosen, -np.inf).max(axis=1)
    exact = exact_of(images, (distances <= limit[:, None]) & is_sure[:, None], np.inf)
    order = np.lexsort((images, exact), axis=1)[:, :k]
    images, exact = np.take_along_axis(images, order, 1), np.take_along_axis(exact, order, 1)
    unsure = np.flatnonzero(~is_sure)
    for some in np.array_split(unsure, -(-len(unsure) // _SEGMENT_ROWS)) if len(unsure) else []:
        few = Queries(rows[some], factors[some], offsets[some], **options)
        lists = NeighborLists(len(some), k, with_farthest=with_farthest, num_threads=threads)
        few.offer_to(lists, rows, factors, offsets, 0)
        images[some], exact[some], of_some = lists.read()
        if with_farthest:
            farthest[some] = of_some
    return Neighbors(images, exact, farthest)


def _torch(
    features: ArrayLike,
    gallery: ArrayLike | None,
    k: int,
    metric: str,
    device: torch.device,
    with_farthest: bool,
    num_threads: int | None,
) -> Neighbors:
    others = features if gallery is None else gallery
    if not len(features):
        return Neighbors(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, np.float32))
    distances = TorchDistances(features, others, metric=metric, device=device, memory_budget=3 * _BLOCK_BYTES / 2**20)
    indices, near, farthest = [], [], []
    for first in _told(range(0, len(features), distances.rows_at_once), len(features) * len(others)):
        block = distances.block(first, min(first + distances.rows_at_once, len(features)))
        values, columns = block.topk(k, dim=1, largest=False)
        indices.append(columns.int().cpu().numpy())
        near.append(values.cpu().numpy())
        farthest.append(block.amax(dim=1).cpu().numpy())
    return _sorted(np.concatenate(indices), np.concatenate(near), np.concatenate(farthest) if with_farthest else None)


def _faiss(
    features: ArrayLike,
    gallery: ArrayLike | None,
    k: int,
    metric: str,
    device: torch.device,
    with_farthest: bool,
    num_threads: int | None,
) -> Neighbors:
    import faiss

    rows = as_rows(features)
    others = rows if gallery is None else as_rows(gallery)
    check_pair(rows, others)
    space = space_of(metric_named(metric), rows, others)
    blocked = TorchDistances(rows, others, metric=metric)
    *query, offsets = space.scales(space.read(rows), 0, "image" if gallery is None else "query image")
    query = space.placed(*query)
    if gallery is not None:
        *others, offsets = space.scales(space.read(others), 0, "gallery image")
        others = space.placed(*others)
    space.check_spread(offsets)
    index = (faiss.IndexFlatL2 if space.is_centred else faiss.IndexFlatIP)(query.shape[1])
    index.add(query if gallery is None else others)
    near, indices = index.search(query, k)
    near = -space.metric.slope / 2 * near if space.is_centred else 1 - near
    farthest = [np.asarray(block).max(axis=1) for _, block in blocked.blocks()] if with_farthest else None
    return _sorted(indices.astype(np.int32), near, None if farthest is None else np.concatenate(farthest))


SEARCHES = {"compiled": _compiled, "torch": _torch, "faiss": _faiss}


def _sorted(indices: np.ndarray, distances: np.ndarray, farthest: np.ndarray | None) -> Neighbors:
    order = np.lexsort((indices, distances))
    return Neighbors(np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1), farthest)


def _told(starts: range, pairs: int) -> object:
    return progress(starts, len(starts), "searching neighbours") if pairs > MANY_PAIRS else starts
