"""A run that is saved and resumed has everything it had."""

import errno
import os

import numpy as np
import pytest
import torch
from torch import nn

from fastreid.utils.checkpoint import Checkpointer, WeightsError, read_checkpoint


def make(folder, seed=0, model=None):
    torch.manual_seed(seed)
    model = model or nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return Checkpointer(model, folder, optimizer=optimizer), optimizer


def step(checkpointer, optimizer):
    checkpointer.model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_resume_restores_model_optimizer_values_and_random_states(tmp_path):
    first, first_optimizer = make(tmp_path)
    step(first, first_optimizer)
    path = first.save("model_0000", epoch=0, best_metric=np.float64(12.5))
    expected = torch.rand(3)
    step(first, first_optimizer)

    second, second_optimizer = make(tmp_path, seed=9)
    assert second.last() == path
    assert second.resume(path) == {"epoch": 0, "best_metric": 12.5}
    assert torch.equal(torch.rand(3), expected)
    step(second, second_optimizer)
    assert torch.equal(first.model.weight, second.model.weight)


def test_file_is_plain_and_readable_without_running_code(tmp_path):
    checkpointer, _ = make(tmp_path)
    path = checkpointer.save("x", epoch=1, note=None)
    content = torch.load(path, weights_only=True)
    assert set(content) == {"model", "weights", "optimizer", "rng", "epoch", "note"}
    assert type(content["model"]) is dict


def test_objects_are_refused_before_anything_is_written(tmp_path):
    checkpointer, _ = make(tmp_path)
    with pytest.raises(TypeError, match=r"x\.pth/where is a object"):
        checkpointer.save("x", where=object())
    assert os.listdir(tmp_path) == []


def test_a_save_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    checkpointer, _ = make(tmp_path)
    path = checkpointer.save("x", epoch=1)

    def half_written(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        checkpointer.save("x", epoch=2)
    assert read_checkpoint(path)["epoch"] == 1
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "x.pth"]


def test_best_does_not_become_the_one_to_resume(tmp_path):
    checkpointer, _ = make(tmp_path)
    assert checkpointer.last() is None
    checkpointer.save("model_0000", epoch=0)
    checkpointer.save("model_best", is_last=False, epoch=0)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000.pth"


def test_last_checkpoint_gone_or_damaged(tmp_path, caplog):
    checkpointer, _ = make(tmp_path)
    for epoch in range(3):
        checkpointer.save(f"model_{epoch:04d}", epoch=epoch)
        os.utime(tmp_path / f"model_{epoch:04d}.pth", (epoch, epoch))
    (tmp_path / "model_0002.pth").unlink()
    assert checkpointer.last().name == "model_0001.pth" and "it is gone" in caplog.text
    with open(tmp_path / "model_0001.pth", "r+b") as file:
        file.truncate(500)
    assert checkpointer.last().name == "model_0000.pth" and "truncated" in caplog.text
    (tmp_path / "model_0000.pth").write_bytes(b"")
    os.utime(tmp_path / "model_0000.pth", (0, 0))
    with pytest.raises(WeightsError, match=r"no checkpoint in .* is whole \(of model_0002.pth, model_0001"):
        checkpointer.last()


def test_somebody_may_go_back(tmp_path):
    checkpointer, _ = make(tmp_path)
    for epoch in range(3):
        checkpointer.save(f"model_{epoch:04d}", epoch=epoch)
        os.utime(tmp_path / f"model_{epoch:04d}.pth", (epoch, epoch))
    (tmp_path / "last_checkpoint").write_text("model_0001.pth")
    (tmp_path / "model_0001.pth").write_bytes(b"")
    os.utime(tmp_path / "model_0001.pth", (1, 1))
    assert checkpointer.last().name == "model_0000.pth"  # not the later one


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    checkpointer, _ = make(tmp_path)
    path = checkpointer.save("x", epoch=1)

    def no_space(content, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(OSError, match="the disk is full.*Earlier checkpoints are as they were.*KEEP_CHECKPOINTS"):
        checkpointer.save("x", epoch=2)
    assert read_checkpoint(path)["epoch"] == 1


def test_resuming_another_model_or_bare_weights_is_explained(tmp_path):
    path = make(tmp_path)[0].save("x")
    with pytest.raises(WeightsError, match=r"the model in .*x\.pth does not fit this run"):
        make(tmp_path, model=nn.Linear(3, 5))[0].resume(path)
    torch.save({"model": {}}, tmp_path / "bare.pth")
    with pytest.raises(WeightsError, match="lacks optimizer, rng; use it as MODEL.WEIGHTS"):
        make(tmp_path)[0].resume(tmp_path / "bare.pth")


class Selective(nn.Linear):
    """Keeps only its bias in checkpoints, as a model on a large frozen part would."""

    def checkpoint_state_dict(self):
        return {"bias": self.bias}

    def load_checkpoint_state_dict(self, state):
        self.load_state_dict(state, strict=False)


def test_a_model_may_choose_what_it_keeps(tmp_path):
    path = make(tmp_path, model=Selective(3, 2))[0].save("x")
    content = read_checkpoint(path)
    assert set(content["model"]) == {"bias"} and not content["model"]["bias"].requires_grad
    other = Selective(3, 2)
    weight = other.weight.clone()
    make(tmp_path, model=other)[0].resume(path)
    assert torch.equal(other.weight, weight)
    assert torch.equal(other.bias, content["model"]["bias"])
