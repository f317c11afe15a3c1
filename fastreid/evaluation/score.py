"""Scoring one protocol: descriptors and labels in, percentages, ranking and distances out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.evaluation import blocked, fused
from fastreid.evaluation.chance import chance_level
from fastreid.evaluation.fused import MEMORY_BUDGET
from fastreid.evaluation.matching import Matches, match_labels
from fastreid.structures import PersonImage
from fastreid.structures.ranking import Ranking

REPORTED_RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """One scored protocol. Every later picture or list is made from these very distances."""

    metrics: dict[str, float | int]  # percent; valid_queries is a count
    cmc: np.ndarray  # float64 [max_rank], 0..1
    ranking: Ranking
    distances_of: Callable[[int], np.ndarray]  # query row -> float32 [G], with the bits that were ranked
    chance: dict[str, float]  # percent of a random order: Rank-1, mAP, mINP


def score(
    features_q: Tensor,
    features_g: Tensor,
    query: Sequence[PersonImage],
    gallery: Sequence[PersonImage],
    metric: str = "cosine",
    max_rank: int = 50,
    memory_budget: float = MEMORY_BUDGET,
) -> ProtocolResult:
    """Rank the gallery for every query and average. The matrix of all distances is never held.

    Args:
        features_q, features_g: descriptors [Q, D] and [G, D], rows in the order of the images.
        metric: "cosine" or "euclidean".
        max_rank: length of the match curve `cmc`; at least 10.
        memory_budget: MiB that may be used beside the descriptors.
    Returns: metrics Rank-1, Rank-5, Rank-10, mAP, mINP, metric = (mAP + Rank-1) / 2 (percent) and
        valid_queries.
    Raises: ValueError (shapes, metric, a descriptor that is not finite), NoValidQueryError.
    """
    if max_rank < max(REPORTED_RANKS):
        raise ValueError(f"max_rank must be at least {max(REPORTED_RANKS)}, got {max_rank}")
    _check_features("query", features_q, query)
    _check_features("gallery", features_g, gallery)
    people = ([image.person for image in query], [image.person for image in gallery])
    cameras = ([image.camera for image in query], [image.camera for image in gallery])
    keys = {"metric": metric, "memory_budget": memory_budget}
    ranking = _engine().rank_features(features_q, features_g, *people, *cameras, **keys)
    distances_of = partial(_engine().distances_of, features_q, features_g, **keys)
    cmc = ranking.cmc(max_rank)
    return ProtocolResult(_figures(ranking, cmc), cmc, ranking, distances_of, chance_level(ranking))


def score_features(
    query: ArrayLike,
    gallery: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    metric: str = "cosine",
    memory_budget: float = MEMORY_BUDGET,
) -> dict[str, float | int]:
    """The figures of `score` for descriptors and ids as plain arrays; see `fused.rank_features`."""
    ids = q_pids, g_pids, q_camids, g_camids
    ranking = _engine().rank_features(query, gallery, *ids, metric=metric, memory_budget=memory_budget)
    return _figures(ranking, ranking.cmc(max(REPORTED_RANKS)))


def _engine() -> ModuleType:
    """Compiled, distances have the same bits on every machine; else torch multiplies."""
    return fused if fused.is_available() else blocked


def match_images(query: Sequence[PersonImage], gallery: Sequence[PersonImage]) -> Matches:
    """Label half of the ranking of a protocol, before any descriptor is computed."""
    return match_labels(
        [image.person for image in query],
        [image.person for image in gallery],
        [image.camera for image in query],
        [image.camera for image in gallery],
    )


def _figures(ranking: Ranking, cmc: np.ndarray) -> dict[str, float | int]:
    """The seven figures of a protocol, in the order they are printed."""
    metrics: dict[str, float | int] = {f"Rank-{rank}": 100.0 * float(cmc[rank - 1]) for rank in REPORTED_RANKS}
    metrics["mAP"] = 100.0 * ranking.mean_ap
    metrics["mINP"] = 100.0 * ranking.mean_inp
    metrics["metric"] = (metrics["mAP"] + metrics["Rank-1"]) / 2  # fast-reid's selection score
    metrics["valid_queries"] = ranking.num_valid_queries
    return metrics


def _check_features(side: str, features: Tensor, images: Sequence[PersonImage]) -> None:
    if len(features) != len(images):
        raise ValueError(f"{len(features)} {side} descriptors for {len(images)} {side} images")
    finite = features.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0, 0])
        raise ValueError(
            f"the descriptor of {side} image {images[row].path} is not finite "
            f"({int((~finite).sum())} of {len(images)} are not); did the model diverge?"
        )
