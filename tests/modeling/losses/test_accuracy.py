"""The accuracy that models put into the log."""

import pytest
import torch

from fastreid.modeling.losses import log_accuracy
from fastreid.utils.events import EventStorage

LOGITS = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])


@pytest.mark.parametrize(
    ("options", "share"), [({}, 0.5), ({"topk": (1, 3)}, 0.5), ({"topk": (2,)}, 0.75), ({"topk": (3, 1)}, 1.0)]
)
def test_the_share_of_images_whose_class_is_among_the_first_k(options, share):
    with EventStorage() as storage:
        log_accuracy(LOGITS, torch.tensor([0, 1, 2, 1]), **options)
    assert storage.latest()["cls_accuracy"][0] == share
