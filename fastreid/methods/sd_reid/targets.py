"""Targets of stage 2: which feature is generated from the conditions of an image, as weights over the batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Target = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(people [B], views [B], random numbers [B] in [0, 1)) -> (weights [B, B] over the features of the batch, requested
views [B]). The rows of the weights sum to 1."""


def own(people: Tensor, views: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights of the image's own feature under its own view (as released)."""
    return torch.eye(len(people), device=people.device), views


def same_person_in_view(people: Tensor, views: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights of another image of the same person, in a view that is drawn evenly from those in the batch.

    This trains generation *across* views. An image whose person has no other image in the batch keeps its own feature.
    """
    others = people[:, None] == people[None, :]
    others.fill_diagonal_(False)
    alone = ~others.any(dim=1)
    others |= torch.eye(len(people), dtype=torch.bool, device=people.device) & alone[:, None]
    chosen = _draw_evenly_over_views(others, views, chance)
    return F.one_hot(chosen, len(people)).float(), views[chosen]


def person_in_view(people: Tensor, views: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights of the mean feature of the person in a view that is drawn evenly from those in the batch.

    The expectation is that of `same_person_in_view`, with less variance.
    """
    same_person = people[:, None] == people[None, :]
    requested = views[_draw_evenly_over_views(same_person, views, chance)]
    members = (same_person & (views[None, :] == requested[:, None])).float()
    return members / members.sum(dim=1, keepdim=True), requested


def _draw_evenly_over_views(candidates: Tensor, views: Tensor, chance: Tensor) -> Tensor:
    """Draw one of the candidates [B, B] of each row; each view has the same chance, not each image."""
    in_view = (views[:, None] == views[None, :]).float()
    weights = candidates / (candidates.float() @ in_view).clamp(min=1)
    reached = weights.double().cumsum(dim=1)  # other images add nothing
    threshold = chance.double() * reached[:, -1]
    return (reached > threshold[:, None]).int().argmax(dim=1)


TARGETS: dict[str, Target] = {
    "own": own,
    "same_person_in_view": same_person_in_view,
    "person_in_view": person_in_view,
}

OF_ALL = "person_in_view_of_all"
"""The target whose means are over the whole training set (`TargetMemory`), not over the batch."""
