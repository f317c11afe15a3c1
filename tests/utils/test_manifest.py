"""Fingerprints of data, checksums of files, the version of the code."""

import hashlib
import os
import subprocess

import pytest

import fastreid
from fastreid.structures import PersonImage
from fastreid.utils import manifest


def images(root, people=(1, 2)):
    return [PersonImage(f"{root}/Cam{c}/p{person}.jpg", person, c, c % 2) for person in people for c in (1, 2)]


def test_a_fingerprint_is_of_names_and_ids_not_of_places_or_order():
    first = manifest.fingerprint(images("/data/CARGO/train"))
    assert (first["images"], first["people"], first["cameras"], first["views"]) == (4, 2, 2, 2)
    assert manifest.fingerprint(reversed(images("elsewhere/train"))) == first
    lines = "Cam1/p1.jpg\t1\t1\t1\nCam1/p2.jpg\t2\t1\t1\nCam2/p1.jpg\t1\t2\t0\nCam2/p2.jpg\t2\t2\t0"
    assert first["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        images("/d", people=(1, 3)),
        images("/d")[:-1],
        [PersonImage("/d/Cam1/p1.jpg", 1, 1, 0), *images("/d")[1:]],
        [],
        [PersonImage("/only/one.jpg", 1, 1)],
        [PersonImage("/a.jpg", 1, 1), PersonImage("b.jpg", 1, 1)],
    ],
)
def test_other_images_have_another_one(other):
    assert manifest.fingerprint(other)["sha256"] != manifest.fingerprint(images("/d"))["sha256"]


def test_a_name_that_is_not_utf_8_has_the_fingerprint_of_its_bytes():
    found = manifest.fingerprint([PersonImage(os.fsdecode(b"/d/\xff.jpg"), 1, 1)])
    assert found["sha256"] == hashlib.sha256(b"\xff.jpg\t1\t1\t0").hexdigest()


def test_checksum_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 10**6)
    assert manifest.sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    assert manifest.sha256_of(tmp_path / "gone") is None


def clone(folder, monkeypatch):
    package = folder / "fastreid"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(fastreid, "__file__", str(package / "__init__.py"))
    return package


def git(folder, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x@y"]
    return subprocess.run(["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True).stdout


def test_the_commit_of_a_clone_and_whether_it_was_changed(tmp_path, monkeypatch):
    package = clone(tmp_path, monkeypatch)
    assert manifest.code_version()["commit"] is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    found = manifest.code_version()
    assert found["commit"] == git(tmp_path, "rev-parse", "HEAD").strip() and found["changed"] is False
    (package / "__init__.py").write_text("x = 1")
    assert manifest.code_version()["changed"] is True


def test_a_clone_of_somebody_else_around_an_installed_package_is_not_ours(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    (tmp_path / "venv").mkdir()
    clone(tmp_path / "venv", monkeypatch)
    assert manifest.code_version()["commit"] is None


def test_what_is_no_manifest_is_none(tmp_path):
    for text in ("", "[1]", '{"format": 99}'):
        (tmp_path / "m.json").write_text(text)
        assert manifest.read_manifest(tmp_path / "m.json") is None
    assert manifest.read_manifest(tmp_path / "gone.json") is None
