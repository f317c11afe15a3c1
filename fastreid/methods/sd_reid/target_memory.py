"""Targets from the whole training set: the mean vector of a person in a view, without the image itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastreid.modeling.epoch_task import EpochPlan, EpochTask, ShapeOf, TrainingSet
from fastreid.utils.devices import to_device
from fastreid.utils.errors import ArgumentError

Describe = Callable[[Mapping[str, Any]], tuple[Tensor, Tensor]]
"""A batch -> latents [B, D] and view tokens [B, D]."""


@dataclass(frozen=True)
class DrawnTargets:
    """Targets of B images.

    Args:
        latents: [B, D], the targets.
        view_tokens: [B, D], means of the view tokens of the same images.
        views: [B], the requested views.
    """

    latents: Tensor
    view_tokens: Tensor
    views: Tensor


class TargetMemory:
    """Latent and view token of every training image, and their sums over each person in each view.

    Images are read without augmentation. The means of a frozen encoder are exact, and the same in every epoch and in
    every process; those of an encoder that trains are as of the beginning of the epoch.

    Args:
        num_views: V.
    """

    def __init__(self, num_views: int) -> None:
        self._num_views = num_views
        self._rows: dict[str, Tensor] = {}
        self._made_up: int | None = None

    def make_up(self, dim: int) -> None:
        """Let all targets be zeros of a dimension, for a dry run."""
        self._made_up = dim

    def fit(self, vectors: Tensor, people: Tensor, views: Tensor, known: Tensor) -> None:
        """Take the vectors of all training images.

        Args:
            vectors: [N, 2, D], latents and view tokens.
            people: [N], class labels; images with a negative one belong to no person.
            views: [N].
            known: [N], False for images that could not be read.
        """
        known = known & (people >= 0)
        people = torch.where(known, people, 0)
        place = people * self._num_views + views.clamp(0, self._num_views - 1)
        size = (int(people.max()) + 1) * self._num_views
        sums = torch.zeros(size, *vectors.shape[1:], dtype=torch.float64)
        sums.index_add_(0, place, vectors.double() * known[:, None, None])
        counts = torch.zeros(size, dtype=torch.int64).index_add_(0, place, known.long())
        self._rows = {
            "vectors": vectors.float(),
            "place": place,
            "known": known,
            "sums": sums.unflatten(0, (-1, self._num_views)),
            "counts": counts.view(-1, self._num_views),
        }

    def draw(self, indices: Tensor, chance: Tensor, device: torch.device | str = "cpu") -> DrawnTargets:
        """Draw a view for each image, evenly from those in which its person has other images, and return the means.

        An image whose person has no other image keeps its own vectors.

        Args:
            indices: [B], positions of the images in the training set.
            chance: [B], random numbers in [0, 1), on the CPU.
            device: where the targets are.

        Raises:
            ArgumentError: `fit` was not called, or an image was not among those of `fit`.
        """
        if self._made_up is not None:
            zeros = torch.zeros(len(indices), self._made_up, device=device)
            return DrawnTargets(zeros, zeros.clone(), torch.zeros(len(indices), dtype=torch.int64, device=device))
        if not self._rows:
            raise ArgumentError("the memory of targets is empty: it is filled before the first epoch of a training")
        rows, indices = self._rows, indices.cpu()
        if not bool(rows["known"][indices].all()):
            raise ArgumentError("a training image has no vector in the memory of targets: its file could not be read")
        people, own_view = rows["place"][indices] // self._num_views, rows["place"][indices] % self._num_views
        own = torch.nn.functional.one_hot(own_view, self._num_views)
        others = rows["counts"][people] - own
        requested = _draw_view(others > 0, own_view, chance)
        each = torch.arange(len(indices))
        is_own = own[each, requested]
        vectors = rows["vectors"][indices].double()
        sums = rows["sums"][people, requested] - is_own[:, None, None] * vectors
        count = others[each, requested]
        means = torch.where((count > 0)[:, None, None], sums / count.clamp(min=1)[:, None, None], vectors).float()
        return DrawnTargets(*(to_device(part, device) for part in (means[:, 0], means[:, 1], requested)))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the vectors and what follows from them."""
        return dict(self._rows)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._rows = dict(state)


def _draw_view(candidates: Tensor, own_view: Tensor, chance: Tensor) -> Tensor:
    """Draw one of the candidates [B, V] of each row evenly; the own view if there are none."""
    number = candidates.sum(dim=1)
    chosen = (chance.double() * number).long().clamp(max=(number - 1).clamp(min=0)) + 1
    reached = (candidates.long().cumsum(dim=1) >= chosen[:, None]).int().argmax(dim=1)
    return torch.where(number > 0, reached, own_view)


class FillTargetMemory(EpochTask):
    """Fills a memory before the first epoch; it is saved with the training state.

    Args:
        memory: the memory.
        describe: the latents and view tokens of a batch.
        every_epoch: whether it is filled anew before every epoch, as the encoder trains.
    """

    def __init__(self, memory: TargetMemory, describe: Describe, *, every_epoch: bool = False) -> None:
        self._memory, self._describe, self._every_epoch = memory, describe, every_epoch

    def is_due(self, epoch: int) -> bool:
        """Return True for the first epoch of a run, and for others with `every_epoch`."""
        return epoch == 0 or self._every_epoch

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Read all training images once; labels and order stay."""
        batches = training_set.batches(training_set.images)
        vectors, known = _describe_all(batches, self._describe, len(training_set.images))
        views = torch.tensor([int(image.view) for image in training_set.images])
        self._memory.fit(vectors, torch.tensor(list(training_set.labels)), views, known)
        return None

    def rehearse(self, training_set: TrainingSet, shape_of: ShapeOf) -> None:
        """Let the memory draw zeros."""
        batches = training_set.batches(training_set.images)
        self._memory.make_up(shape_of(lambda batch: self._describe(batch)[0], batches)[1])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the memory."""
        return self._memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory."""
        self._memory.load_state_dict(state)


def _describe_all(batches: Iterable[Mapping[str, Any]], describe: Describe, size: int) -> tuple[Tensor, Tensor]:
    """The vectors [N, 2, D] of all images on the CPU, and which are known [N]."""
    vectors, known = torch.empty(0), torch.zeros(size, dtype=torch.bool)
    for batch in batches:
        pair = torch.stack(describe(batch), dim=1).float().cpu()
        if not len(vectors):
            vectors = torch.zeros(size, *pair.shape[1:])
        vectors[batch["indices"]] = pair
        known[batch["indices"]] = True
    return vectors, known
