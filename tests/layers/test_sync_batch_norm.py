"""Batch norm over all processes: alone it is PyTorch's; tests/engine/test_distributed.py has two processes."""

from unittest import mock

import pytest
import torch
from torch import nn

from fastreid.layers.sync_batch_norm import SyncBatchNorm, synchronized
from fastreid.utils import comm
from tests.fake_cuda import DEVICE, FakeCuda


@pytest.fixture
def as_if_several(monkeypatch):
    """The several processes' way, with sums over this one only."""
    monkeypatch.setattr(comm, "is_distributed", lambda: True)
    monkeypatch.setattr(comm, "all_reduce_sum", lambda tensor: tensor.detach().clone())
    monkeypatch.setattr(comm, "sum_over_processes", lambda tensor: tensor)


@pytest.mark.parametrize(("plain", "shape"), [(nn.BatchNorm1d, (6, 3)), (nn.BatchNorm2d, (2, 3, 4, 5))])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_it_computes_what_batch_norm_does(as_if_several, plain, shape, momentum):
    torch.manual_seed(0)
    expected, own = plain(3, momentum=momentum), SyncBatchNorm(3, momentum=momentum)
    values = (torch.randn(*shape) * 3 + 100).requires_grad_()
    for module in (expected, own):
        nn.init.normal_(module.weight.data)
    own.load_state_dict(expected.state_dict())
    gradients = []
    for module in (expected, own):
        module.weight.grad = values.grad = None
        (module(values).square() * torch.linspace(0, 1, values.numel()).view(shape)).sum().backward()
        gradients.append((values.grad.clone(), module.weight.grad.clone()))
    torch.testing.assert_close(own(values), expected(values), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(own.state_dict(), expected.state_dict())
    torch.testing.assert_close(own.eval()(values), expected.eval()(values))


def test_half_precision_comes_back_as_it_was_and_is_summed_in_float32(as_if_several):
    values = (torch.randn(4000, 2) + 50).bfloat16()
    normal = SyncBatchNorm(2)(values)
    assert normal.dtype is torch.bfloat16 and abs(normal.float().std().item() - 1) < 0.01


def test_a_module_is_synchronised_with_its_own_tensors():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3)), nn.BatchNorm1d(2)).eval()
    weight, state = module[1][0].weight, module.state_dict()
    weight.requires_grad_(False)
    changed = synchronized(module)
    assert changed is module and isinstance(module[1][0], SyncBatchNorm) and isinstance(module[2], SyncBatchNorm)
    assert module[1][0].weight is weight and module[1][0].eps == 1e-3 and not module[1][0].training
    assert module.state_dict().keys() == state.keys()


def test_on_gpus_it_is_torch_s(as_if_several):
    cuda = FakeCuda()
    layer = cuda.move(SyncBatchNorm(3))
    with cuda.running(), mock.patch.object(nn.SyncBatchNorm, "forward", return_value="torch's") as theirs:
        assert layer(torch.empty(4, 3, device=DEVICE)) == "torch's"
        assert layer.eval()(torch.empty(4, 3, device=DEVICE)).shape == (4, 3)
    assert theirs.call_count == 1
    with cuda.running():
        assert layer.train()(torch.empty(4, 3, device=DEVICE)).shape == (4, 3)  # torch's finds what it uses
    assert not cuda.waits


def test_what_has_no_channels_is_refused(as_if_several):
    with pytest.raises(ValueError, match=r"expected \[B, C\]"):
        SyncBatchNorm(3)(torch.zeros(3))
