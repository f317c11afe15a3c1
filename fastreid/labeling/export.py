"""Writes what clusters the images of a trained model form: a table, and a contact sheet of each cluster."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastreid.data.picture_grid import picture_grid, spread_evenly
from fastreid.labeling.centroids import centroids
from fastreid.labeling.clustering import count_of
from fastreid.utils.display_text import printable
from fastreid.utils.files import atomic_write, remove_leftovers, save_picture

logger = logging.getLogger(__name__)

TABLE, SHEETS = "clusters.csv", "clusters"
MAX_SHEETS, MAX_IMAGES = 500, 64


def export_clusters(folder: Path, paths: Sequence[str], features: Tensor, clusters: Tensor) -> None:
    """Write FOLDER/clusters.csv, and FOLDER/clusters/NNNN.jpg of each cluster, numbered from the largest on.

    The table has a row for each image: its path, its cluster, and the cosine distance of its feature to the centre of
    the cluster; outliers have the cluster -1 and no distance. Rows of a cluster are in the order of the distance. Of
    more than 64 images of a cluster, the sheet shows 64 that are spread evenly over this order. The 500 largest
    clusters have a sheet. Sheets of an earlier export are removed.

    Args:
        folder: OUTPUT_DIR.
        paths: path of each image [M].
        features: [M, D].
        clusters: int64 [M], -1 for outliers.
    """
    numbers, distances = by_size(clusters), _distances(features, clusters)
    order = sorted(range(len(paths)), key=lambda at: (numbers[at] < 0, numbers[at], distances[at], paths[at]))
    with atomic_write(folder / TABLE) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "cluster", "distance"])
        for at in order:
            writer.writerow([printable(paths[at]), numbers[at], f"{distances[at]:.6f}" if numbers[at] >= 0 else ""])
    members: dict[int, list[str]] = {}
    for at in order:
        if 0 <= numbers[at] < MAX_SHEETS:
            members.setdefault(numbers[at], []).append(paths[at])
    _write_sheets(folder / SHEETS, members)
    cut = sum(len(images) > MAX_IMAGES for images in members.values())
    logger.info(
        "%s has the %d clusters of the trained model; %s has contact sheets of the %d largest; %d of them have more "
        "than %d images, of which so many are shown",
        folder / TABLE, count_of(clusters), folder / SHEETS, len(members), cut, MAX_IMAGES,
    )  # fmt: skip


def by_size(clusters: Tensor) -> list[int]:
    """Return the cluster of each image [M], numbered from the largest on; equal sizes keep their order."""
    sizes = clusters[clusters >= 0].bincount(minlength=count_of(clusters))
    rank = sizes.argsort(descending=True, stable=True).argsort()
    return [int(rank[cluster]) if cluster >= 0 else -1 for cluster in clusters.tolist()]


def _distances(features: Tensor, clusters: Tensor) -> list[float]:
    """Return the cosine distance of each image to the centre of its cluster, at least 0; 0 for outliers."""
    is_kept, distances = clusters >= 0, torch.zeros(len(clusters))
    own = centroids(features, clusters)[clusters[is_kept]]
    distances[is_kept] = 1 - (F.normalize(features[is_kept].float(), dim=1) * own).sum(dim=1)
    return distances.clamp(min=0).tolist()


def _write_sheets(folder: Path, members: dict[int, list[str]]) -> None:
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    for number, images in members.items():
        save_picture(_sheet(number, images), folder / f"{number:04d}.jpg", quality=85)
    for old in folder.glob("[0-9][0-9][0-9][0-9].jpg"):
        if int(old.stem) not in members:
            old.unlink()


def _sheet(number: int, images: Sequence[str]) -> Image.Image:
    """Draw images of one cluster in rows, in their order, below a line that says how many it has."""
    shown = spread_evenly(images, MAX_IMAGES)
    note = f" ({len(shown)} shown)" if len(shown) < len(images) else ""
    return picture_grid(f"cluster {number}: {len(images)} images{note}, nearest to the centre first", shown)
