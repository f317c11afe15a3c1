"""How descriptors are scored: the keys of TEST.* as one record, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from fastreid.config import ConfigError, resolve_device
from fastreid.retrieval import compiled_engine
from fastreid.retrieval.compiled_engine import CompiledDistances
from fastreid.retrieval.descriptors import check_pair, rows_in_place
from fastreid.retrieval.distances import MEMORY_BUDGET, Distances
from fastreid.retrieval.metric import metric_named
from fastreid.retrieval.neighbors import FAISS_EFFECT, SEARCHES
from fastreid.retrieval.query_expansion import aqe, expand
from fastreid.retrieval.reranking import RerankedDistances
from fastreid.retrieval.torch_engine import TorchDistances
from fastreid.utils.counts import whole_number
from fastreid.utils.errors import ArgumentError
from fastreid.utils.optional import optional
from fastreid.utils.suggest import explain_choice

ENGINES = ("auto", "compiled", "torch")
GROUPS = ("view", "camera")
REPORTED_RANKS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """Means over the `k` nearest, weighted by cosine to the power `alpha`, `times` in a row."""

    k: int = 5
    alpha: float = 3.0
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """k-reciprocal re-ranking; `weight` (lambda) is that of the plain distance."""

    k1: int = 20
    k2: int = 6
    weight: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is done with descriptors, in this order.

    Attributes:
        augmentation: of the gallery alone (database-side augmentation), or None.
        expansion: of queries and gallery (average query expansion as in fast-reid), or None.
        metric: "cosine" or "euclidean" (squared).
        reranking: or None.
        engine: "compiled" (the library's kernels: the same bits everywhere), "torch" (its product, on `device`), or
            "auto": compiled if it is built.
        search: of neighbours, as `nearest_neighbors`.
        device: of torch, for engine and search; "auto" is CUDA if there is any.
        memory_budget: MiB beside the descriptors.
        max_rank: length of the match curve, at least 10.
        single_shot: CMC as on CUHK03, one gallery image per person.
        roc: TPR@FPR and what belongs to it.
        breakdown: figures from each "view" to each, or each "camera".
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

    def __post_init__(self) -> None:
        metric_named(self.metric)
        if self.engine not in ENGINES:
            raise ArgumentError(explain_choice("evaluation engine (TEST.ENGINE)", self.engine, ENGINES))
        if self.search not in ("auto", *SEARCHES):
            raise ArgumentError(explain_choice("neighbour search (TEST.SEARCH)", self.search, ["auto", *SEARCHES]))
        if self.engine == "compiled" and not compiled_engine.is_available():
            raise ArgumentError("TEST.ENGINE is compiled, but the extension is not built: take auto, or build it")
        whole_number(self.max_rank, "max_rank", max(REPORTED_RANKS))
        if not self.memory_budget > 0:
            raise ArgumentError(f"the memory budget (TEST.MEMORY_BUDGET) must be above 0 MiB, got {self.memory_budget}")
        if self.search == "compiled" and not compiled_engine.is_available():
            raise ArgumentError("TEST.SEARCH is compiled, but the extension is not built: take auto, or build it")
        if self.search == "faiss" and optional("faiss", FAISS_EFFECT) is None:
            object.__setattr__(self, "search", "auto")
        if self.single_shot and self.breakdown:
            raise ArgumentError(
                "TEST.BREAKDOWN counts all gallery images, TEST.SINGLE_SHOT one of each person: choose one"
            )
        for group in self.breakdown:
            if group not in GROUPS:
                raise ArgumentError(explain_choice("breakdown (TEST.BREAKDOWN)", group, GROUPS))
        object.__setattr__(self, "device", resolve_device(self.device, key="device (MODEL.DEVICE)"))
        self._check_neighbours()

    def _check_neighbours(self) -> None:
        for name, means in (("TEST.DBA", self.augmentation), ("TEST.AQE", self.expansion)):
            if means and not (_counts(means.k, means.times) and 0 <= means.alpha < float("inf")):
                raise ArgumentError(f"{name}: at least one neighbour, once, and ALPHA of at least 0, got {means}")
        again = self.reranking
        if again and not (_counts(again.k1, again.k2) and 0 <= again.weight <= 1):
            raise ArgumentError(f"TEST.RERANK: K1 and K2 of at least 1, LAMBDA in 0 … 1, got {again}")

    @classmethod
    def from_config(cls, cfg: Any) -> Scoring:
        """Raises: ConfigError naming the key that makes no sense."""
        test = cfg.TEST
        means = {"k": test.AQE.QE_K, "alpha": test.AQE.ALPHA, "times": test.AQE.QE_TIME}
        again = {"k1": test.RERANK.K1, "k2": test.RERANK.K2, "weight": test.RERANK.LAMBDA}
        try:
            return cls(
                augmentation=Expansion(k=test.DBA.K, alpha=test.DBA.ALPHA) if test.DBA.ENABLED else None,
                expansion=Expansion(**means) if test.AQE.ENABLED else None,
                metric=test.METRIC,
                reranking=Reranking(**again) if test.RERANK.ENABLED else None,
                engine=test.ENGINE,
                search=test.SEARCH,
                device=resolve_device(cfg.MODEL.DEVICE),
                memory_budget=test.MEMORY_BUDGET,
                single_shot=test.SINGLE_SHOT,
                roc=test.ROC.ENABLED,
                breakdown=tuple(test.BREAKDOWN),
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def check_sizes(self, num_query: int, num_gallery: int) -> None:
        """Raises: ValueError if there are fewer images than neighbours are to be averaged."""
        for key, means, there in (
            ("TEST.DBA.K", self.augmentation, num_gallery),
            ("TEST.AQE.QE_K", self.expansion, num_query + num_gallery),
        ):
            if means and means.k > there:
                raise ArgumentError(f"{key} is {means.k}, but there are only {there} images")

    @property
    def search_options(self) -> dict[str, Any]:
        """Where neighbours are searched: on the CPU unless torch is asked for."""
        by_torch = self.search == "torch" or (self.search == "auto" and self.engine == "torch")
        return {"search": "torch" if by_torch else self.search, "device": self.device if by_torch else "cpu"}

    def distances(self, query: ArrayLike, gallery: ArrayLike) -> Distances:
        """Distances of descriptors [Q, D] and [G, D]; nothing is multiplied yet, but neighbours are searched.

        Raises:
            ValueError: shapes, a descriptor that is not finite, more neighbours than images.
        """
        query, gallery = rows_in_place(query), rows_in_place(gallery)
        check_pair(query, gallery)
        self.check_sizes(len(query), len(gallery))
        if self.augmentation:
            for _ in range(self.augmentation.times):
                gallery = expand(gallery, self.augmentation.k, self.augmentation.alpha, **self.search_options)
        if self.expansion:
            means = self.expansion
            query, gallery = aqe(query, gallery, means.times, means.k, means.alpha, **self.search_options)
        how = {"metric": self.metric, "memory_budget": self.memory_budget}
        if self.engine == "torch" or not compiled_engine.is_available():
            plain = TorchDistances(query, gallery, device=self.device if self.engine == "torch" else "cpu", **how)
        else:
            plain = CompiledDistances(query, gallery, **how)
        if not self.reranking:
            return plain
        again = {"k1": self.reranking.k1, "k2": self.reranking.k2, "weight": self.reranking.weight}
        return RerankedDistances(plain, query, gallery, metric=self.metric, **again, **self.search_options)


def _counts(*values: Any) -> bool:
    """Whether all are whole numbers of at least 1."""
    try:
        return all(whole_number(value, "", 1) for value in values)
    except ArgumentError:
        return False
