"""Whether pseudo-labels can be trained on, and what to change if not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastreid.labeling.clustering import Clustering, count_of

_NEARLY_ALL = 0.9


@dataclass(frozen=True)
class Needs:
    """What training needs of clusters.

    Args:
        max_clusters: most clusters, MODEL.HEADS.MAX_CLUSTERS.
        min_clusters: fewest clusters, the people of a batch.
    """

    max_clusters: int
    min_clusters: int


def unusable(labels: Tensor, clustering: Clustering, needs: Needs) -> str:
    """Return why labels cannot be trained on, as a sentence; "" if they can.

    Args:
        labels: clusters [M], -1 for images that are left out.
        clustering: how they were found.
        needs: what training needs.
    """
    count, outliers = count_of(labels), int((labels < 0).sum())
    if count > needs.max_clusters:
        single = ", or set CLUSTER.OUTLIERS drop" if clustering.keeps_outliers else ""
        eps = ", CLUSTER.EPS" if clustering.method == "dbscan" else ""
        return (
            f"{count} clusters are more than MODEL.HEADS.MAX_CLUSTERS {needs.max_clusters}: raise it{eps} or "
            f"CLUSTER.MIN_SAMPLES{_values(clustering)}{single}"
        )
    if count < max(1, needs.min_clusters):
        return (
            f"{count} cluster{'s' * (count != 1)}, and {outliers} of {len(labels)} images in none, are too few: a "
            f"batch needs {needs.min_clusters} (SOLVER.IMS_PER_BATCH / DATALOADER.NUM_INSTANCE). "
            f"To get more, {_remedy(labels, clustering)}{_values(clustering)}, or lower the batch"
        )
    return ""


def suspicious(labels: Tensor, clustering: Clustering) -> str:
    """Return what is unlikely about labels that can be trained on, as a sentence; "" if nothing is.

    Args:
        labels: clusters [M], -1 for images that are left out.
        clustering: how they were found.
    """
    outliers = int((labels < 0).sum())
    largest = int(labels[labels >= 0].bincount().max()) if outliers < len(labels) else 0
    if outliers >= _NEARLY_ALL * len(labels):
        what = f"{outliers} of {len(labels)} images are in no cluster"
    elif largest >= _NEARLY_ALL * len(labels):
        what = f"{largest} of {len(labels)} images are in one cluster"
    else:
        return ""
    return f"{what}; if this does not improve in the next epochs, {_remedy(labels, clustering)}{_values(clustering)}"


def _remedy(labels: Tensor, clustering: Clustering) -> str:
    """Return what to change so that fewer images are outliers, or, if few are, so that clusters split."""
    has_eps = clustering.method == "dbscan"
    if 2 * int((labels < 0).sum()) >= len(labels):
        return f"{'raise CLUSTER.EPS or ' if has_eps else ''}lower CLUSTER.MIN_SAMPLES"
    return "lower CLUSTER.EPS" if has_eps else "change CLUSTER.MIN_SAMPLES"


def _values(clustering: Clustering) -> str:
    eps = f"CLUSTER.EPS {clustering.eps:g}, " if clustering.method == "dbscan" else ""
    return f" (now {eps}CLUSTER.MIN_SAMPLES {clustering.min_samples})"
