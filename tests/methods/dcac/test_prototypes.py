"""The epoch task that rebuilds the prototypes."""

import torch
from torch.nn import functional as F

from fastreid.methods.dcac.prototypes import RebuildPrototypes
from fastreid.structures import PersonImage, View
from tests.modeling.test_prototypes import make, unit


class Images:
    """A training set of four images, the second of which cannot be read."""

    images = [PersonImage(f"{i}.jpg", 10 + i, 0, View.AERIAL) for i in range(4)]
    labels = [0, 0, 1, 1]

    def features(self, model):
        return torch.tensor([0, 2, 3]), 3 * unit(3, 6)


def test_the_epoch_task_uses_labels_and_skips_unreadable_images():
    memory = make()
    task = RebuildPrototypes(memory, torch.nn.Identity(), period=2)
    assert [task.is_due(epoch) for epoch in range(4)] == [True, False, True, False]
    assert task.in_all_processes
    assert task.run(Images()) is None
    features = unit(3, 6)
    torch.testing.assert_close(memory.class_prototypes[0], features[0])
    torch.testing.assert_close(memory.class_prototypes[1], F.normalize(features[1] + features[2], dim=0))
