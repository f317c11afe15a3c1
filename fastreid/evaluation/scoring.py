"""Scoring of one protocol: descriptors and labels in; figures in percent, ranking and distances out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.evaluation.breakdown import Row, break_down
from fastreid.evaluation.roc import RocCurve, roc_curve
from fastreid.evaluation.scoring_options import REPORTED_RANKS, Scoring
from fastreid.evaluation.single_shot import single_shot_cmc
from fastreid.evaluation.statistics import chance_level
from fastreid.retrieval.descriptors import FeatureError, explaining_nonfinite, rows_in_place
from fastreid.retrieval.distances import Distances, MatrixDistances
from fastreid.retrieval.matches import Matches, match_images, match_labels
from fastreid.structures import PersonImage
from fastreid.structures.ranking import Ranking
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError

# Names of the figures of every protocol, in the order in which they are printed.
FIGURES = (*(f"Rank-{rank}" for rank in REPORTED_RANKS), "mAP", "mINP", "metric", "valid_queries")


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """One scored protocol; all pictures and lists are computed from its distances.

    Attributes:
        metrics: figures in percent; `valid_queries` is a count.
        cmc: cumulative match curve, float64 [max_rank], 0..1.
        ranking: ranking of all queries.
        distances: those that were ranked, with the same bits.
        matches: matches of all queries.
        chance: expected Rank-1, mAP and mINP of a random order, in percent.
        roc: verification curve, if it was asked for.
        breakdown: rows by "view" and "camera", if they were asked for.
        rank1: Rank-1 of each query, float64 [Q] in 0..1; only for single-shot scoring.
    """

    metrics: dict[str, float | int]
    cmc: np.ndarray
    ranking: Ranking
    distances: Distances
    matches: Matches
    chance: dict[str, float]
    roc: RocCurve | None = None
    breakdown: dict[str, list[Row]] = field(default_factory=dict)
    rank1: np.ndarray | None = None

    def distances_of(self, query: int) -> np.ndarray:
        """Return the distances of one query row, float32 [G]."""
        return self.distances.row(query)


@dataclass(frozen=True)
class _Labels:
    """Labels of a protocol's images: the matches, and the ids that parts of the score need."""

    matches: Matches
    gallery_people: np.ndarray  # [G]
    cameras: tuple[np.ndarray, np.ndarray]  # [Q] and [G]
    views: tuple[np.ndarray, np.ndarray] | None = None  # [Q] and [G]


def score(
    features_q: Tensor,
    features_g: Tensor,
    query: Sequence[PersonImage],
    gallery: Sequence[PersonImage],
    scoring: Scoring | None = None,
    *,
    matches: Matches | None = None,
    shared: bool = False,
) -> ProtocolResult | None:
    """Rank the gallery for every query and average; the matrix of all distances is never stored.

    Args:
        features_q: descriptors [Q, D], in the order of the images.
        features_g: descriptors [G, D], in the order of the images.
        query: Q images.
        gallery: G images.
        scoring: options; default: `Scoring()`.
        matches: matches of the images, if they are known.
        shared: every process of the run calls this with the same arguments and ranks its share of the queries. The
            main process returns the same result as a single process would, the others None.

    Returns:
        Metrics Rank-1, Rank-5, Rank-10, mAP, mINP, metric = (mAP + Rank-1) / 2 (percent) and valid_queries; with
        `scoring.roc` also those of `RocCurve.figures`, with `scoring.recalls` Recall@k.

    Raises:
        ValueError: wrong shapes, or a descriptor that is not finite.
        NoValidQueryError: no query has a match.
    """
    _check_features("query", features_q, query)
    _check_features("gallery", features_g, gallery)
    labels = _Labels(
        matches or match_images(query, gallery),
        _ids([image.person for image in gallery]),
        (_ids([image.camera for image in query]), _ids([image.camera for image in gallery])),
        (_ids([image.view for image in query]), _ids([image.view for image in gallery])),
    )
    return _score(features_q, features_g, labels, scoring or Scoring(), shared)


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
    """Score descriptors and ids that are plain arrays, tensors, or memory-mapped files; see `score`.

    Args:
        query: descriptors [Q, D]; float16 and bfloat16 are converted a part at a time.
        gallery: descriptors [G, D], as `query`.
        q_pids: person ids of the queries, integers [Q].
        g_pids: person ids of the gallery, integers [G].
        q_camids: camera ids of the queries, integers [Q].
        g_camids: camera ids of the gallery, integers [G].
        scoring: options; default: `Scoring()`.
        q_viewids: view ids of the queries, integers [Q]; only `scoring.breakdown` by "view" needs them.
        g_viewids: view ids of the gallery, integers [G].

    Raises:
        ValueError: as `score`.
        NoValidQueryError: no query has a match.
    """
    if (q_viewids is None) != (g_viewids is None):
        raise ArgumentError("view ids are given for queries and gallery, or for neither: one of the two is None")
    views = None if q_viewids is None or g_viewids is None else (np.asarray(q_viewids), np.asarray(g_viewids))
    scoring = scoring or Scoring()
    if "view" in scoring.breakdown and views is None:
        raise ArgumentError("a breakdown by view (TEST.BREAKDOWN) needs the view ids of queries and gallery")
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    labels = _Labels(matches, np.asarray(g_pids), (np.asarray(q_camids), np.asarray(g_camids)), views)
    result = _score(query, gallery, labels, scoring, shared=False)
    assert result is not None  # only if shared
    return result


def score_distances(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    scoring: Scoring | None = None,
) -> ProtocolResult:
    """Score a given matrix of distances [Q, G]; see `score_features`.

    Raises:
        ValueError: a distance is not finite, or `scoring` has options that need descriptors.
        NoValidQueryError: no query has a match.
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
    labels = _Labels(matches, np.asarray(g_pids), (np.asarray(q_camids), np.asarray(g_camids)))
    ranking = distances.rank(matches)
    return _result(distances, ranking, _single_shot(distances, matches, labels, scoring), labels, scoring)


def _score(
    query: ArrayLike, gallery: ArrayLike, labels: _Labels, scoring: Scoring, shared: bool
) -> ProtocolResult | None:
    sizes = len(rows_in_place(query)), len(rows_in_place(gallery))
    labels.matches.check_sizes(*sizes)
    labels.matches.require_valid_query()
    for side, size, views in zip(("query", "gallery"), sizes, labels.views or (), strict=False):
        if views.shape != (size,) or views.dtype.kind not in "iu":
            raise ArgumentError(f"{side} view ids must be [{size}] integers, got {views.dtype} {list(views.shape)}")
    with explaining_nonfinite(query, gallery):
        distances = scoring.distances(query, gallery)
        own = _own_share(labels.matches) if shared else labels.matches
        ranking, curves = distances.rank(own), _single_shot(distances, own, labels, scoring)
        if shared:
            share = slice(*_share(labels.matches))
            ranking = ranking.of_queries(share.start, share.stop).of_all(_gathered)
            curves = None if curves is None else _gathered(curves[share])
            if not comm.is_main_process():
                return None
        return _result(distances, ranking, curves, labels, scoring)


def _single_shot(distances: Distances, matches: Matches, labels: _Labels, scoring: Scoring) -> np.ndarray | None:
    """Return the expected match curves of single-shot scoring, float64 [Q, max_rank], if it was asked for."""
    if not scoring.single_shot:
        return None
    blocks = distances.blocks("drawing single shots", wanted=matches.num_positives > 0)
    return single_shot_cmc(blocks, matches, labels.gallery_people, scoring.max_rank)


def _result(
    distances: Distances, ranking: Ranking, curves: np.ndarray | None, labels: _Labels, scoring: Scoring
) -> ProtocolResult:
    matches = labels.matches
    cmc = ranking.cmc(scoring.max_rank) if curves is None else curves[ranking.valid].mean(axis=0)
    roc = roc_curve(distances, matches) if scoring.roc else None
    groups = {"camera": labels.cameras} | ({"view": labels.views} if labels.views else {})
    breakdown = {by: break_down(distances, matches, *groups[by], by) for by in scoring.breakdown}
    chance = chance_level(ranking)
    if curves is not None:
        chance["Rank-1"] = 100.0 / len(np.unique(np.delete(labels.gallery_people, matches.junk)))
    rank1 = None if curves is None else curves[:, 0]
    metrics = _figures(ranking, cmc) | _recalls(ranking, scoring.recalls) | (roc.figures() if roc else {})
    return ProtocolResult(metrics, cmc, ranking, distances, matches, chance, roc, breakdown, rank1)


def _gathered(rows: np.ndarray) -> np.ndarray:
    """Return the rows of all processes, in their order."""
    return torch.cat(comm.gather_rows(torch.from_numpy(np.ascontiguousarray(rows)))).numpy()


def _share(matches: Matches) -> tuple[int, int]:
    """Return the first query of this process, and the first of the next."""
    edges = np.linspace(0, len(matches.num_positives), comm.get_world_size() + 1).astype(int)
    return int(edges[comm.get_rank()]), int(edges[comm.get_rank() + 1])


def _own_share(matches: Matches) -> Matches:
    """Return the matches if only the queries of this process are scored."""
    is_own = np.zeros(len(matches.num_positives), dtype=bool)
    is_own[slice(*_share(matches))] = True
    return matches.among(is_own, np.ones(matches.num_gallery, dtype=bool))


def _figures(ranking: Ranking, cmc: np.ndarray) -> dict[str, float | int]:
    """Return the figures of a protocol, in the order in which they are printed."""
    metrics: dict[str, float | int] = {f"Rank-{rank}": 100.0 * float(cmc[rank - 1]) for rank in REPORTED_RANKS}
    metrics["mAP"] = 100.0 * ranking.mean_ap
    metrics["mINP"] = 100.0 * ranking.mean_inp
    metrics["metric"] = (metrics["mAP"] + metrics["Rank-1"]) / 2  # fast-reid's selection score
    metrics["valid_queries"] = ranking.num_valid_queries
    return metrics


def _recalls(ranking: Ranking, recalls: Sequence[int]) -> dict[str, float | int]:
    """Return Recall@k, the share of queries with a match among the first k images."""
    most = int(ranking.first_match_rank.max(initial=1))  # from there on all queries have a match
    curve = ranking.cmc(min(max(recalls, default=1), most))
    return {recall_name(k): 100.0 * float(curve[min(k, most) - 1]) for k in recalls}


def recall_name(k: int) -> str:
    """Return the name of a figure of TEST.RECALLS."""
    return f"Recall@{k}"


def _ids(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


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
