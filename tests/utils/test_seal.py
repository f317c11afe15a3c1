"""Every byte of a checkpoint is covered by a checksum, and torch reads it like any other."""

import errno
import os
import random
import zlib

import pytest
import torch

from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.checkpoint_file import WeightsError, read_checkpoint
from fastreid.utils.files import DiskError
from fastreid.utils.seal import checksum_of, damage_in, is_sealed, save_sealed

CONTENT = {"model": {"weight": torch.arange(6.0)}, "epoch": 3, "name": "é"}


@pytest.fixture
def path(tmp_path):
    save_sealed(CONTENT, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def test_the_file_ends_with_the_checksum_of_all_bytes_before(path):
    """In this form, so that any version reads the files of the others."""
    before, digits = path.read_bytes()[:-8], path.read_bytes()[-8:]
    assert before.endswith(b"fastreid crc-32 ") and digits == f"{zlib.crc32(before):08x}".encode()


def test_the_checksum_is_read_from_the_end_or_computed(path, tmp_path):
    assert checksum_of(path) == path.read_bytes()[-8:].decode()
    torch.save(CONTENT, tmp_path / "plain.pth")
    assert checksum_of(tmp_path / "plain.pth") == f"{zlib.crc32((tmp_path / 'plain.pth').read_bytes()):08x}"


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_it(path, mmap):
    content = torch.load(path, weights_only=True, mmap=mmap)
    assert torch.equal(content["model"]["weight"], CONTENT["model"]["weight"])
    assert (content["epoch"], content["name"]) == (3, "é")
    assert is_sealed(path) and damage_in(path) == ""


def test_every_bit_counts(path):
    content, unnoticed = path.read_bytes(), []
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                if not damage_in(path):
                    unnoticed.append((position, bit))
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert unnoticed == [] and damage_in(path) == ""


def test_every_byte_is_needed_and_none_may_follow(path):
    content = path.read_bytes()
    for length in range(len(content)):
        os.truncate(path, len(content) - 1 - length)
        assert damage_in(path)
    for more in (b"\0", b"\n", content[-24:], content):
        path.write_bytes(content + more)
        assert damage_in(path)
    path.write_bytes(content[1:])
    assert damage_in(path)


def test_loading_refuses_what_resuming_refuses(path):
    """A cut seal must not count as a file of another program."""
    content = path.read_bytes()
    damaged = [content[:-cut] for cut in range(1, 80)] + [content + more for more in (b"\0", b"\0" * 100)]
    middle = len(content) // 2
    damaged += [content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 : -7]]
    for number, found in enumerate(damaged):
        path.write_bytes(found)
        with pytest.raises(WeightsError):
            read_checkpoint(path)
        assert damage_in(path), number


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    checkpointer = Checkpointer(torch.nn.Linear(2, 2), tmp_path)
    for epoch in range(2):
        checkpointer.save(f"model_{epoch:04d}", epoch=epoch, iteration=epoch)
    newest = tmp_path / "model_0001.pth"
    content, dice = newest.read_bytes(), random.Random(0)
    damages = [(dice.randrange(len(content)), dice.randrange(8)) for _ in range(40)]
    damages += [(position, 4) for position in range(content.index(b"PK\x01\x02"), len(content), 9)]
    for position, bit in damages:
        newest.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
        caplog.clear()
        assert checkpointer.last().name == "model_0000.pth"
        assert [message.split(": ")[0].split("/")[-1] for message in caplog.messages] == [
            "model_0001.pth cannot be resumed from",
            "model_0000.pth, the newest checkpoint that is whole",
        ]
    assert checkpointer.resume(checkpointer.last())["epoch"] == 0


def test_files_of_earlier_versions_are_looked_through(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(CONTENT, path)
    assert not is_sealed(path) and damage_in(path) == ""
    content = path.read_bytes()
    weight = content.index(CONTENT["model"]["weight"].numpy().tobytes())
    directory = content.rindex(b"PK\x01\x02") + 38
    for position in (weight, directory, 0, len(content) - 1):
        path.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        assert damage_in(path)
    path.write_bytes(content[:-1])
    assert "truncated" in damage_in(path)
    path.write_bytes(b"")
    assert "truncated" in damage_in(path)
    assert damage_in(tmp_path) == damage_in(tmp_path / "none") == "it is gone"


class Full:
    """A file on a disk that gets full after some bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 100, 1000])
def test_torch_does_not_hide_a_full_disk(tmp_path, monkeypatch, room):
    opened = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *args, **kwargs: _Context(Full(opened(*args, **kwargs), room)))
    with pytest.raises(DiskError, match="x.pth could not be written: the disk is full .* MiB are free") as error:
        save_sealed(CONTENT, tmp_path / "x.pth")
    assert error.value.errno == errno.ENOSPC and os.listdir(tmp_path) == []


class _Context:
    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self.file

    def __exit__(self, *error):
        self.file.close()


def test_a_file_is_known_by_the_mark_at_its_end_if_the_record_before_it_is_damaged(path):
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x05\x06")] ^= 1
    path.write_bytes(content)
    assert is_sealed(path) and "checksum differs" in damage_in(path)
