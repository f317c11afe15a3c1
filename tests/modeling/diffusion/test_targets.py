"""Whose feature is generated."""

import torch

from fastreid.modeling.diffusion.targets import own, same_person_in_view

PEOPLE = torch.tensor([0, 0, 0, 0, 1, 1, 2])
VIEWS = torch.tensor([0, 0, 0, 1, 0, 1, 0])


def test_own_is_the_image_itself():
    assert own(PEOPLE, VIEWS).tolist() == list(range(7))


def test_another_image_of_the_same_person():
    for _ in range(50):
        chosen = same_person_in_view(PEOPLE, VIEWS)
        assert torch.equal(PEOPLE[chosen], PEOPLE)
        assert (chosen[:6] != torch.arange(6)).all()
        assert chosen[6] == 6  # nobody else: its own


def test_views_are_drawn_evenly_not_images():
    """Image 0's person has two others in view 0 and one in view 1: half the draws are of view 1."""
    torch.manual_seed(0)
    drawn = torch.stack([same_person_in_view(PEOPLE, VIEWS)[0] for _ in range(2000)])
    assert abs((drawn == 3).float().mean().item() - 0.5) < 0.04
