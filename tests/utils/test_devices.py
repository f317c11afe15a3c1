"""Copies to a device, and values that are read once."""

import pytest
import torch

from fastreid.utils.devices import ReadOnce, free_memory, to_device, usable_device
from fastreid.utils.errors import ArgumentError
from tests.fake_cuda import DEVICE, FakeCuda


def test_a_copy_to_a_gpu_is_made_from_pinned_memory():
    cuda = FakeCuda()
    with cuda.running():
        moved = to_device(torch.zeros(3), DEVICE)
        assert moved.device == DEVICE and cuda.waits == []
        assert to_device(moved, DEVICE) is moved
        assert to_device(moved, "cpu").device.type == "cpu" and len(cuda.waits) == 1
    plain = torch.zeros(2)
    assert to_device(plain, "cpu") is plain


def test_memory_that_torch_holds_unused_is_free(monkeypatch):
    numbers = {"memory_reserved": 7, "memory_allocated": 4, "mem_get_info": (10, 24)}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory("cuda:1") == 13


def test_a_value_is_read_again_after_a_change_only():
    readings = []
    value = ReadOnce(lambda tensor: readings.append(1) or int(tensor))
    tensor, other = torch.tensor(3), torch.tensor(3)
    assert [value(tensor), value(tensor), len(readings)] == [3, 3, 1]
    tensor.fill_(4)
    assert [value(tensor), value(tensor), len(readings)] == [4, 4, 2]
    assert value(other) == 3 and len(readings) == 3
    with torch.inference_mode():
        made = torch.tensor(5)
        assert value(made) == 5
        made.fill_(6)
        assert value(made) == 6


@pytest.mark.parametrize("number", [0, "0"])
def test_a_number_is_no_device(number):
    with pytest.raises(ArgumentError, match="device '0' is no torch device: do you mean cuda:0"):
        usable_device(number)
