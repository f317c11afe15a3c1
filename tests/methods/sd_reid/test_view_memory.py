"""The view memory bank against its definition."""

import pytest
import torch

from fastreid.methods.sd_reid.view_memory import ViewMemoryBank


def test_the_first_mean_is_taken_as_it_is_then_the_new_mean_has_the_momentum():
    bank = ViewMemoryBank(2, 3, momentum=0.8)
    views = torch.tensor([0, 0, 1])
    bank.update(torch.tensor([[1.0] * 3, [3.0] * 3, [5.0] * 3]), views)
    assert bank.centres.tolist() == [[2.0] * 3, [5.0] * 3]
    bank.update(torch.tensor([[7.0] * 3, [7.0] * 3, [0.0] * 3]), views)
    torch.testing.assert_close(bank.centres, torch.tensor([[0.8 * 7 + 0.2 * 2] * 3, [0.2 * 5] * 3]))


def test_a_view_with_one_image_keeps_its_dimensions():
    """The release collapses it to one number."""
    bank = ViewMemoryBank(2, 3, momentum=0.8)
    bank.update(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]))
    assert bank.centres[1].tolist() == [1.0, 2.0, 3.0]


def test_an_absent_view_stays_as_it_was():
    bank = ViewMemoryBank(2, 2, momentum=0.8)
    bank.update(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
    bank.update(torch.tensor([[4.0, 4.0]]), torch.tensor([1]))
    assert bank.centres.tolist() == [[1.0, 1.0], [4.0, 4.0]]


def test_centres_are_saved_but_never_trained():
    bank = ViewMemoryBank(2, 2, momentum=0.8)
    assert not list(bank.parameters()) and set(bank.state_dict()) == {"centres", "seen"}


def test_a_view_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"\[0, 2\] do not fit MODEL.SDMODEL.VIEW_NUM=2"):
        ViewMemoryBank(2, 2, momentum=0.8).update(torch.zeros(2, 2), torch.tensor([0, 2]))


def test_the_momentum_must_be_a_share():
    with pytest.raises(ValueError, match="MOMENTUM"):
        ViewMemoryBank(2, 2, momentum=0.0)


def test_autocast_does_not_round_centres():
    tokens, views = torch.randn(8, 16), torch.arange(8) % 2
    exact, cast = ViewMemoryBank(2, 16, momentum=0.8), ViewMemoryBank(2, 16, momentum=0.8)
    exact.update(tokens, views)
    with torch.autocast("cpu", torch.bfloat16):
        cast.update(tokens, views)
    assert torch.equal(exact.centres, cast.centres)
