"""A file written atomically is old or new, never half."""

import os
import stat

import pytest
import torch

from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.files import IsAFolderError, atomic_write


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
