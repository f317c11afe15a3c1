"""A run that is saved and resumed has everything it had."""

import contextlib
import errno
import os

import numpy as np
import pytest
import torch
from torch import nn

from fastreid.utils.checkpoint import Checkpointer, WeightsError, read_checkpoint
from fastreid.utils.checkpointed import CheckpointedModule


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


def test_the_text_of_the_config_is_saved_and_not_asked_for(tmp_path):
    first, _ = make(tmp_path)
    old = first.save("model_0000", epoch=0)
    model = nn.Linear(3, 2)
    second = Checkpointer(model, tmp_path, config_text="A: 1\n", optimizer=torch.optim.Adam(model.parameters()))
    new = second.save("model_0001", epoch=1)
    assert torch.load(new, weights_only=True)["config_yaml"] == "A: 1\n"
    assert (second.resume(old), first.resume(new)) == ({"epoch": 0}, {"epoch": 1})


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


def saved(folder, *epochs):
    """A checkpointer that wrote some epochs, with dates in the opposite order."""
    checkpointer, _ = make(folder)
    for epoch in epochs:
        checkpointer.save(f"model_{epoch:04d}", epoch=epoch, iteration=3 * (epoch + 1))
        os.utime(folder / f"model_{epoch:04d}.pth", (2**32 - epoch, 2**32 - epoch))
    return checkpointer


def test_last_checkpoint_gone_or_damaged(tmp_path, caplog):
    checkpointer = saved(tmp_path, 0, 1, 2)
    (tmp_path / "model_0002.pth").unlink()
    assert checkpointer.last().name == "model_0001.pth" and "it is gone" in caplog.text
    with open(tmp_path / "model_0001.pth", "r+b") as file:
        file.truncate(500)
    assert checkpointer.last().name == "model_0000.pth" and "truncated" in caplog.text
    (tmp_path / "model_0000.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"no checkpoint in .* is whole \(of model_0002.pth, model_0001"):
        checkpointer.last()


def test_one_may_go_back(tmp_path):
    checkpointer = saved(tmp_path, 0, 1, 2)
    (tmp_path / "last_checkpoint").write_text("model_0001.pth")
    assert checkpointer.last().name == "model_0001.pth"
    (tmp_path / "model_0001.pth").write_bytes(b"")
    assert checkpointer.last().name == "model_0000.pth"  # not the later one


@pytest.mark.parametrize("note", [None, b"", b"\xff\xfe\x00", b"a\x00b", b"x" * 5000, b"one\ntwo", b"gone.pth"])
def test_a_lost_last_checkpoint_costs_nothing(tmp_path, caplog, note):
    checkpointer = saved(tmp_path, 0, 2, 1)
    checkpointer.save("model_best", is_last=False, epoch=2, iteration=9)
    (tmp_path / "notes.pth").write_bytes(b"")  # none of ours
    if note is None:
        (tmp_path / "last_checkpoint").unlink()
    else:
        (tmp_path / "last_checkpoint").write_bytes(note)
    assert checkpointer.last().name == "model_0002.pth"
    assert "model_0002.pth, the newest checkpoint that is whole" in caplog.text
    checkpointer.save("model_interrupted", is_last=False, epoch=2, iteration=10)
    assert checkpointer.last().name == "model_interrupted.pth"  # in the middle of an epoch


def test_the_newest_are_kept_whatever_the_clock_says(tmp_path):
    checkpointer = saved(tmp_path, 0, 1, 2, 3)
    checkpointer.remove_all_but(2)
    assert sorted(path.name for path in tmp_path.glob("model_*")) == ["model_0002.pth", "model_0003.pth"]
    checkpointer.resume(checkpointer.last())
    checkpointer.remove_all_but(1)
    assert [path.name for path in tmp_path.glob("model_*")] == ["model_0003.pth"]


def test_what_was_just_saved_is_never_removed(tmp_path):
    checkpointer = saved(tmp_path, 0, 1, 5)
    checkpointer.resume(tmp_path / "model_0001.pth")  # back on purpose
    checkpointer.save("model_0002", epoch=2, iteration=9)
    checkpointer.remove_all_but(1)
    assert sorted(path.name for path in tmp_path.glob("model_*")) == ["model_0002.pth", "model_0005.pth"]


def test_an_earlier_run_is_set_aside_whole(tmp_path):
    checkpointer = saved(tmp_path, 0, 1)
    checkpointer.save("model_best", is_last=False, epoch=0, iteration=3)
    moved = checkpointer.set_aside()
    assert moved == ["model_best_before.pth", "model_0000_before.pth", "model_0001_before.pth"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(moved)
    assert checkpointer.last() is None and checkpointer.set_aside() == []


@pytest.mark.parametrize("number", range(4))
def test_killed_while_it_is_set_aside_an_earlier_run_can_be_resumed(tmp_path, monkeypatch, number):
    checkpointer = saved(tmp_path, 0, 1, 2)
    replace, calls = os.replace, []

    def killed(*paths):
        calls.append(paths)
        if len(calls) > number:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt) if number < 3 else contextlib.nullcontext():
        checkpointer.set_aside()
    last = checkpointer.last()
    assert last is None if number == 3 else last.name == "model_0002.pth"


def test_what_a_killed_process_did_not_come_to_is_done_later(tmp_path):
    checkpointer = saved(tmp_path, 0, 1, 2)
    checkpointer.save("model_interrupted", epoch=2, iteration=9)
    checkpointer.resume(checkpointer.last())
    checkpointer.tidy(2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0002.pth"
    names = ["last_checkpoint", "model_0001.pth", "model_0002.pth"]
    assert sorted(os.listdir(tmp_path)) == names
    checkpointer.save("model_interrupted", epoch=2, iteration=10)
    checkpointer.resume(checkpointer.last())
    checkpointer.tidy(2)
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "model_interrupted.pth"])  # it is ahead of them


def test_equal_content_is_equal_bytes(tmp_path):
    first, optimizer = make(tmp_path / "a")
    step(first, optimizer)
    path = first.save("x", epoch=1, iteration=3)
    again, _ = make(tmp_path / "b", seed=5)
    again.resume(path)
    assert again.save("x", epoch=1, iteration=3).read_bytes() == path.read_bytes()


def test_a_file_of_an_earlier_version_that_torch_cannot_read_is_passed_over(tmp_path, caplog):
    checkpointer = saved(tmp_path, 0, 1)
    newest = tmp_path / "model_0001.pth"
    torch.save(torch.load(newest, weights_only=True), newest)
    assert checkpointer.last() == newest
    content = newest.read_bytes()
    end = content.rindex(b"PK\x06\x06") + 16  # the disk that the archive ends on
    newest.write_bytes(content[:end] + b"\x04" + content[end + 1 :])
    assert checkpointer.last().name == "model_0000.pth" and "unsupported multidisk archive" in caplog.text


def test_damage_is_noticed_by_every_reader(tmp_path):
    checkpointer = saved(tmp_path, 0)
    path = tmp_path / "model_0000.pth"
    content = path.read_bytes()
    directory = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: directory + 38] + bytes([content[directory + 38] ^ 16]) + content[directory + 39 :])
    with pytest.raises(WeightsError, match="model_0000.pth is damaged"):
        read_checkpoint(path)
    with pytest.raises(WeightsError, match="model_0000.pth is damaged"):
        checkpointer.load(path)


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    checkpointer, _ = make(tmp_path)
    path = checkpointer.save("x", epoch=1)

    def no_space(content, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(OSError, match="the disk is full.*Earlier checkpoints are unchanged.*KEEP_CHECKPOINTS"):
        checkpointer.save("x", epoch=2)
    assert read_checkpoint(path)["epoch"] == 1


def test_resuming_another_model_or_bare_weights_is_explained(tmp_path):
    path = make(tmp_path)[0].save("x")
    with pytest.raises(WeightsError, match=r"the model in .*x\.pth does not fit this run"):
        make(tmp_path, model=nn.Linear(3, 5))[0].resume(path)
    torch.save({"model": {}}, tmp_path / "bare.pth")
    with pytest.raises(WeightsError, match="lacks optimizer, rng; use it as MODEL.WEIGHTS"):
        make(tmp_path)[0].resume(tmp_path / "bare.pth")


class Selective(CheckpointedModule, nn.Linear):
    """Keeps only its bias in checkpoints, as a model on a large frozen part would."""

    def checkpoint_state_dict(self):
        return {"bias": self.bias}

    def load_checkpoint_state_dict(self, state, strict=True):
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


def test_a_part_that_the_file_lacks_is_restored_only_if_it_is_asked_for(tmp_path):
    first, optimizer = make(tmp_path)
    step(first, optimizer)
    torch.save({"model": first.model.state_dict()}, tmp_path / "bare.pth")
    whole = first.save("model_0000", epoch=0)
    second, later = make(tmp_path, seed=9)
    second.load(tmp_path / "bare.pth")
    assert torch.equal(second.model.weight, first.model.weight) and not later.state
    second.load(whole)
    assert len(later.state) == 2
    with pytest.raises(WeightsError, match="has no optimizer: leave them out"):
        second.load(tmp_path / "bare.pth", checkpointables=["optimizer"])


def test_nothing_is_tidied_before_a_run_was_resumed(tmp_path):
    saved(tmp_path, 0, 1, 2)
    before = sorted(path.name for path in tmp_path.iterdir())
    make(tmp_path)[0].tidy(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
