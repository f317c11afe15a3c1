"""Whose feature is generated."""

import torch

from fastreid.methods.sd_reid.targets import own, person_in_view, same_person_in_view

PEOPLE = torch.tensor([0, 0, 0, 0, 1, 1, 2])
VIEWS = torch.tensor([0, 0, 0, 1, 0, 1, 0])


def test_own_is_the_image_itself():
    weights, views = own(PEOPLE, VIEWS, torch.rand(7))
    assert torch.equal(weights, torch.eye(7)) and torch.equal(views, VIEWS)


def test_another_image_of_the_same_person():
    for _ in range(50):
        weights, views = same_person_in_view(PEOPLE, VIEWS, torch.rand(7))
        chosen = weights.argmax(dim=1)
        assert torch.equal(weights.sum(dim=1), torch.ones(7)) and torch.equal(views, VIEWS[chosen])
        assert torch.equal(PEOPLE[chosen], PEOPLE)
        assert (chosen[:6] != torch.arange(6)).all()
        assert chosen[6] == 6  # nobody else: its own


def test_views_are_drawn_evenly_not_images():
    """Image 0's person has two others in view 0 and one in view 1: half the draws are of view 1."""
    torch.manual_seed(0)
    drawn = torch.stack([same_person_in_view(PEOPLE, VIEWS, torch.rand(7))[1][0] for _ in range(2000)])
    assert abs(drawn.float().mean().item() - 0.5) < 0.04


def test_the_mean_of_the_person_in_the_requested_view():
    seen = set()
    for _ in range(50):
        weights, views = person_in_view(PEOPLE, VIEWS, torch.rand(7))
        expected = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0]) if views[0] == 0 else torch.eye(7)[3]
        torch.testing.assert_close(weights[0], expected)
        assert torch.equal(weights[6], torch.eye(7)[6]) and views[6] == 0  # never seen from the ground
        seen.add(int(views[0]))
    assert seen == {0, 1}


def test_the_same_chances_choose_the_same_whoever_else_is_in_the_batch():
    """So a run in two processes, each with half of the people, draws what one with all of them does."""
    chance = torch.rand(7)
    whole, of_two = same_person_in_view(PEOPLE, VIEWS, chance)[0], slice(4, 6)
    part, _ = same_person_in_view(PEOPLE[of_two], VIEWS[of_two], chance[of_two])
    assert torch.equal(whole[of_two, of_two], part)
    first = same_person_in_view(PEOPLE, VIEWS, torch.zeros(7))[0].argmax(dim=1)
    last = same_person_in_view(PEOPLE, VIEWS, torch.full((7,), 1 - 2**-24))[0].argmax(dim=1)
    assert first.tolist() == [1, 0, 0, 0, 5, 4, 6] and last.tolist() == [3, 3, 3, 2, 5, 4, 6]
