"""Whose feature stage 2 learns to generate from an image's conditions, as weights over the batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# (people [B], views [B], chance [B] in [0, 1)) -> (weights [B, B] over the batch's features, rows sum to 1; requested
# views [B])
Target = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def own(people: Tensor, views: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """The image's own feature under its own view (as released)."""
    return torch.eye(len(people), device=people.device), views


def same_person_in_view(people: Tensor, views: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Another image of the same person in a view drawn evenly from those where the batch has one.

    So generation *across* views is trained. An image whose person has no other in the batch keeps its own.
    """
    others = people[:, None] == people[None, :]
    others.fill_diagonal_(False)
    alone = ~others.any(dim=1)
    others[alone, alone.nonzero().squeeze(1)] = True
    chosen = _draw_evenly_over_views(others, views, chance)
    return F.one_hot(chosen, len(people)).float(), views[chosen]


def person_in_view(people: Tensor, views: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """The mean feature of the person's images in a view drawn evenly from those where the batch shows them.

    What an image should have in common with all others of its person: the same expectation as
    `same_person_in_view`, with less variance.
    """
    same_person = people[:, None] == people[None, :]
    requested = views[_draw_evenly_over_views(same_person, views, chance)]
    members = (same_person & (views[None, :] == requested[:, None])).float()
    return members / members.sum(dim=1, keepdim=True), requested


def _draw_evenly_over_views(candidates: Tensor, views: Tensor, chance: Tensor) -> Tensor:
    """One of each row's candidates [B, B]; each view of them has the same chance, however many images show it."""
    in_view = (views[:, None] == views[None, :]).float()
    weights = candidates / (candidates.float() @ in_view).clamp(min=1)
    reached = weights.double().cumsum(dim=1)  # of the candidates only: others in between do not move it
    threshold = chance.double() * reached[:, -1]
    return (reached > threshold[:, None]).int().argmax(dim=1)


TARGETS: dict[str, Target] = {
    "own": own,
    "same_person_in_view": same_person_in_view,
    "person_in_view": person_in_view,
}
