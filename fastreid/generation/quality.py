"""Figures of the quality of written pictures, for the data card: functions of features and of rows.

The features should be those of a network that took no part, neither in writing nor in filtering. The figures are our
choice; the paper reports none.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.generation.journal import Row
from fastreid.utils.checkpoint_file import read_checkpoint
from fastreid.utils.errors import ArgumentError
from fastreid.utils.optional import optional

logger = logging.getLogger(__name__)

NO_INCEPTION = "FID and KID are left out"


@dataclass(frozen=True)
class SimilarityGap:
    """Mean cosines of pairs of pictures; NaN if there is no such pair.

    Attributes:
        same: of two pictures of one person.
        other: of pictures of two people.
    """

    same: float
    other: float

    @property
    def gap(self) -> float:
        """How much more similar pictures of one person are."""
        return self.same - self.other

    @property
    def diversity(self) -> float:
        """Mean cosine distance of two pictures of one person."""
        return 1 - self.same


def similarity_gap(features: Tensor, people: Tensor) -> SimilarityGap:
    """Return the mean cosine of all pairs of pictures of one person, and of all pairs of two people.

    Pairs are not enumerated: the cosines of all pairs of a group sum to (|sum of its unit features|^2 - size) / 2.

    Args:
        features: [M, D], of any length.
        people: the person of each, int64 [M].
    """
    rows = F.normalize(features.double(), dim=1)
    known, index = people.unique(return_inverse=True)
    sums = rows.new_zeros(len(known), rows.shape[1]).index_add_(0, index, rows)
    sizes = index.bincount(minlength=len(known)).double()
    lengths = (rows**2).sum(dim=1)  # 1, or 0 for a feature that is 0
    of_person = float((sums**2).sum() - lengths.sum()) / 2
    of_all = float((rows.sum(dim=0) ** 2).sum() - lengths.sum()) / 2
    pairs = float((sizes * (sizes - 1)).sum()) / 2
    all_pairs = len(rows) * (len(rows) - 1) / 2
    return SimilarityGap(_mean(of_person, pairs), _mean(of_all - of_person, all_pairs - pairs))


def diversity_by_person(features: Tensor, people: Tensor) -> dict[int, float]:
    """Return the mean cosine distance of two pictures of each person who has two.

    Args:
        features: [M, D], of any length.
        people: the person of each, int64 [M].
    """
    found = {}
    for person in people.unique().tolist():
        own = features[people == person]
        if len(own) > 1:
            found[person] = similarity_gap(own, torch.zeros(len(own), dtype=torch.int64)).diversity
    return found


def identity_similarity(features: Tensor, people: Tensor, real: Tensor, real_people: Tensor) -> SimilarityGap:
    """Return the mean cosine of written pictures to the real images of their person, and to those of other people.

    Pictures of people without real images are left out; each picture counts equally.

    Args:
        features: of the written pictures, [M, D].
        people: the person of each, int64 [M].
        real: of the real images, [R, D].
        real_people: the person of each, int64 [R].
    """
    rows, others = F.normalize(features.double(), dim=1), F.normalize(real.double(), dim=1)
    known, index = real_people.unique(return_inverse=True)
    sums = others.new_zeros(len(known), others.shape[1]).index_add_(0, index, others)
    sizes = index.bincount(minlength=len(known)).double()
    is_known = torch.isin(people, known)
    rows, own = rows[is_known], torch.searchsorted(known, people[is_known])
    to_own, to_all = (rows * sums[own]).sum(dim=1), rows @ sums.sum(dim=0)
    same, rest = to_own / sizes[own], (to_all - to_own) / (len(others) - sizes[own])
    return SimilarityGap(_mean(float(same.sum()), len(same)), _mean(float(rest.sum()), len(rest)))


def attribute_entropy(values: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Return the entropy of each attribute in bits: 0 if all pictures agree, log2 K for K equally frequent values.

    Args:
        values: for each picture, attribute -> value; a picture without an attribute counts as "".
    """
    names = sorted({name for row in values for name in row})
    return {name: _entropy(Counter(row.get(name, "") for row in values)) for name in names}


def keep_rates(rows: Sequence[Row]) -> dict[str, float]:
    """Return the share of pictures that are kept as "kept", and for each filter the share that it dropped.

    The shares sum to 1, as a picture is dropped by the first filter that gives a reason.

    Args:
        rows: of the filter stage.

    Raises:
        ArgumentError: there are no rows.
    """
    if not rows:
        raise ArgumentError("no picture was judged: run the stage `filter` first")
    counts = Counter("kept" if row["kept"] else row["reason"].partition(".")[0] for row in rows)
    return {name: counts[name] / len(rows) for name in sorted(counts, key=lambda name: (name != "kept", name))}


def frechet_distance(real: Tensor, written: Tensor) -> float | None:
    """Return the Frechet distance of two sets of features, by torchmetrics: FID if they are Inception's.

    None, with a warning, if torchmetrics is not installed.

    Args:
        real: [R, D], R >= 2.
        written: [M, D], M >= 2.
    """
    fid: Any = optional("torchmetrics.image.fid", "Frechet distances (FID) are left out")
    if fid is None:
        return None
    return _measured(fid.FrechetInceptionDistance(feature=_AsTheyAre(real.shape[1])), real, written)


def kernel_distance(real: Tensor, written: Tensor, subset_size: int = 50, seed: int = 0) -> float | None:
    """Return the mean kernel distance of two sets of features, by torchmetrics: KID if they are Inception's.

    None, with a warning, if torchmetrics is not installed.

    Args:
        real: [R, D].
        written: [M, D].
        subset_size: images of each of the 100 random subsets; fewer if a set has fewer.
        seed: of the subsets.
    """
    kid: Any = optional("torchmetrics.image.kid", "kernel distances (KID) are left out")
    if kid is None:
        return None
    size = min(subset_size, len(real), len(written))
    metric = kid.KernelInceptionDistance(feature=_AsTheyAre(real.shape[1]), subset_size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _measured(metric, real, written)


def inception(weights: str) -> nn.Module | None:
    """Return the Inception network of FID and KID, which takes uint8 [B, 3, H, W] and returns [B, 2048].

    Args:
        weights: a file with the weights of torch-fidelity; nothing is downloaded.

    Returns:
        The network; None, with a warning that says why, if the file or the packages torchmetrics and torch-fidelity are
        missing.

    Raises:
        WeightsError: the file is damaged, or has code in it.
    """
    if not weights or not Path(weights).is_file():
        where = f"there is no file {weights}" if weights else "no file is given"
        logger.warning("Inception's weights are needed (%s): %s", where, NO_INCEPTION)
        return None
    if optional("torch_fidelity", NO_INCEPTION) is None:
        return None
    fid: Any = optional("torchmetrics.image.fid", NO_INCEPTION)
    read_checkpoint(weights)  # refuses code, which torch-fidelity would run
    return fid and fid.NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=weights)


class _AsTheyAre(nn.Module):
    """A feature extractor for inputs that are features already.

    Args:
        num_features: their width.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features


def _measured(metric: Any, real: Tensor, written: Tensor) -> float:
    metric.update(real.double(), real=True)
    metric.update(written.double(), real=False)
    result = metric.compute()
    return float(result[0] if isinstance(result, tuple) else result)


def _entropy(counts: Counter[str]) -> float:
    total = sum(counts.values())
    return sum(count / total * math.log2(total / count) for count in counts.values())


def _mean(total: float, count: float) -> float:
    return total / count if count else math.nan
