"""Norms by name, IBN halves and virtual batches."""

import sys
import types

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from fastreid.layers import IBN, NORM_REGISTRY, GhostBatchNorm, get_norm

KINDS = {"BN": nn.BatchNorm2d, "GhostBN": GhostBatchNorm, "FrozenBN": FrozenBatchNorm2d, "GN": nn.GroupNorm}


@pytest.mark.parametrize("name", KINDS)
def test_each_name_gives_its_layer(name):
    layer = get_norm(name, 64)
    assert type(layer) is KINDS[name]
    assert layer(torch.randn(4, 64, 3, 2)).shape == (4, 64, 3, 2)


def test_the_synchronised_one_is_ours_as_torchs_has_no_cpu(monkeypatch):
    module = types.ModuleType("fastreid.layers.sync_batch_norm")
    module.SyncBatchNorm = type("SyncBatchNorm", (nn.BatchNorm2d,), {})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert type(get_norm("syncBN", 8)) is module.SyncBatchNorm


def test_all_names_are_tested():
    assert set(NORM_REGISTRY) == {*KINDS, "syncBN"}
    with pytest.raises(KeyError, match="'syncBn'; did you mean 'syncBN'"):
        get_norm("syncBn", 8)


def test_frozen_and_initial_values():
    norm = get_norm("BN", 4, bias_freeze=True, weight_init=0.0, bias_init=2.0)
    assert norm.weight.requires_grad and not norm.bias.requires_grad
    assert norm.weight.tolist() == [0.0] * 4 and norm.bias.tolist() == [2.0] * 4
    assert list(get_norm("FrozenBN", 4, bias_freeze=True).parameters()) == []


def test_virtual_batches_are_normalised_by_themselves():
    torch.manual_seed(0)
    ghost, maps = get_norm("GhostBN", 3, num_splits=2), 5 + 2 * torch.randn(6, 3, 4, 2)
    normed, parts = ghost(maps), [nn.BatchNorm2d(3), nn.BatchNorm2d(3)]
    for number, part in enumerate(parts):
        torch.testing.assert_close(normed[number::2], part(maps[number::2]), rtol=1e-4, atol=1e-5)
    for name in ("running_mean", "running_var"):
        expected = sum(getattr(part, name) for part in parts) / 2
        torch.testing.assert_close(getattr(ghost, name), expected)
    assert ghost.num_batches_tracked == 1
    torch.testing.assert_close(get_norm("GhostBN", 3)(maps), nn.BatchNorm2d(3)(maps))  # one part
    with pytest.raises(ValueError, match="batch of 5 images does not divide"):
        ghost(maps[:5])
    with pytest.raises(ValueError, match="only NORM GhostBN"):
        get_norm("BN", 3, num_splits=2)
    assert ghost.eval()(maps[:5]).shape == (5, 3, 4, 2)


def test_ibn_has_instance_norm_on_the_first_half():
    torch.manual_seed(0)
    ibn, maps = IBN(6, "BN"), 3 + torch.randn(4, 6, 5, 2)
    normed = ibn(maps)
    torch.testing.assert_close(normed[:, :3].mean(dim=(2, 3)), torch.zeros(4, 3), atol=1e-5, rtol=0)
    assert normed[:, 3:].mean(dim=(2, 3)).abs().max() > 0.05  # by the batch: images keep their own means
    torch.testing.assert_close(normed[:, 3:], nn.BatchNorm2d(3)(maps[:, 3:]))
    names = {"IN.weight", "IN.bias", "BN.weight", "BN.bias", "BN.running_mean", "BN.running_var"}
    assert set(ibn.state_dict()) == names | {"BN.num_batches_tracked"}
