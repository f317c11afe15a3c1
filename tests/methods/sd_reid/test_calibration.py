"""The calibration reads all images of every n-th person, once, before the first epoch."""

from dataclasses import dataclass, field

import pytest

from fastreid.methods.sd_reid.calibration import MAX_IMAGES, Calibration
from fastreid.structures import PersonImage


@dataclass
class FakeTrainingSet:
    images: list = field(default_factory=list)
    labels: list = field(default_factory=list)

    def batches(self, images):
        return images


@pytest.mark.parametrize(("each", "stride"), [(1, 1), (MAX_IMAGES // 8, 1), (MAX_IMAGES // 8 + 1, 2), (MAX_IMAGES, 8)])
def test_every_nth_person_is_read_with_its_label(each, stride):
    images = [PersonImage(f"{i}.jpg", 100 + i % 8, 0) for i in range(8 * each)]
    seen = []
    task = Calibration(seen.extend)
    assert task.run(FakeTrainingSet(images, [image.person - 100 for image in images])) is None
    assert {image.person for image in seen} == set(range(0, 8, stride))
    assert [image.path for image in seen] == [image.path for image in images if (image.person - 100) % stride == 0]


def test_it_is_due_before_the_first_epoch_only_unless_the_encoder_trains():
    assert [Calibration(list).is_due(epoch) for epoch in range(3)] == [True, False, False]
    assert [Calibration(list, every_epoch=True).is_due(epoch) for epoch in range(3)] == [True, True, True]
