"""Recognises files that are not checkpoints by their content: a download page, a pointer, another format."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

_HEAD = 1024
_SHOWN = 60
_STATE_DICT = "a PyTorch state dict"
# First bytes -> what the file is, and what to do about it.
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for the file", "fetch the file itself: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow)", "convert it to a PyTorch state dict"),
    (b"\x93NUMPY", "a NumPy array (.npy)", "give a PyTorch state dict"),
    (b"\xff\xd8\xff", "a JPEG picture", "give a PyTorch state dict"),
    (b"\x89PNG", "a PNG picture", "give a PyTorch state dict"),
    (b"%PDF", "a PDF document", "give a PyTorch state dict"),
    (b"GGUF", "a GGUF file", "convert it to a PyTorch state dict"),
)
_PAGE = (
    "a web page (HTML), not the file that was to be downloaded",
    "download it again; a log-in or a confirmation may be needed",
)
_TENSORFLOW = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # ends the index of a TensorFlow checkpoint


def what_it_is(path: str | os.PathLike[str], wanted: str = _STATE_DICT) -> str | None:
    """Return "it is …: what to do" for a file that is recognised as something else than a checkpoint; otherwise None.

    Args:
        path: the file.
        wanted: what the user should give instead.
    """
    path = Path(path)
    size = path.stat().st_size
    if not size:
        return "it is empty: copy or download it again"
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, size - 8))
        tail = file.read()
    found = _by_content(path, head, tail, size)
    return f"it is {found[0]}: {found[1].replace(_STATE_DICT, wanted)}" if found else None


def _by_content(path: Path, head: bytes, tail: bytes, size: int) -> tuple[str, str] | None:
    for signature, what, remedy in _SIGNATURES:
        if head.startswith(signature):
            return what, remedy
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return _PAGE
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it first"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", "convert it to a PyTorch state dict"
    if tail == _TENSORFLOW:
        return "the index of a TensorFlow checkpoint", "convert it to a PyTorch state dict"
    if path.suffix != ".safetensors" and _is_safetensors(head, size):
        return "a safetensors file", f"rename it to {path.with_suffix('.safetensors').name}"
    if path.suffix == ".pb":
        return "a TensorFlow graph", "convert it to a PyTorch state dict"
    # Protocol buffers: the version of the format, then who wrote it.
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a") and head[1] < 64):
        return "an ONNX model", "save the state dict of the PyTorch model that it was exported from"
    return _kind_of_text(head)


def is_torchscript(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an archive of torch.jit.save."""
    return any(entry.filename.endswith("/constants.pkl") for entry in _entries_of(path) or ())


def _entries_of(path: str | os.PathLike[str]) -> list[zipfile.ZipInfo] | None:
    """Return what is in a zip archive; None if it is none, or a part of one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None


def _kind_of_zip(path: Path) -> tuple[str, str] | None:
    entries = _entries_of(path)
    if entries is None:
        return None  # it may be truncated
    if is_torchscript(path):
        return (
            "a TorchScript archive (torch.jit.save)",
            f"convert it: python tools/convert_checkpoint.py {path} NEW_FILE",
        )
    names = [entry.filename for entry in entries]
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        return "an exported program (torch.export)", "save the state dict of the model instead"
    if any(name.endswith("data.pkl") for name in names):
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            return "a checkpoint whose parts are compressed", "PyTorch writes them as they are; save it again"
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays (.npz)", "give a PyTorch state dict"
    inside = ", ".join(names[:3]) + (", …" if names[3:] else "")
    return f"a zip archive with {inside or 'nothing in it'}", "unpack it first"


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= size - 8 and head[8:9] == b"{"


def _kind_of_text(head: bytes) -> tuple[str, str] | None:
    try:
        text = head.decode("utf-8").strip()
    except UnicodeDecodeError:
        return None
    if not text or not all(character.isprintable() or character in "\r\n\t" for character in text):
        return None
    return f"a text file that begins {text.splitlines()[0][:_SHOWN]!r}", "give a PyTorch state dict"
