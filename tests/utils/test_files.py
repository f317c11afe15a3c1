"""A file written atomically is old or new, never half."""

import os
import stat
from pathlib import Path

import pytest
import torch

from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.files import IsAFolderError, OutputError, atomic_write, check_output
from fastreid.utils.lock import path_lock


def test_writes_text_and_bytes_and_makes_the_folder(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with atomic_write(path) as file:
        file.write("é")
    assert path.read_bytes() == "é".encode()
    with atomic_write(path, "wb") as file:
        file.write(b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_keeps_the_old_content_and_leaves_nothing_behind(tmp_path, error):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write("half")
        file.flush()
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_new_content_appears_only_at_the_end(tmp_path):
    path = tmp_path / "x"
    with atomic_write(path) as file:
        file.write("new")
        assert not path.exists()
    assert path.read_text() == "new"


def test_permissions_are_the_usual_ones_or_those_of_the_old_file(tmp_path):
    usual, atomic, secret = tmp_path / "usual", tmp_path / "atomic", tmp_path / "secret"
    usual.touch()
    with atomic_write(atomic):
        pass
    assert stat.S_IMODE(atomic.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    secret.touch(mode=0o600)
    with atomic_write(secret):
        pass
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_other_modes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'w' or 'wb'"), atomic_write(tmp_path / "x", "a"):
        pass


def test_a_folder_in_the_place_of_the_file_is_named_and_not_the_temporary_file(tmp_path):
    (tmp_path / "last_checkpoint").mkdir()
    message = "last_checkpoint is a folder, but a file should be written there"
    with pytest.raises(IsAFolderError, match=message), atomic_write(tmp_path / "last_checkpoint"):
        raise AssertionError("nothing is to be written")
    with pytest.raises(IsAFolderError, match=r"^\. is a folder"), atomic_write(""):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["last_checkpoint"]


def test_a_folder_in_the_place_of_a_checkpoint_is_named(tmp_path):
    (tmp_path / "model_best.pth").mkdir()
    with pytest.raises(IsAFolderError, match="model_best.pth is a folder"):
        Checkpointer(torch.nn.Linear(1, 1), tmp_path).save("model_best", is_last=False)


def test_a_link_stays_one_and_its_file_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    for name in ("there.txt", "not yet.txt"):
        link = tmp_path / f"link to {name}"
        link.symlink_to(Path("far", name))
        with atomic_write(link) as file:
            file.write("new")
        assert link.is_symlink() and (tmp_path / "far" / name).read_text() == "new"
    assert {path.name for path in (tmp_path / "far").iterdir()} == {"there.txt", "not yet.txt"}


@pytest.mark.skipif(os.name != "posix", reason="POSIX names")
def test_what_is_no_file_is_refused_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/null", "/dev/stdout", "/proc/self/fd/1"):
        with pytest.raises(OutputError, match=f"^{path} is a device, a pipe or a socket"), atomic_write(path):
            pass
        with pytest.raises(OutputError, match="name a file"), path_lock(path):
            pass
    assert stat.S_ISFIFO(pipe.stat().st_mode) and stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_an_input_is_not_written_to(tmp_path):
    read, other, link = (tmp_path / name for name in ("read.npz", "other.npz", "link.npz"))
    read.write_text("rows")
    link.symlink_to(read)
    for output in (read, link, tmp_path / "x" / ".." / "read.npz"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="would be overwritten, but this command also reads it"):
            check_output(output, [tmp_path / "missing", read])
    check_output(other, [read])
    with pytest.raises(OutputError, match="is too long: at most 240 bytes"):
        check_output(tmp_path / ("ä" * 121))


def test_the_next_one_removes_what_a_killed_process_left(tmp_path):
    for name in (".a.txt.abcdefgh.tmp", ".a.txt.bcdefghi.tmp", ".b.txt.abcdefgh.tmp"):
        (tmp_path / name).write_text("half")
    with path_lock(tmp_path / "a.txt"), atomic_write(tmp_path / "a.txt"), path_lock(tmp_path / "a.txt"):
        assert len(list(tmp_path.glob(".a.txt.*.tmp"))) == 1  # the new one
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.txt.abcdefgh.tmp", "a.txt"]
