"""Scoring one protocol: descriptors and labels in, percentages, ranking and distances out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fastreid.evaluation.chance import chance_level
from fastreid.evaluation.distance import build_dist
from fastreid.evaluation.matching import Matches, match_labels
from fastreid.evaluation.rank import rank_queries
from fastreid.structures import PersonImage
from fastreid.structures.ranking import Ranking

REPORTED_RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """One scored protocol. Every later picture or list is made from these very distances."""

    metrics: dict[str, float | int]  # percent; valid_queries is a count
    cmc: np.ndarray  # float64 [max_rank], 0..1
    ranking: Ranking
    distances: np.ndarray  # float32 [Q, G]
    chance: dict[str, float]  # percent of a random order: Rank-1, mAP, mINP


def score(
    features_q: Tensor,
    features_g: Tensor,
    query: Sequence[PersonImage],
    gallery: Sequence[PersonImage],
    metric: str = "cosine",
    max_rank: int = 50,
) -> ProtocolResult:
    """Rank the gallery for every query and average.

    Args:
        features_q, features_g: descriptors [Q, D] and [G, D], rows in the order of the images.
        metric: "cosine" or "euclidean".
        max_rank: length of the match curve `cmc`; at least 10.
    Returns: metrics Rank-1, Rank-5, Rank-10, mAP, mINP, metric = (mAP + Rank-1) / 2 (percent) and
        valid_queries.
    Raises: ValueError (shapes, metric, a descriptor that is not finite), NoValidQueryError.
    """
    if max_rank < max(REPORTED_RANKS):
        raise ValueError(f"max_rank must be at least {max(REPORTED_RANKS)}, got {max_rank}")
    _check_features("query", features_q, query)
    _check_features("gallery", features_g, gallery)
    distances = build_dist(features_q, features_g, metric)
    ranking = rank_queries(
        distances,
        [image.person for image in query],
        [image.person for image in gallery],
        [image.camera for image in query],
        [image.camera for image in gallery],
    )
    cmc = ranking.cmc(max_rank)
    return ProtocolResult(_figures(ranking, cmc), cmc, ranking, distances, chance_level(ranking))


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
