"""The memory of targets against means computed one by one."""

from dataclasses import dataclass

import pytest
import torch

from fastreid.methods.sd_reid.target_memory import FillTargetMemory, TargetMemory
from fastreid.structures import PersonImage
from fastreid.utils.errors import ArgumentError

PEOPLE = torch.tensor([0, 0, 0, 1, 1, 2, 0, 3])
VIEWS = torch.tensor([0, 0, 1, 0, 1, 1, 1, 0])


def vectors(size=8, dim=3):
    return torch.randn(size, 2, dim, generator=torch.Generator().manual_seed(0))


def filled(known=None):
    memory = TargetMemory(num_views=2)
    memory.fit(vectors(), PEOPLE, VIEWS, torch.ones(8, dtype=torch.bool) if known is None else known)
    return memory


def mean_of_others(index, view):
    members = [i for i in range(8) if i != index and PEOPLE[i] == PEOPLE[index] and VIEWS[i] == view]
    return vectors()[members].mean(dim=0)


@pytest.mark.parametrize(("chance", "view"), [(0.0, 0), (0.49, 0), (0.5, 1), (0.999999, 1)])
def test_the_image_itself_is_left_out_of_the_mean(chance, view):
    indices = torch.tensor([0, 1, 2, 6])
    drawn = filled().draw(indices, torch.full((4,), chance))
    assert drawn.views.tolist() == [view] * 4
    expected = torch.stack([mean_of_others(i, view) for i in indices.tolist()])
    torch.testing.assert_close(torch.stack([drawn.latents, drawn.view_tokens], dim=1), expected)


def test_only_views_with_other_images_are_drawn():
    drawn = filled().draw(torch.tensor([3, 4, 3, 4]), torch.tensor([0.0, 0.0, 0.99, 0.99]))
    assert drawn.views.tolist() == [1, 0, 1, 0]
    assert torch.equal(drawn.latents[0], vectors()[4, 0]) and torch.equal(drawn.latents[1], vectors()[3, 0])


def test_a_person_with_one_image_keeps_its_own_vectors():
    drawn = filled().draw(torch.tensor([5, 7]), torch.tensor([0.3, 0.9]))
    assert drawn.views.tolist() == [1, 0]
    assert torch.equal(drawn.latents, vectors()[[5, 7], 0]) and torch.equal(drawn.view_tokens, vectors()[[5, 7], 1])


def test_images_that_could_not_be_read_count_nowhere():
    known = torch.ones(8, dtype=torch.bool)
    known[2] = False
    memory = filled(known)
    drawn = memory.draw(torch.tensor([0]), torch.tensor([0.9]))
    torch.testing.assert_close(drawn.latents[0], vectors()[6, 0])
    with pytest.raises(ArgumentError, match="could not be read"):
        memory.draw(torch.tensor([2]), torch.tensor([0.0]))


def test_an_empty_memory_is_explained():
    with pytest.raises(ArgumentError, match="filled before the first epoch"):
        TargetMemory(2).draw(torch.tensor([0]), torch.tensor([0.0]))


@dataclass
class FakeTrainingSet:
    images: list
    labels: list

    def batches(self, images):
        for part in (slice(0, 3), slice(3, 8)):
            yield {"images": vectors()[part], "indices": torch.arange(8)[part]}


def fill(memory):
    images = [PersonImage(f"{i}.jpg", 100, 0, int(view)) for i, view in enumerate(VIEWS)]
    task = FillTargetMemory(memory, lambda batch: (batch["images"][:, 0], batch["images"][:, 1]))
    assert task.run(FakeTrainingSet(images, PEOPLE.tolist())) is None
    return task


def test_the_task_fills_the_memory_once_and_a_resumed_run_has_the_same():
    memory, other = TargetMemory(2), TargetMemory(2)
    task = fill(memory)
    assert [task.is_due(epoch) for epoch in range(3)] == [True, False, False]
    FillTargetMemory(other, lambda batch: None).load_state_dict(task.state_dict())
    indices, chance = torch.arange(8), torch.linspace(0, 0.99, 8)
    for restored in (memory, other):
        drawn, expected = restored.draw(indices, chance), filled().draw(indices, chance)
        assert torch.equal(drawn.latents, expected.latents) and torch.equal(drawn.views, expected.views)


def test_a_dry_run_draws_zeros():
    memory, images = TargetMemory(num_views=2), torch.zeros(2, 3)
    task = FillTargetMemory(memory, lambda batch: (batch["images"], batch["images"]))

    class Known:
        images = ()

        def batches(self, chosen):
            return [{"images": images}]

    task.rehearse(Known(), lambda compute, batches: compute(batches[0]).shape)
    drawn = memory.draw(torch.tensor([7, 0, 7, 7]), torch.zeros(4))
    assert drawn.latents.shape == drawn.view_tokens.shape == (4, 3) and drawn.views.tolist() == [0] * 4
