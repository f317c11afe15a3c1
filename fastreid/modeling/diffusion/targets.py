"""Whose feature stage 2 learns to generate from an image's conditions."""

from collections.abc import Callable

import torch
from torch import Tensor

Target = Callable[[Tensor, Tensor], Tensor]


def own(people: Tensor, views: Tensor) -> Tensor:
    """The image's own feature under its own view (as released); [B] people, [B] views -> [B] indices."""
    return torch.arange(len(people), device=people.device)


def same_person_in_view(people: Tensor, views: Tensor) -> Tensor:
    """Another image of the same person in a view drawn evenly from those where the batch has one.

    So generation *across* views is trained. An image whose person has no other in the batch keeps its own.
    [B] people, [B] views -> [B] indices into the batch.
    """
    others = people[:, None] == people[None, :]
    others.fill_diagonal_(False)
    # Each view of a person has the same chance, however many images show it.
    in_view = (views[:, None] == views[None, :]).to(torch.float32)
    weights = others / (others.float() @ in_view).clamp(min=1)
    alone = ~others.any(dim=1)
    weights[alone, alone.nonzero().squeeze(1)] = 1.0
    return torch.multinomial(weights, 1).squeeze(1)


TARGETS: dict[str, Target] = {"own": own, "same_person_in_view": same_person_in_view}
