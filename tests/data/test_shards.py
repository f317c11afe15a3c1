"""Images in tar files are read by a path through the tar file."""

import io
import tarfile

import pytest

from fastreid.data.images import ImageAccessError, ImageReadError, open_image, read_bytes
from fastreid.data.shards import index_shards


def add(file, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    file.addfile(member, io.BytesIO(content))


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        for name in ("b.jpg", "deep/c.png", "c.json", "empty.jpg"):
            add(file, name, b"" if name == "empty.jpg" else name.encode() * 300)
    return path


def test_members_are_read(tar):
    for name in ("b.jpg", "deep/c.png", "b.jpg"):
        assert read_bytes(f"{tar}/{name}") == name.encode() * 300
        with open_image(f"{tar}/{name}") as file:
            assert file.read() == name.encode() * 300
    assert not (tar.parent / "index.json").exists()  # only `index_shards` writes


@pytest.mark.parametrize(
    ("name", "reason"), [("x.jpg", "no such file"), ("c.json", "no such file"), ("empty.jpg", "empty")]
)
def test_members_that_cannot_be_read(tar, name, reason):
    with pytest.raises(ImageReadError, match=reason) as error:
        read_bytes(f"{tar}/{name}")
    assert not isinstance(error.value, ImageAccessError)


def test_a_folder_that_is_called_like_a_tar_file(tmp_path):
    (tmp_path / "b.tar").mkdir()
    (tmp_path / "b.tar/1.jpg").write_bytes(b"picture")
    assert read_bytes(f"{tmp_path}/b.tar/1.jpg") == b"picture"
    with open_image(f"{tmp_path}/b.tar/1.jpg") as file:
        assert file.read() == b"picture"


def test_a_shard_that_ends_early_is_never_skipped(tar):
    index_shards(tar.parent)
    content = tar.read_bytes()
    tar.write_bytes(content[:700])
    with pytest.raises(ImageAccessError, match=r"a.tar is damaged: it ends before b.jpg does. Copy it again"):
        read_bytes(f"{tar}/b.jpg")


def test_no_tar_file(tmp_path):
    (tmp_path / "d.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(ImageAccessError, match=r"d.tar is damaged or no tar file"):
        read_bytes(f"{tmp_path}/d.tar/1.jpg")


def test_a_folder_that_cannot_be_written_to_is_scanned(tar, monkeypatch, caplog):
    def full(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("fastreid.data.shards.atomic_write", full)
    assert index_shards(tar.parent)["a.tar"].members.keys() == {"b.jpg", "deep/c.png", "empty.jpg"}
    assert "are scanned in every run" in caplog.text
