"""Scoring one protocol: descriptors and labels in, percentages, ranking and distances out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.evaluation.breakdown import Row, break_down
from fastreid.evaluation.chance import chance_level
from fastreid.evaluation.options import REPORTED_RANKS, Scoring
from fastreid.evaluation.roc import RocCurve, roc_curve
from fastreid.evaluation.single_shot import single_shot_cmc
from fastreid.retrieval.descriptors import FeatureError, explaining_nonfinite
from fastreid.retrieval.distances import Distances, MatrixDistances
from fastreid.retrieval.matches import Matches, match_labels
from fastreid.structures import PersonImage
from fastreid.structures.ranking import Ranking
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """One scored protocol. Every later picture or list is made from these very distances."""

    metrics: dict[str, float | int]  # percent; valid_queries is a count
    cmc: np.ndarray  # float64 [max_rank], 0..1
    ranking: Ranking
    distances: Distances  # with the bits that were ranked
    matches: Matches
    chance: dict[str, float]  # percent of a random order: Rank-1, mAP, mINP
    roc: RocCurve | None = None
    breakdown: dict[str, list[Row]] = field(default_factory=dict)  # by "view", "camera"
    rank1: np.ndarray | None = None  # float64 [Q], 0..1: Rank-1 of each query, of single shots only

    def distances_of(self, query: int) -> np.ndarray:
        """float32 [G] of one query row."""
        return self.distances.row(query)


def score(
    features_q: Tensor,
    features_g: Tensor,
    query: Sequence[PersonImage],
    gallery: Sequence[PersonImage],
    scoring: Scoring | None = None,
    *,
    shared: bool = False,
) -> ProtocolResult | None:
    """Rank the gallery for every query and average. The matrix of all distances is never held.

    Args:
        features_q, features_g: descriptors [Q, D] and [G, D], rows in the order of the images.
        scoring: how; `Scoring()` if not said.
        shared: every process of the run calls this, with the same arguments, and ranks its part of the queries. The
            result is that of one process, in the main one; None in others.
    Returns: metrics Rank-1, Rank-5, Rank-10, mAP, mINP, metric = (mAP + Rank-1) / 2 (percent) and
        valid_queries; with `scoring.roc` those of `RocCurve.figures`, too.
    Raises: ValueError (shapes, a descriptor that is not finite), NoValidQueryError.
    """
    _check_features("query", features_q, query)
    _check_features("gallery", features_g, gallery)
    ids = [
        np.array([getattr(image, what) for image in images], dtype=np.int64)
        for what in ("person", "camera", "view")
        for images in (query, gallery)
    ]
    return _scored(features_q, features_g, ids[:4], scoring or Scoring(), ids[4:], shared)


def score_features(
    query: ArrayLike,
    gallery: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    scoring: Scoring | None = None,
    *,
    q_viewids: ArrayLike | None = None,
    g_viewids: ArrayLike | None = None,
) -> ProtocolResult:
    """The same for descriptors and ids as plain arrays, tensors, or files mapped into memory.

    Args:
        query, gallery: [Q, D] and [G, D]; float16 and bfloat16 are widened a part at a time.
        q_pids, g_pids, q_camids, g_camids: integer ids, [Q] and [G].
        q_viewids, g_viewids: the same of views; only `scoring.breakdown` by "view" needs them.
    """
    views = None if q_viewids is None or g_viewids is None else [np.asarray(q_viewids), np.asarray(g_viewids)]
    scoring = scoring or Scoring()
    if "view" in scoring.breakdown and views is None:
        raise ArgumentError("a breakdown by view (TEST.BREAKDOWN) needs the view ids of queries and gallery")
    return _scored(query, gallery, [q_pids, g_pids, q_camids, g_camids], scoring, views, shared=False)


def _scored(
    query: ArrayLike,
    gallery: ArrayLike,
    ids: Sequence[ArrayLike],
    scoring: Scoring,
    views: Sequence[np.ndarray] | None,
    shared: bool,
) -> ProtocolResult | None:
    matches = match_labels(*ids)
    sizes = len(query), len(gallery)
    matches.check_sizes(*sizes)
    matches.require_valid_query()
    for side, size, of_side in zip(("query", "gallery"), sizes, views or (), strict=False):
        if of_side.shape != (size,) or of_side.dtype.kind not in "iu":
            raise ArgumentError(f"{side} view ids must be [{size}] integers, got {of_side.dtype} {list(of_side.shape)}")
    with explaining_nonfinite(query, gallery):
        return _outcome(scoring.distances(query, gallery), matches, ids, scoring, views, shared)


def score_distances(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    scoring: Scoring | None = None,
) -> ProtocolResult:
    """The same for a matrix of distances [Q, G] that somebody else computed.

    Raises:
        ValueError: a distance is not finite; `scoring` asks for what needs descriptors.
    """
    scoring = scoring or Scoring()
    if scoring.augmentation or scoring.expansion or scoring.reranking or "view" in scoring.breakdown:
        raise ArgumentError(
            "expansion and re-ranking need descriptors, a breakdown by view needs views: see score_features"
        )
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    distances = MatrixDistances(distmat, memory_budget=scoring.memory_budget)
    matches.check_sizes(*distances.shape)
    matches.require_valid_query()
    return _outcome(distances, matches, [q_pids, g_pids, q_camids, g_camids], scoring, None, shared=False)


def _outcome(
    distances: Distances,
    matches: Matches,
    ids: Sequence[ArrayLike],
    scoring: Scoring,
    views: Sequence[np.ndarray] | None,
    shared: bool,
) -> ProtocolResult | None:
    mine = matches if not shared else _my_share(matches)
    ranking = distances.rank(mine)
    curves = None
    if scoring.single_shot:
        blocks = distances.blocks("drawing single shots", wanted=mine.num_positives > 0)
        curves = single_shot_cmc(blocks, mine, ids[1], scoring.max_rank)
    if shared:
        share = _share(matches)
        ranking = ranking.of_queries(*share).of_all(_from_all)
        curves = None if curves is None else _from_all(curves[slice(*share)])
        if not comm.is_main_process():
            return None
    cmc = ranking.cmc(scoring.max_rank) if curves is None else curves[ranking.valid].mean(axis=0)
    roc = roc_curve(distances, matches) if scoring.roc else None
    groups = {"camera": [np.asarray(camids) for camids in ids[2:]], "view": views}
    breakdown = {by: break_down(distances, matches, *groups[by], by) for by in scoring.breakdown}
    metrics = _figures(ranking, cmc) | (roc.figures() if roc else {})
    chance = chance_level(ranking)
    if curves is not None:
        chance["Rank-1"] = 100.0 / len(np.unique(np.delete(np.asarray(ids[1]), matches.junk)))
    rank1 = None if curves is None else curves[:, 0]
    return ProtocolResult(metrics, cmc, ranking, distances, matches, chance, roc, breakdown, rank1)


def _from_all(rows: np.ndarray) -> np.ndarray:
    return torch.cat(comm.gather_rows(torch.from_numpy(np.ascontiguousarray(rows)))).numpy()


def _share(matches: Matches) -> tuple[int, int]:
    """First query of this process, and the first of the next."""
    edges = np.linspace(0, len(matches.num_positives), comm.get_world_size() + 1).astype(int)
    return int(edges[comm.get_rank()]), int(edges[comm.get_rank() + 1])


def _my_share(matches: Matches) -> Matches:
    mine = np.zeros(len(matches.num_positives), dtype=bool)
    mine[slice(*_share(matches))] = True
    return matches.among(mine, np.ones(matches.num_gallery, dtype=bool))


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
        raise FeatureError(f"{len(features)} {side} descriptors for {len(images)} {side} images")
    finite = features.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0, 0])
        raise FeatureError(
            f"the descriptor of {side} image {images[row].path} is not finite "
            f"({int((~finite).sum())} of {len(images)} are not); did the model diverge?"
        )
