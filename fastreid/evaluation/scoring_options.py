"""Scoring options: the keys of TEST.* as one record, checked at construction."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from numbers import Real
from typing import Any

from numpy.typing import ArrayLike

from fastreid.config import ConfigError
from fastreid.retrieval import compiled_engine
from fastreid.retrieval.compiled_engine import CompiledDistances
from fastreid.retrieval.descriptors import Rows, check_pair, rows_in_place
from fastreid.retrieval.distances import MEMORY_BUDGET, Distances
from fastreid.retrieval.metric import metric_named
from fastreid.retrieval.neighbors import FAISS_EFFECT, SEARCHES
from fastreid.retrieval.query_expansion import aqe, expand
from fastreid.retrieval.reranking import RerankedDistances
from fastreid.retrieval.torch_engine import TorchDistances
from fastreid.utils.counts import whole_number, yes_or_no
from fastreid.utils.devices import usable_device
from fastreid.utils.errors import ArgumentError
from fastreid.utils.optional import optional
from fastreid.utils.suggest import explain_choice

ENGINES = ("auto", "compiled", "torch")
GROUPS = ("view", "camera")
REPORTED_RANKS = (1, 5, 10)
_MOST_RANKS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """Weighted means over the nearest descriptors.

    Attributes:
        k: number of neighbours.
        alpha: power of the cosine that is the weight of a neighbour.
        times: number of rounds.
    """

    k: int = 5
    alpha: float = 3.0
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """k-reciprocal re-ranking.

    Attributes:
        k1: number of neighbours that encode an image.
        k2: number of neighbours over whose encodings an image's is averaged.
        weight: lambda, the weight of the plain distance.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3


# Names of options, their types, and how a message calls them.
_TYPES: tuple[tuple[str, Any, str], ...] = (
    *((name, str, "a text") for name in ("metric", "engine", "search")),
    *((name, tuple | list, "a tuple") for name in ("breakdown", "recalls")),
    *((name, Expansion | None, "an Expansion or None") for name in ("augmentation", "expansion")),
    ("reranking", Reranking | None, "a Reranking or None"),
    ("memory_budget", Real, "a number of MiB"),
)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Options of scoring, in the order in which they are applied to descriptors.

    Attributes:
        augmentation: database-side augmentation, of the gallery only; None for none.
        expansion: average query expansion of queries and gallery, as in fast-reid; None for none.
        metric: "cosine" or "euclidean" (squared).
        reranking: k-reciprocal re-ranking; None for none.
        engine: "compiled" (the library's kernels: the same bits everywhere), "torch" (its matrix product, on `device`),
            or "auto": compiled if it is built.
        search: neighbour search, as `nearest_neighbors`.
        device: device of torch, for engine and search; "auto" is CUDA if there is a device.
        memory_budget: MiB that may be used beyond the descriptors.
        max_rank: length of the match curve, at least 10.
        single_shot: CMC as on CUHK03, with one gallery image per person.
        roc: whether to compute TPR@FPR and the other verification figures.
        breakdown: "view" and "camera", for figures of each pair of views or cameras.
        recalls: numbers k of which Recall@k is reported.
    """

    augmentation: Expansion | None = None
    expansion: Expansion | None = None
    metric: str = "cosine"
    reranking: Reranking | None = None
    engine: str = "auto"
    search: str = "auto"
    device: str = "cpu"
    memory_budget: float = MEMORY_BUDGET
    max_rank: int = 50
    single_shot: bool = False
    roc: bool = False
    breakdown: tuple[str, ...] = ()
    recalls: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the values, and replace "auto" by a device or a search.

        Raises:
            ArgumentError: a value that is not valid; the message names its key.
        """
        self._check_types()
        metric_named(self.metric)
        self._check_engines()
        whole_number(self.max_rank, "max_rank", max(REPORTED_RANKS), _MOST_RANKS)
        if not self.memory_budget > 0:
            raise ArgumentError(f"the memory budget (TEST.MEMORY_BUDGET) must be above 0 MiB, got {self.memory_budget}")
        if self.search == "faiss" and optional("faiss", FAISS_EFFECT) is None:
            object.__setattr__(self, "search", "auto")
        if self.single_shot and self.breakdown:
            raise ArgumentError(
                "TEST.BREAKDOWN counts all gallery images, TEST.SINGLE_SHOT one of each person: choose one"
            )
        if self.single_shot and self.recalls:
            raise ArgumentError("TEST.RECALLS counts all gallery images, TEST.SINGLE_SHOT one of each: choose one")
        for k in self.recalls:
            whole_number(k, "recalls (TEST.RECALLS)", 1)
        for group in self.breakdown:
            if group not in GROUPS:
                raise ArgumentError(explain_choice("breakdown (TEST.BREAKDOWN)", group, GROUPS))
        object.__setattr__(self, "device", usable_device(self.device, key="device (MODEL.DEVICE)"))
        self._check_neighbours()

    def _check_types(self) -> None:
        for name in ("single_shot", "roc"):
            yes_or_no(getattr(self, name), name)
        for name, kind, wanted in _TYPES:
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ArgumentError(f"{name} must be {wanted}, got {value!r:.60} ({type(value).__name__})")

    def _check_engines(self) -> None:
        if self.engine not in ENGINES:
            raise ArgumentError(explain_choice("evaluation engine (TEST.ENGINE)", self.engine, ENGINES))
        if self.search not in ("auto", *SEARCHES):
            raise ArgumentError(explain_choice("neighbour search (TEST.SEARCH)", self.search, ["auto", *SEARCHES]))
        for key, value in (("TEST.ENGINE", self.engine), ("TEST.SEARCH", self.search)):
            if value == "compiled" and not compiled_engine.is_available():
                raise ArgumentError(f"{key} is compiled, but the extension is not built: take auto, or build it")

    def _check_neighbours(self) -> None:
        for name, expansion in (("TEST.DBA", self.augmentation), ("TEST.AQE", self.expansion)):
            if expansion and not (
                _are_counts(expansion.k, expansion.times) and _is_within(expansion.alpha, sys.float_info.max)
            ):
                raise ArgumentError(f"{name}: at least one neighbour, once, and ALPHA of at least 0, got {expansion}")
        reranking = self.reranking
        if reranking and not (_are_counts(reranking.k1, reranking.k2) and _is_within(reranking.weight, 1)):
            raise ArgumentError(f"TEST.RERANK: K1 and K2 of at least 1, LAMBDA in 0 … 1, got {reranking}")

    @classmethod
    def from_config(cls, cfg: Any) -> Scoring:
        """Return the options that the keys of TEST.* set.

        Raises:
            ConfigError: a value that is not valid; the message names its key.
        """
        test = cfg.TEST
        expansion = Expansion(k=test.AQE.QE_K, alpha=test.AQE.ALPHA, times=test.AQE.QE_TIME)
        reranking = Reranking(k1=test.RERANK.K1, k2=test.RERANK.K2, weight=test.RERANK.LAMBDA)
        try:
            return cls(
                augmentation=Expansion(k=test.DBA.K, alpha=test.DBA.ALPHA) if test.DBA.ENABLED else None,
                expansion=expansion if test.AQE.ENABLED else None,
                metric=test.METRIC,
                reranking=reranking if test.RERANK.ENABLED else None,
                engine=test.ENGINE,
                search=test.SEARCH,
                device=usable_device(cfg.MODEL.DEVICE, key="MODEL.DEVICE"),
                memory_budget=test.MEMORY_BUDGET,
                single_shot=test.SINGLE_SHOT,
                roc=test.ROC.ENABLED,
                breakdown=tuple(test.BREAKDOWN),
                recalls=tuple(test.RECALLS),
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def check_sizes(self, num_query: int, num_gallery: int) -> None:
        """Check that there are enough images for the neighbours that are averaged.

        Raises:
            ArgumentError: there are fewer images than neighbours.
        """
        for key, expansion, num_images in (
            ("TEST.DBA.K", self.augmentation, num_gallery),
            ("TEST.AQE.QE_K", self.expansion, num_query + num_gallery),
        ):
            if expansion and expansion.k > num_images:
                raise ArgumentError(f"{key} is {expansion.k}, but there are only {num_images} images")

    @property
    def changes_by_gallery(self) -> tuple[str, ...]:
        """Keys of the parts that are on and change the distance of two images by the other images."""
        parts = {"TEST.DBA": self.augmentation, "TEST.AQE": self.expansion, "TEST.RERANK": self.reranking}
        return tuple(key for key, part in parts.items() if part)

    @property
    def search_options(self) -> dict[str, Any]:
        """Arguments of the neighbour search: on the CPU unless torch is selected."""
        uses_torch = self.search == "torch" or (self.search == "auto" and self.engine == "torch")
        return {"search": "torch" if uses_torch else self.search, "device": self.device if uses_torch else "cpu"}

    def distances(self, query: ArrayLike, gallery: ArrayLike) -> Distances:
        """Return the distances of descriptors [Q, D] and [G, D].

        They are computed when they are used, but neighbours for expansion and re-ranking are searched at once.

        Raises:
            ValueError: wrong shapes, a descriptor that is not finite, more neighbours than images.
        """
        queries, images = rows_in_place(query), rows_in_place(gallery)
        check_pair(queries, images)
        self.check_sizes(len(queries), len(images))
        if self.augmentation:
            for _ in range(self.augmentation.times):
                images = expand(images, self.augmentation.k, self.augmentation.alpha, **self.search_options)
        if self.expansion:
            e = self.expansion
            queries, images = aqe(queries, images, e.times, e.k, e.alpha, **self.search_options)
        plain = self._plain_distances(queries, images)
        if not self.reranking:
            return plain
        r = self.reranking
        options = {"k1": r.k1, "k2": r.k2, "weight": r.weight, "metric": self.metric, **self.search_options}
        return RerankedDistances(plain, queries, images, **options)

    def _plain_distances(self, query: Rows, gallery: Rows) -> Distances:
        metric, budget = self.metric, self.memory_budget
        if self.engine == "torch" or not compiled_engine.is_available():
            device = self.device if self.engine == "torch" else "cpu"
            return TorchDistances(query, gallery, device=device, metric=metric, memory_budget=budget)
        return CompiledDistances(query, gallery, metric=metric, memory_budget=budget)


def _is_within(value: Any, most: float) -> bool:
    """Return whether a value is a number from 0 to `most`."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= most


def _are_counts(*values: Any) -> bool:
    """Return whether all values are whole numbers of at least 1."""
    try:
        return all(whole_number(value, "", 1) for value in values)
    except ArgumentError:
        return False
