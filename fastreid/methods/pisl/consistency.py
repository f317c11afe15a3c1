"""Consistency scores: how well the neighbours of an image by a part of it agree with those by the whole image.

PISL describes an image by the distances between its k nearest images, by the global feature and by that of a part,
and compares the two by a maximum mean discrepancy (MMD). PPLR (Cho et al., CVPR 2022) compares only the sets of
neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.retrieval.neighbors import Neighbors, nearest_neighbors
from fastreid.retrieval.pairs import products_in_lists
from fastreid.utils.counts import thread_count, whole_number
from fastreid.utils.devices import usable_device
from fastreid.utils.errors import ArgumentError
from fastreid.utils.precision import full_precision
from fastreid.utils.suggest import explain_choice

_SIGMAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)
_LISTS = 4096  # images whose lists are compared together
_COPIED_NUMBERS = 2**26  # numbers of neighbours' features that are copied together on a GPU

_SCALES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mmd_inv": lambda discrepancy, k: 1 - (discrepancy / (2 * k)).clamp(0, 1),
    "mmd_exp": lambda discrepancy, k: torch.exp(-discrepancy),
    "mmd_raw": lambda discrepancy, k: (discrepancy / (2 * k)).clamp(0, 1),
}
KINDS = (*_SCALES, "jaccard")
"""Kinds of scores, which are described in `consistency_scores`."""


@dataclass(frozen=True)
class NeighborLists:
    """The neighbours of N images by one kind of feature.

    Attributes:
        features: [N, D], of any length except 0.
        indices: the k nearest images of each, nearest first, itself excluded, int64 [N, k].
    """

    features: Tensor
    indices: Tensor


@full_precision()
def consistency_scores(
    global_features: ArrayLike,
    part_features: ArrayLike,
    *,
    k: int = 20,
    kind: str = "mmd_inv",
    search: str = "auto",
    device: str | torch.device = "cpu",
    num_threads: int | None = None,
    nearest: Neighbors | None = None,
) -> Tensor:
    """Return the consistency score of each part of each image, in 0 … 1.

    Args:
        global_features: features of the whole images [N, D].
        part_features: features of P parts [N, P, E].
        k: number of neighbours. The scale of the "mmd" scores depends on it; 20 in the release.
        kind: "mmd_inv" (1 - clamp(MMD² / 2k)), "mmd_exp" (exp(-MMD²)), "mmd_raw" (clamp(MMD² / 2k), as released, which
            is 0 where the neighbours agree), or "jaccard" (common neighbours / all neighbours of both, as PPLR).
        search: as `nearest_neighbors`.
        device: as `nearest_neighbors`; distances are computed there, too.
        num_threads: as `nearest_neighbors`.
        nearest: more than k neighbours of each image by the global features, if they are known.

    Returns:
        float32 [N, P] on the CPU.

    Raises:
        ArgumentError: an unknown kind, wrong shapes, no more images than neighbours, or too few in `nearest`.
        ValueError: as `nearest_neighbors`.
    """
    if kind not in KINDS:
        raise ArgumentError(explain_choice("consistency score (PISL.PSC.SCORE)", kind, KINDS))
    whole, parts = (torch.as_tensor(features).detach() for features in (global_features, part_features))
    if whole.ndim != 2 or parts.ndim != 3 or len(whole) != len(parts):
        shapes = f"{list(whole.shape)} and {list(parts.shape)}"
        raise ArgumentError(f"features must be [N, D] of images and [N, P, E] of their parts, got {shapes}")
    k, device = whole_number(k, "k", 1), usable_device(device)
    _check_nearest(nearest, len(whole), k)

    def lists_of(features: Tensor, found: Neighbors | None = None) -> NeighborLists:
        features = features.float().contiguous()
        if found is None:
            found = nearest_neighbors(features, k + 1, search=search, device=device, num_threads=num_threads)
        # The first is the image itself, unless copies of it have lower indices.
        return NeighborLists(features.to(device), torch.from_numpy(found.indices[:, 1 : k + 1]).long().to(device))

    ours = lists_of(whole, nearest)
    distances = None if kind == "jaccard" else neighbor_distances(ours, num_threads)

    def scores_of(part: int) -> Tensor:  # a function, so that one part is in memory at a time
        theirs = lists_of(parts[:, part])
        if distances is None:
            return _share_in_common(ours.indices, theirs.indices)
        return _SCALES[kind](_discrepancy(distances, neighbor_distances(theirs, num_threads)), k)

    scores = torch.empty(parts.shape[:2])
    for part in range(parts.shape[1]):
        scores[:, part] = scores_of(part)
    return scores


def _check_nearest(nearest: Neighbors | None, num_images: int, k: int) -> None:
    if num_images <= k:
        raise ArgumentError(f"{num_images} images have fewer than {k} neighbours each; lower k (PISL.PSC.KNN)")
    if nearest is not None and (len(nearest.indices) != num_images or nearest.indices.shape[1] <= k):
        got = f"{nearest.indices.shape[1]} of {len(nearest.indices)}"
        raise ArgumentError(f"scores of {num_images} images need {k + 1} neighbours of each, got {got}")


def _share_in_common(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the number of common neighbours / that of all neighbours of two lists [N, k]."""
    blocks = zip(ours.split(_LISTS), theirs.split(_LISTS), strict=True)
    common = torch.cat([(first[:, :, None] == second[:, None]).sum(dim=(1, 2)) for first, second in blocks])
    return common / (2 * ours.shape[1] - common)


def _discrepancy(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the squared MMD of two descriptions [N, k (k - 1) / 2], float64 [N]."""
    # In a k x k matrix each pair of neighbours is twice.
    return torch.cat(
        [
            squared_discrepancy(2 * (first.double() - second.double()).square().sum(dim=1))
            for first, second in zip(ours.split(_LISTS), theirs.split(_LISTS), strict=True)
        ]
    )


def squared_discrepancy(squared_distances: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two points, by a sum of 19 Gaussian kernels.

    Args:
        squared_distances: squared distances of the points, float64 [N].
    """
    sigmas = torch.tensor(_SIGMAS, dtype=torch.float64, device=squared_distances.device)
    return 2 * (1 - torch.exp(-squared_distances[:, None] / (2 * sigmas))).sum(dim=1)


def neighbor_distances(lists: NeighborLists, num_threads: int | None = None) -> Tensor:
    """Return the Euclidean distances between the k neighbours of each image, of features of unit length.

    Args:
        lists: the neighbours.
        num_threads: number of threads on the CPU; default: torch's number.

    Returns:
        float32 [N, k (k - 1) / 2], the upper triangle of the k x k matrix, divided by its greatest entry.
    """
    k, features = lists.indices.shape[1], lists.features
    first, second = torch.triu_indices(k, k, 1, device=features.device)
    factors = 1 / features.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    blocks = []
    for indices in lists.indices.split(_block_size(lists)):
        if features.device.type == "cpu":
            products = products_in_lists(features.numpy(), indices.int().numpy(), thread_count(num_threads))
            cosines = torch.from_numpy(products)
        else:
            rows = features[indices]
            cosines = (rows @ rows.transpose(1, 2))[:, first, second]
        scales = factors[indices]
        cosines.mul_(scales.index_select(1, first)).mul_(scales.index_select(1, second))
        distances = cosines.mul_(-2).add_(2).clamp_min_(0).sqrt_()
        blocks.append(distances.div_(distances.amax(dim=1, keepdim=True) + 1e-8) if k > 1 else distances)
    return torch.cat(blocks)


def _block_size(lists: NeighborLists) -> int:
    """Return the number of images whose neighbours are compared together; on a GPU their features are copied."""
    if lists.features.device.type == "cpu":
        return _LISTS
    return max(1, _COPIED_NUMBERS // (lists.indices.shape[1] * lists.features.shape[1]))
