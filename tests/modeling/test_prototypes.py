"""Prototypes: their loss and both updates."""

import pytest
import torch
from torch.nn import functional as F

from fastreid.modeling.prototypes import PrototypeMemory
from fastreid.utils.errors import ArgumentError


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def make(update="hard", classes=4, dim=6):
    memory = PrototypeMemory(classes, dim, temperature=0.05, momentum=0.2, update=update)
    memory.class_prototypes.copy_(unit(classes, dim, seed=1))
    return memory


def test_only_people_of_the_batch_move_and_rows_stay_of_unit_length():
    memory, before = make(), make().class_prototypes.clone()
    memory.update(unit(4, 6), torch.tensor([0, 0, 2, 2]))
    after = memory.class_prototypes
    assert torch.equal(after[[1, 3]], before[[1, 3]])
    assert (after[[0, 2]] != before[[0, 2]]).any(dim=1).all()
    torch.testing.assert_close(after.norm(dim=1), torch.ones(4))


def test_the_hard_update_takes_the_sample_of_lowest_cosine():
    memory, features = make(), unit(3, 6)
    old = memory.class_prototypes[0].clone()
    hardest = features[(features @ old).argmin()]
    memory.update(features, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(memory.class_prototypes[0], F.normalize(0.2 * old + 0.8 * hardest, dim=0))


def test_the_hard_update_takes_the_first_of_equal_samples():
    memory = make()
    axis = torch.eye(6)[0]
    memory.class_prototypes[0] = axis
    features = torch.tensor([[0.6, 0.8, 0, 0, 0, 0], [0.6, -0.8, 0, 0, 0, 0]])
    memory.update(features, torch.tensor([0, 0]))
    torch.testing.assert_close(memory.class_prototypes[0], F.normalize(0.2 * axis + 0.8 * features[0], dim=0))


def test_the_update_by_all_goes_through_the_batch_in_order():
    memory, features = make("all"), unit(2, 6)
    expected = memory.class_prototypes[3].clone()
    for feature in features:
        expected = F.normalize(0.2 * expected + 0.8 * feature, dim=0)
    memory.update(features, torch.tensor([3, 3]))
    torch.testing.assert_close(memory.class_prototypes[3], expected)


def test_gradients_use_the_prototypes_before_the_update():
    raw, targets = torch.randn(4, 6, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, 2, 3])
    gradients = []
    for updates in (False, True):
        memory, features = make(), raw.clone().requires_grad_()
        loss = memory(F.normalize(features), targets)
        if updates:
            memory.update(F.normalize(features), targets)
        loss.backward()
        gradients.append(features.grad)
    assert torch.equal(*gradients)


def test_rebuild_keeps_the_prototype_of_a_class_without_features():
    memory, before = make(), make().class_prototypes.clone()
    features = unit(4, 6)
    memory.rebuild(features, torch.tensor([0, 0, 1, 3]))
    torch.testing.assert_close(memory.class_prototypes[0], F.normalize(features[:2].sum(dim=0), dim=0))
    assert torch.equal(memory.class_prototypes[2], before[2])


def test_prototypes_need_classes():
    with pytest.raises(ArgumentError, match="at least one class"):
        PrototypeMemory(0, 6, temperature=0.05, momentum=0.2, update="hard")
