"""Checksums of files, the version of the code, and reading of manifests."""

import hashlib
import subprocess

import fastreid
from fastreid.utils import manifest


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
