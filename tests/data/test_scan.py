"""The scan of folders: every suffix that is decoded, any tree, and what is skipped is counted by reason."""

import errno
import logging
import os
import socket

import pytest
from PIL import Image

from fastreid.data import scan as scanning
from fastreid.data.datasets import DatasetError
from fastreid.data.formats import FORMATS, image_suffixes, readable_formats
from fastreid.data.images import decode
from fastreid.data.scan import images_below, scan
from tests.data.benchmarks.trees import touch


def names(found):
    return [path.relative_to(found.home).as_posix() for path in found.images]


def test_every_suffix_of_a_format_that_is_decoded_is_found(tmp_path):
    files = [f"{number:02}{suffix}" for number, suffix in enumerate(sorted(image_suffixes()))]
    touch(tmp_path, *files, "UPPER.WEBP")
    assert names(scan(tmp_path)) == [*files, "UPPER.WEBP"]
    assert {".jpg", ".jfif", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm"} <= image_suffixes()


@pytest.mark.parametrize("kind", sorted({*readable_formats()} & {*Image.SAVE}))
def test_every_format_of_the_table_is_decoded(tmp_path, kind):
    path = tmp_path / f"a{FORMATS[kind][0]}"
    Image.new("RGB", (16, 32), (200, 30, 30)).save(path, kind)
    red, green, blue = decode(path.read_bytes(), str(path)).getpixel((8, 16))
    assert red > 150 and green < 80 and blue < 80


def test_what_is_skipped_is_counted_by_reason(tmp_path, caplog):
    touch(tmp_path, "a.jpg", "b.txt", "x/c.txt", "x/d.MP4", "e", ".f.jpg", "@eaDir/g.jpg", "x/Thumbs.db")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "x/self.png").symlink_to("self.png")
    (tmp_path / "folder.png").mkdir()
    with caplog.at_level(logging.INFO):
        assert [path.name for path in images_below(tmp_path)] == ["a.jpg"]
        images_below(tmp_path)
    warned, informed = caplog.records  # once, though it was looked into twice
    assert warned.levelname == "WARNING" and informed.levelname == "INFO"
    assert warned.message == (
        f"{tmp_path}: skipped 2 broken links: gone.jpg, x/self.png; "
        "1 empty folders with the name of an image: folder.png; "
        "4 files with other suffixes: no suffix (1), .mp4 (1), .txt (2)"
    )
    assert "1 hidden entries" in informed.message and "2 entries created by operating systems" in informed.message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_what_is_no_regular_file_is_skipped_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
        (tmp_path / "device.jpg").symlink_to("/dev/zero")
        found = scan(tmp_path)
    assert not found.images
    assert sorted(map(os.path.basename, found.skipped["entries that are not regular files"])) == [
        *("device.jpg", "pipe.jpg", "socket.jpg")
    ]


def test_links_that_lead_in_circles_end(tmp_path):
    touch(tmp_path, "ann/1.jpg", "bob/deep/2.jpg")
    for number in range(6):
        (tmp_path / f"ann/up{number}").symlink_to(tmp_path)
        (tmp_path / f"bob/deep/up{number}").symlink_to("../..")
    found = scan(tmp_path)
    assert names(found) == ["ann/1.jpg", "bob/deep/2.jpg"]
    assert len(found.skipped["links to folders that were already read"]) == 12


def test_twice_as_many_paths_at_every_level_end(tmp_path):
    for level in range(30):
        folder = tmp_path / f"level{level}"
        folder.mkdir()
        for side in ("left", "right"):
            (folder / side).symlink_to(f"../level{level + 1}")
    touch(tmp_path, "level30/1.jpg")
    assert names(scan(tmp_path / "level0")) == ["/".join(["left"] * 30 + ["1.jpg"])]


def test_a_folder_keeps_its_own_name_if_a_link_leads_to_it(tmp_path):
    touch(tmp_path, "zoe/1.jpg")
    (tmp_path / "ann").symlink_to("zoe")
    found = scan(tmp_path)
    assert names(found) == ["zoe/1.jpg"] and found.skipped["links to folders that were already read"]


def test_a_very_deep_tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(400):
        os.mkdir("d")
        os.chdir("d")
    touch(tmp_path, "1.jpg")
    assert names(scan(tmp_path)) == ["1.jpg"]


def test_a_path_that_is_too_long_for_the_system_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(30):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    with pytest.raises(DatasetError, match=r"cannot look into .*…d+ \(.*too long\)") as error:
        scan(tmp_path)
    assert len(str(error.value)) < 600


def test_a_folder_that_is_shut_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "ann/1.jpg", "bob/1.jpg")
    look = os.scandir

    def shut(place):
        if place.endswith("bob"):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return look(place)

    monkeypatch.setattr(scanning.os, "scandir", shut)
    with pytest.raises(DatasetError, match="cannot look into .*bob .Permission denied., so that images may be missing"):
        images_below(tmp_path)


def test_nothing_is_below_a_folder_that_is_not_there(tmp_path):
    assert scan(tmp_path / "nothing").images == []
