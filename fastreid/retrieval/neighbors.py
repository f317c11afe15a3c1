"""Exact nearest neighbours of every image, without a matrix of all distances; for re-ranking and expansion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.retrieval import compiled_engine
from fastreid.retrieval.descriptors import Rows, check_pair, rows_in_place, rows_on_cpu
from fastreid.retrieval.distances import LOGGED_PAIRS
from fastreid.retrieval.matrix_search import aligned_rows, has_matrix_unit, offer_all
from fastreid.retrieval.metric import FittedMetric, fit_metric, metric_named
from fastreid.retrieval.torch_engine import TorchDistances
from fastreid.utils.counts import thread_count, whole_number
from fastreid.utils.devices import usable_device
from fastreid.utils.errors import ArgumentError
from fastreid.utils.optional import optional
from fastreid.utils.progress import progress
from fastreid.utils.suggest import explain_choice

FAISS_EFFECT = "TEST.SEARCH auto finds the same neighbours without it (else: pip install faiss-cpu)"
_SEGMENT_ROWS = 8192  # images that are searched together
_NUM_FAR = 8  # candidates for the farthest image
_SAMPLE = 256  # images whose coarse lists are tried first
_MOST_UNSURE = {"bytes": 0.03, "pairs": 0.1, "matrix": 0.1}  # share of incomplete lists above which it does not pay
_MOST_BYTES = 2**15  # numbers of a row for which sums of products of bytes fit 32 bits
_BLOCK_BYTES = 64 << 20  # distances that torch holds together


@dataclass(frozen=True)
class Neighbors:
    """The k nearest images of N images, nearest first; equal distances by lower index.

    Attributes:
        indices: int32 [N, k].
        distances: float32 [N, k].
        farthest: float32 [N], the greatest distance of each image, or None if it was not asked for.
    """

    indices: np.ndarray
    distances: np.ndarray
    farthest: np.ndarray | None


@dataclass(frozen=True)
class _Search:
    """Checked arguments of `nearest_neighbors`; a gallery of None is the features themselves."""

    features: Rows
    gallery: Rows | None
    k: int
    metric: str
    device: torch.device
    with_farthest: bool
    num_threads: int

    def fitted(self) -> tuple[FittedMetric, Rows, Rows]:
        """Return the metric, and the rows of both sides on the CPU."""
        rows = rows_on_cpu(self.features)
        others = rows if self.gallery is None else rows_on_cpu(self.gallery)
        check_pair(rows, others)
        return fit_metric(metric_named(self.metric), rows, others), rows, others


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
    """Find the k nearest images of each image, exactly.

    An image is its own first neighbour, unless copies of it have lower indices.

    Args:
        features: descriptors [N, D], an array or a tensor.
        k: number of neighbours.
        gallery: descriptors [G, D] to search; default: `features` themselves, and then each pair is multiplied once.
        metric: "cosine" or "euclidean" (squared).
        search: "compiled" (the library's kernels, on the CPU), "torch" (on `device`), "faiss" (`IndexFlat`, on the
            CPU; "auto" if it is not installed), or "auto": compiled if it is built and the device a CPU, else torch. Of
            equal distances at the end of a list torch and faiss may keep any.
        device: device of "torch".
        with_farthest: also return each image's greatest distance.
        num_threads: number of threads of "compiled"; default, or 0: torch's number.

    Raises:
        ValueError: wrong shapes, k outside of 1 to G or not a whole number, unknown names, a device that this machine
            lacks, an invalid number of threads, a descriptor that is not finite.
    """
    threads = thread_count(num_threads)
    k = whole_number(k, "k")
    if search not in SEARCHES and search != "auto":
        raise ValueError(explain_choice("neighbour search (TEST.SEARCH)", search, ["auto", *SEARCHES]))
    if search == "faiss" and optional("faiss", FAISS_EFFECT) is None:
        search = "auto"
    device = torch.device(usable_device(device))
    if search == "auto":
        search = "compiled" if compiled_engine.is_available() and device.type == "cpu" else "torch"
    rows, others = rows_in_place(features), None if gallery is None else rows_in_place(gallery)
    if others is None and (rows.ndim != 2 or not rows.shape[1]):
        raise ArgumentError(f"descriptors must be [N, D], one row for each image, got shape {list(rows.shape)}")
    if others is not None:
        check_pair(rows, others)
    num_images = len(rows) if others is None else len(others)
    if not 1 <= k <= num_images:
        raise ArgumentError(f"k must lie between 1 and the number of images, {num_images}, got {k}")
    return SEARCHES[search](_Search(rows, others, k, metric, device, with_farthest, threads))


def _search_compiled(search: _Search) -> Neighbors:
    from fastreid.retrieval.rank_cylib.rank_cy import NeighborLists, Queries

    metric, queries, others = search.fitted()
    rows, *scales = metric.scales(metric.read(queries), 0, "image", search.num_threads)
    is_self = search.gallery is None
    if is_self:
        metric.check_spread(scales[1])
    for kind in _coarse_kinds(search) if is_self else ():
        if 4 * _coarse_length(search.k, kind) <= len(rows):
            coarse = _CoarseSearch(rows, scales, metric, search, kind)
            if coarse.is_worthwhile():
                return coarse.search()
    packed = Queries(rows, *scales, **compiled_engine.kernel_options(metric))
    lists = NeighborLists(len(rows), search.k, with_farthest=search.with_farthest, num_threads=search.num_threads)
    greatest = np.zeros(1, np.float32)
    for start in _with_progress(range(0, len(others), _SEGMENT_ROWS), len(rows) * len(others)):
        part = slice(start, start + _SEGMENT_ROWS)
        if is_self:
            segment = rows[part], scales[0][part], scales[1][part]
        else:
            segment = metric.scales(metric.read(others[part]), start, "gallery image", search.num_threads)
            greatest = np.maximum(greatest, segment[2].max())
        packed.offer_to(lists, *segment, start, each_pair_once=is_self)
    if not is_self:
        metric.check_spread(greatest)
    return Neighbors(*lists.read())


def _coarse_kinds(search: _Search) -> list[str]:
    """Return the kinds of rounded numbers that this CPU multiplies fast, the fastest first."""
    from fastreid.retrieval.rank_cylib.rank_cy import has_coarse

    if has_matrix_unit() and search.num_threads == torch.get_num_threads():  # which it uses
        return ["matrix", *(["pairs"] if has_coarse("pairs") else [])]
    # Few of the farthest images are within the error of bytes.
    kinds = ["pairs"] if search.with_farthest or search.features.shape[1] > _MOST_BYTES else ["bytes", "pairs"]
    return [kind for kind in kinds if has_coarse(kind)]


def _coarse_length(k: int, kind: str) -> int:
    """Return the length of coarse lists; almost all of them then hold every image that may be among the k nearest."""
    return 4 * k + 32 if kind == "bytes" else 2 * k + 12


class _CoarseSearch:
    """The same lists, from products of rounded numbers.

    A bound on the rounding error says which pairs need an exact distance:
    |<a, b> - <a', b'>| <= |a| |b - b'| + |b| |a - a'| + |a - a'| |b - b'|, plus the error of a sum in float32.

    Kinds are "pairs" of bfloat16, which the library's kernel multiplies; "bytes", twice as fast and less exact; and
    "matrix", bfloat16 in the matrix unit of the CPU, three times as fast as pairs, with products that are rounded, too.
    """

    def __init__(
        self, rows: np.ndarray, scales: list[np.ndarray], metric: FittedMetric, search: _Search, kind: str
    ) -> None:
        from fastreid.retrieval.rank_cylib.rank_cy import Queries, rounded_rows

        self._rows, self._k, self._with_farthest = rows, search.k, search.with_farthest
        self._factors, self._offsets = scales
        self._threads, self._options = search.num_threads, compiled_engine.kernel_options(metric)
        self._metric, self._kind = metric, kind
        unit = _byte_unit(metric, rows, self._factors) if kind == "bytes" else 0.0
        together = 4 if kind == "bytes" else 2
        self._rounded = aligned_rows(len(rows), -(-rows.shape[1] // together))
        lengths, residuals = rounded_rows(rows, self._factors, metric.centre, unit, self._rounded, self._threads)
        self._coarse_slope = metric.metric.slope * (unit * unit if kind == "bytes" else 1.0)
        self._reach = np.inf
        offsets = np.abs(self._offsets)
        self._of_rows = lengths, residuals, offsets
        # The greatest error of each image's coarse distances.
        self._error = self._error_of(
            lengths, residuals, lengths.max(initial=0), residuals.max(initial=0), offsets + offsets.max(initial=0)
        )
        self._exact = Queries(rows, self._factors, self._offsets, **self._options, only_pairs=True)

    def _error_of(self, length: Any, residual: Any, lengths: Any, residuals: Any, offsets: Any) -> Any:
        """Return a bound on the error of coarse distances, from what `rounded_rows` returns of both images of pairs."""
        # Both sums are chains of at most D rounded steps: three times that is ample. Numbers below float32's normal
        # ones count as zero. Then the distance itself is rounded.
        unit, dim, slope = 2.0**-24, self._rows.shape[1], abs(self._metric.metric.slope)
        most = (length + residual) * (lengths + residuals)  # of a product
        of_product = length * residuals + lengths * residual + residual * residuals + 3 * dim * unit * most
        of_product += dim * 2.0**-124 * (1 + length + lengths)
        if self._kind == "matrix":  # half a unit of the last of 8 bits, and a little more for the errors above
            of_product += 1.01 * 2.0**-8 * most
        return slope * of_product + 8 * unit * (offsets + slope * most)

    def is_worthwhile(self) -> bool:
        """Return whether enough lists of a sample are complete; they are not if images are much alike, for instance.

        The sample also tells how far lists must reach. Images beyond are then not offered to any list.
        """
        sample = _sample(len(self._rows))
        lists = self._lists(len(self._rounded[sample]))
        self._offer(lists, sample, each_pair_once=False)
        distances = lists.read()[1]
        limit = distances[:, self._k - 1] + self._error[sample]
        self._reach = float(np.float32((limit + 0.1 * self._error[sample]).max()))
        return (distances[:, -1] <= limit).mean() <= _MOST_UNSURE[self._kind]

    def search(self) -> Neighbors:
        """Find the neighbours of all images."""
        lists = self._lists(len(self._rows), num_far=_NUM_FAR if self._with_farthest else 0, reach=self._reach)
        self._offer(lists, slice(None), each_pair_once=True)
        images, distances, _ = lists.read()
        is_there, is_first = images >= 0, np.arange(images.shape[1]) < self._k
        exact = self._exact_of(images, is_there & is_first, np.inf)
        limit = exact[:, : self._k].max(axis=1).astype(np.float64)  # the k-th nearest is not farther
        last = np.where(is_there[:, -1], distances[:, -1], self._reach)
        is_sure, farthest = last > limit + self._error, None
        if self._with_farthest:
            far, far_distances = lists.read_far()
            far_limit = far_distances[:, 0] - 2 * self._error
            is_sure &= far_distances[:, -1] < far_limit
            chosen = (far_distances >= far_limit[:, None]) & is_sure[:, None]
            farthest = self._exact_of(far, chosen, -np.inf).max(axis=1)
        del lists  # more memory than all that follows
        others = (distances <= (limit + self._error)[:, None]) & is_sure[:, None] & ~is_first
        row, place = np.nonzero(others)
        others[row, place] = self._may_be_nearer(row, place, images, distances, limit)
        exact = np.minimum(exact, self._exact_of(images, others, np.inf))
        found = Neighbors(*_nearest_of(images, exact, self._k), farthest)
        self._complete(found, np.flatnonzero(~is_sure))
        return found

    def _may_be_nearer(
        self, row: np.ndarray, place: np.ndarray, images: np.ndarray, distances: np.ndarray, limit: np.ndarray
    ) -> np.ndarray:
        """Return whether entries of lists, at rows and places, may be at most as far as the limit of their row."""
        near = images[row, place]
        lengths, residuals, offsets = self._of_rows
        of_both = lengths[row], residuals[row], lengths[near], residuals[near], offsets[row] + offsets[near]
        return distances[row, place] <= limit[row] + self._error_of(*of_both)

    def _offer(self, lists: Any, part: slice | np.ndarray, *, each_pair_once: bool) -> None:
        """Offer all images to the lists of a part of them; with `each_pair_once` the part is all."""
        from fastreid.retrieval.rank_cylib.rank_cy import Queries

        rounded, factors, offsets = self._rounded, self._factors, self._offsets
        queries = [np.ascontiguousarray(values[part]) for values in (rounded, factors, offsets)]
        options = {"slope": self._coarse_slope, "lowest": self._options["lowest"]}
        if self._kind == "matrix":
            offer_all(lists, queries[0], rounded, queries[2], offsets, **options, each_pair_once=each_pair_once)
            return
        packed = Queries(*queries, **options, coarse=self._kind)
        for start in _with_progress(range(0, len(rounded), _SEGMENT_ROWS), len(queries[0]) * len(rounded)):
            segment = slice(start, start + _SEGMENT_ROWS)
            packed.offer_to(
                lists, rounded[segment], factors[segment], offsets[segment], start, each_pair_once=each_pair_once
            )

    def _lists(self, num_images: int, num_far: int = 0, reach: float = np.inf) -> Any:
        from fastreid.retrieval.rank_cylib.rank_cy import NeighborLists

        options = {"with_farthest": False, "num_threads": self._threads, "num_far": num_far, "reach": reach}
        return NeighborLists(num_images, _coarse_length(self._k, self._kind), **options)

    def _exact_of(self, images: np.ndarray, chosen: np.ndarray, missing: float) -> np.ndarray:
        """Return the exact distances of the chosen entries of lists, and `missing` elsewhere."""
        exact = np.full(images.shape, missing, dtype=np.float32)
        row, place = (np.ascontiguousarray(part) for part in np.nonzero(chosen))
        near = images[row, place].astype(np.int64)
        exact[row, place] = self._exact.pairs(self._rows, self._factors, self._offsets, row, near, self._threads)
        return exact

    def _complete(self, found: Neighbors, unsure: np.ndarray) -> None:
        """Overwrite the lists that may be incomplete by those of an exact search."""
        from fastreid.retrieval.rank_cylib.rank_cy import NeighborLists, Queries

        for part in np.array_split(unsure, -(-len(unsure) // _SEGMENT_ROWS)) if len(unsure) else []:
            queries = Queries(self._rows[part], self._factors[part], self._offsets[part], **self._options)
            lists = NeighborLists(len(part), self._k, with_farthest=self._with_farthest, num_threads=self._threads)
            queries.offer_to(lists, self._rows, self._factors, self._offsets, 0)
            found.indices[part], found.distances[part], farthest = lists.read()
            if found.farthest is not None:
                found.farthest[part] = farthest


def _nearest_of(images: np.ndarray, distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k least distances of each row, least first, and their images, int32; equal ones by lower image."""
    # One number that has the order of both is sorted several times as fast.
    bits = (distances + 0.0).view(np.uint32)  # no minus zero
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = np.partition(ordered.astype(np.uint64) << np.uint64(32) | images.astype(np.uint64), k - 1, axis=1)[:, :k]
    keys.sort(axis=1)
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered)
    return keys.astype(np.uint32).view(np.int32), bits.view(np.float32)


def _sample(num_images: int) -> np.ndarray:
    """Return some images: not every n-th one, as an order of the images may have such a period."""
    return np.sort(np.random.default_rng(0).choice(num_images, min(_SAMPLE, num_images), replace=False))


def _byte_unit(metric: FittedMetric, rows: np.ndarray, factors: np.ndarray) -> float:
    """Return the unit of bytes for which a sample of rows loses least by rounding and by the limit of 127 units.

    Its square, which is a factor of distances, is a normal number of float32 in any case.
    """
    sample = _sample(len(rows))
    values = metric.centred(rows[sample], factors[sample])
    most, usual = float(np.abs(values).max(initial=0)), float(np.sqrt(np.square(values, dtype=np.float64).mean()))
    units = [np.float32(max(min(most, times * usual) / 127, 2.0**-60)) for times in (3, 4, 5, 7, 10, np.inf)]
    rounded = [unit * np.clip(np.rint(values / unit), -127, 127) for unit in units]
    lost = [np.square(values - near, dtype=np.float64).sum() for near in rounded]
    return float(units[int(np.argmin(lost))])  # as the kernel has it


def _search_torch(search: _Search) -> Neighbors:
    rows, k = search.features, search.k
    others = rows if search.gallery is None else search.gallery
    if not len(rows):
        return Neighbors(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, np.float32))
    budget = 3 * _BLOCK_BYTES / 2**20
    distances = TorchDistances(rows, others, metric=search.metric, device=search.device, memory_budget=budget)
    indices, near, farthest = [], [], []
    for first in _with_progress(range(0, len(rows), distances.rows_at_once), len(rows) * len(others)):
        block = distances.block(first, min(first + distances.rows_at_once, len(rows)))
        values, columns = block.topk(k, dim=1, largest=False)
        indices.append(columns.int().cpu().numpy())
        near.append(values.cpu().numpy())
        farthest.append(block.amax(dim=1).cpu().numpy())
    greatest = np.concatenate(farthest) if search.with_farthest else None
    return _sorted(np.concatenate(indices), np.concatenate(near), greatest)


def _search_faiss(search: _Search) -> Neighbors:
    import faiss

    metric, rows, others = search.fitted()
    is_self = search.gallery is None
    distances = TorchDistances(rows, others, metric=search.metric)
    features, factors, offsets = metric.scales(metric.read(rows), 0, "image" if is_self else "query image")
    queries = indexed = metric.centred(features, factors)
    if not is_self:
        features, factors, offsets = metric.scales(metric.read(others), 0, "gallery image")
        indexed = metric.centred(features, factors)
    metric.check_spread(offsets)
    index = (faiss.IndexFlatL2 if metric.is_centred else faiss.IndexFlatIP)(queries.shape[1])
    index.add(indexed)
    near, indices = index.search(queries, search.k)
    near = -metric.metric.slope / 2 * near if metric.is_centred else 1 - near
    farthest = None
    if search.with_farthest:
        farthest = np.concatenate([np.asarray(block).max(axis=1) for _, block in distances.blocks()])
    return _sorted(indices.astype(np.int32), near, farthest)


SEARCHES: dict[str, Callable[[_Search], Neighbors]] = {
    "compiled": _search_compiled,
    "torch": _search_torch,
    "faiss": _search_faiss,
}


def _sorted(indices: np.ndarray, distances: np.ndarray, farthest: np.ndarray | None) -> Neighbors:
    order = np.lexsort((indices, distances))
    return Neighbors(np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1), farthest)


def _with_progress(starts: range, num_pairs: int) -> Iterable[int]:
    return progress(starts, len(starts), "searching neighbours") if num_pairs > LOGGED_PAIRS else starts
