"""Scores of the re-ID confidence filter, and thresholds for them: functions of features.

The scores are those of our reconstruction of the filter of Diffusion-ReID; the paper gives neither formulas nor
thresholds. All computations are in float64, and results are rounded to `DECIMALS` places, so that a decision depends
on the picture and not on the other pictures that are scored with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.retrieval.descriptors import check_finite_rows
from fastreid.utils.errors import ArgumentError

TOP, DECIMALS = 3, 6
IDENTITY, MARGIN, COPY, QUANTILE = "reid.identity", "reid.margin", "reid.copy", "reid.quantile"


@dataclass(frozen=True)
class ReidScores:
    """Scores of n pictures of one person; all are float64 [n].

    Attributes:
        identity: s_id, mean cosine to the `TOP` most similar real images of the person (to all if there are fewer).
        other: greatest cosine to the centroid of another person; -1 if there is no other.
        margin: cosine to the centroid of the person minus `other`.
        copy: s_dup, greatest cosine to a real image of the person.
    """

    identity: Tensor
    other: Tensor
    margin: Tensor
    copy: Tensor


@dataclass(frozen=True)
class Thresholds:
    """A picture is kept if identity >= `identity`, margin >= `margin` and copy <= `copy`.

    Args:
        identity: tau_id.
        margin: m0.
        copy: tau_dup.
    """

    identity: float
    margin: float
    copy: float


def reid_scores(features: Tensor, real: Tensor, centroids: Tensor, own: int) -> ReidScores:
    """Return the scores of pictures of one person.

    Args:
        features: of the pictures, [n, D], of any length.
        real: of the real images of this person, [m, D], m >= 1.
        centroids: of all people of the source, [N, D].
        own: the row of this person in `centroids`.

    Raises:
        FeatureError: a feature is not finite.
        ArgumentError: the person has no real image.
    """
    if not len(real):
        raise ArgumentError("a person without real images cannot be compared with them: its pictures cannot be judged")
    check_finite_rows(features, "written picture")
    rows = _unit(features)
    to_real, to_centroids = rows @ _unit(real).T, rows @ _unit(centroids).T
    to_own = to_centroids[:, own].clone()
    to_centroids[:, own] = -1
    other = to_centroids.amax(dim=1)
    return ReidScores(
        identity=_rounded(_top_mean(to_real)),
        other=_rounded(other),
        margin=_rounded(to_own - other),
        copy=_rounded(to_real.amax(dim=1)),
    )


def genuine_scores(features: Tensor, people: Tensor) -> tuple[Tensor, Tensor]:
    """Return s_id and s_dup of real images, each compared with the other images of its person (leave one out).

    Args:
        features: [M, D], of any length.
        people: the person of each image, int64 [M].

    Returns:
        Two float64 tensors [K], of the K images whose person has another image.
    """
    rows, found = _unit(features), []
    for person in people.unique():
        own = rows[people == person]
        if len(own) > 1:
            similarity = own @ own.T
            without_itself = similarity[~torch.eye(len(own), dtype=torch.bool)].view(len(own), -1)
            found.append((_top_mean(without_itself), without_itself.amax(dim=1)))
    return _joined(found)


def held_out_scores(features: Tensor, people: Tensor, real: Tensor, real_people: Tensor) -> tuple[Tensor, Tensor]:
    """Return s_id and s_dup of held-out images, each compared with the other real images of its person.

    Args:
        features: of the held-out images, [H, D], of any length.
        people: the person of each, int64 [H].
        real: of the images that written pictures are compared with, [M, D].
        real_people: the person of each, int64 [M].

    Returns:
        Two float64 tensors [K], of the K held-out images whose person has one of the other images.
    """
    rows, others, found = _unit(features), _unit(real), []
    for person in people.unique():
        own = others[real_people == person]
        if len(own):
            similarity = rows[people == person] @ own.T
            found.append((_top_mean(similarity), similarity.amax(dim=1)))
    return _joined(found)


def calibrated(
    genuine: tuple[Tensor, Tensor], *, identity_percentile: float, copy_percentile: float, margin: float
) -> Thresholds:
    """Return the thresholds that real images suggest.

    Args:
        genuine: s_id and s_dup of real images, from `genuine_scores` or `held_out_scores`.
        identity_percentile: tau_id is this percentile of s_id: so many percent of the real images would be dropped.
        copy_percentile: tau_dup is this percentile of s_dup.
        margin: m0.

    Raises:
        ArgumentError: there are no scores.
    """
    identity, copy = genuine
    if not len(identity):
        raise ArgumentError(
            "thresholds cannot be calibrated: no person of this source has two real images that can be compared; "
            "give TAU_ID and TAU_DUP as numbers"
        )
    return Thresholds(
        identity=round(float(np.percentile(identity.numpy(), identity_percentile)), DECIMALS),
        margin=margin,
        copy=round(float(np.percentile(copy.numpy(), copy_percentile)), DECIMALS),
    )


def reasons(scores: ReidScores, thresholds: Thresholds) -> list[str]:
    """Return why each picture is dropped, "" for those that are kept.

    A picture that fails several conditions has the reason that tells most: `MARGIN` if it resembles another person as
    much as a picture of that person should, otherwise `IDENTITY`, otherwise `COPY`.

    Args:
        scores: of the pictures.
        thresholds: of their source.
    """
    columns = (scores.identity, scores.other, scores.margin, scores.copy)
    rows = zip(*map(Tensor.tolist, columns), strict=True)
    return [_reason(identity, other, margin, copy, thresholds) for identity, other, margin, copy in rows]


def _reason(identity: float, other: float, margin: float, copy: float, thresholds: Thresholds) -> str:
    is_person = identity >= thresholds.identity
    if margin < thresholds.margin and (is_person or other >= thresholds.identity):
        return MARGIN
    if not is_person:
        return IDENTITY
    return COPY if copy > thresholds.copy else ""


def ranks(identity: Tensor, numbers: Tensor) -> Tensor:
    """Return the rank of each picture by s_id, from 1 for the greatest; of equal ones the lower number comes first.

    Args:
        identity: s_id, [n].
        numbers: the numbers of the pictures, all different, int64 [n].
    """
    order = np.lexsort((numbers.numpy(), -identity.numpy()))
    found = torch.empty(len(order), dtype=torch.int64)
    found[torch.from_numpy(order)] = torch.arange(1, len(order) + 1)
    return found


def kept_count(quantile: float, count: int) -> int:
    """Return ceil(quantile * count), in exact arithmetic for quantiles with up to nine decimals.

    Args:
        quantile: from 0 to 1.
        count: number of pictures.
    """
    return math.ceil(round(quantile * count, 9))


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.detach().cpu().double(), dim=1)


def _top_mean(similarity: Tensor) -> Tensor:
    return similarity.topk(min(TOP, similarity.shape[1]), dim=1).values.mean(dim=1)


def _rounded(scores: Tensor) -> Tensor:
    return scores.round(decimals=DECIMALS)


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if not parts:
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    identity, copy = (_rounded(torch.cat(column)) for column in zip(*parts, strict=True))
    return identity, copy
