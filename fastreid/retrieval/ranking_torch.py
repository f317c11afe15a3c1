"""Counts of nearer images in torch, on any device; used for distances on a GPU, with the same integers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastreid.utils.devices import free_memory

# Distances that are counted together. On a CPU this bounds the temporaries to 17 MiB plus those of near images. A GPU
# waits several times for each chunk, and more fit: at worst, if all images are near, a distance takes 64 bytes.
_CHUNK = 2**24
_LARGEST_CHUNK = 2**27
_BYTES = 64


def count_before(
    distances: Tensor,
    positives: np.ndarray,
    positive_starts: np.ndarray,
    removed: np.ndarray,
    removed_starts: np.ndarray,
    junk: np.ndarray,
    num_threads: int = 1,
) -> np.ndarray:
    """Count as `ranking_numpy.count_before`, for a tensor on any device; `num_threads` is not used."""
    counts = np.zeros((3, len(positives)), dtype=np.int64)
    num_rows = max(1, _chunk(distances.device) // max(1, distances.shape[1]))
    for first in range(0, len(distances), num_rows):
        start, stop = (int(starts) for starts in positive_starts[[first, min(first + num_rows, len(distances))]])
        low, high = (int(starts) for starts in removed_starts[[first, min(first + num_rows, len(distances))]])
        if start < stop:
            rows = distances[first : first + num_rows]
            right = _ragged(positives[start:stop], positive_starts[first : first + len(rows) + 1], rows.device)
            gone = _ragged(removed[low:high], removed_starts[first : first + len(rows) + 1], rows.device)
            counts[:, start:stop] = _count_block(rows, right, gone, torch.from_numpy(junk).to(rows.device)).cpu()
    return counts


def _chunk(device: torch.device) -> int:
    """Number of distances that are counted together: on CUDA as many as fit into a quarter of the free memory."""
    if device.type != "cuda":
        return _CHUNK
    return min(_LARGEST_CHUNK, max(_CHUNK, free_memory(device) // 4 // _BYTES))


def _ragged(images: np.ndarray, starts: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the row number of each image, and the images."""
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return torch.from_numpy(row).to(device), torch.from_numpy(images).to(device)


def _count_block(
    distances: Tensor, right: tuple[Tensor, Tensor], removed: tuple[Tensor, Tensor], junk: Tensor
) -> Tensor:
    thresholds = distances[right]
    reach = distances.new_full((len(distances),), -torch.inf)
    reach.scatter_reduce_(0, right[0], thresholds, "amax")
    candidate = distances <= reach[:, None]  # images beyond the last match are before none
    candidate[:, junk] = False
    candidate[removed] = False
    row, image = candidate.nonzero(as_tuple=True)
    near = distances[row, image]
    # One ascending number for (row, distance): the threshold that the distance is equal to, or between.
    values = thresholds.unique()
    place = torch.searchsorted(values, near)
    key = row * (2 * len(values) + 2) + 2 * place + (values[place] == near)
    keys = right[0] * (2 * len(values) + 2) + 2 * torch.searchsorted(values, thresholds) + 1
    width = distances.shape[1]
    first_after = {
        "before": torch.searchsorted(keys * width + right[1], key * width + image, right=True),
        "below": torch.searchsorted(keys, key, right=True),
        "at most": torch.searchsorted(keys, key),
    }
    # Each row has one place more than thresholds, for images after all of them.
    own = torch.arange(len(thresholds), device=row.device) + right[0]
    counts = []
    for first in first_after.values():
        total = torch.bincount(first + row, minlength=len(thresholds) + len(distances)).cumsum(0)
        row_start = torch.searchsorted(right[0], right[0]) + right[0]
        counts.append(total[own] - torch.where(row_start > 0, total[row_start - 1], 0))
    return torch.stack(counts)
