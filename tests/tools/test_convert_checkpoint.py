"""Rewriting old checkpoints: only by choice, nothing lost, nothing half-written."""

import warnings

import pytest
import torch
from torch import nn

from fastreid.utils.checkpoint import read_checkpoint
from tests.miniature import run_tool


class Old:
    """An object that safe loading refuses."""


def convert(folder, *words):
    return run_tool("tools/convert_checkpoint.py", *words, cwd=folder)


@pytest.fixture
def old(tmp_path):
    weights = {"module.w": torch.arange(3.0), "module.b": torch.ones(1)}
    torch.save({"model": weights, "config": nn.Identity()}, tmp_path / "old.pth")
    return tmp_path


def test_only_by_choice(old):
    with pytest.raises(SystemExit, match="convert_checkpoint: error: .*old.pth is not a file of tensors.*--trust"):
        convert(old, "old.pth", "new.pth")
    assert not (old / "new.pth").exists()
    assert "new.pth: 2 tensors" in convert(old, "--trust", "old.pth", "new.pth")
    model = read_checkpoint(old / "new.pth")["model"]
    assert list(model) == ["w", "b"] and model["w"].tolist() == [0, 1, 2]


def test_a_torchscript_archive_needs_no_trust(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will replace it
        torch.jit.save(torch.jit.script(nn.Linear(2, 1)), tmp_path / "old.pt")
        weight = torch.jit.load(tmp_path / "old.pt").weight
    assert "new.pth: 2 tensors" in convert(tmp_path, "old.pt", "new.pth")
    assert torch.equal(read_checkpoint(tmp_path / "new.pth")["model"]["weight"], weight)


def test_whole_modules_are_taken_apart(tmp_path):
    for i, content in enumerate([nn.Linear(2, 1), {"model": nn.Linear(2, 1)}]):
        torch.save(content, tmp_path / "module.pth")
        convert(tmp_path, "--trust", "module.pth", f"{i}.pth")
        assert read_checkpoint(tmp_path / f"{i}.pth")["model"]["weight"].shape == (1, 2)


def test_files_are_not_replaced_unasked(old):
    (old / "new.pth").write_text("mine")
    with pytest.raises(SystemExit, match="new.pth exists; name another file, or add --overwrite"):
        convert(old, "--trust", "old.pth", "new.pth")
    assert (old / "new.pth").read_text() == "mine"
    convert(old, "--trust", "--overwrite", "old.pth", "new.pth")
    assert "w" in read_checkpoint(old / "new.pth")["model"]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no file"), (b"no", "cannot read"), ({"a": 1}, "holds no state dict")]
)
def test_files_without_weights(tmp_path, content, said):
    if isinstance(content, bytes):
        (tmp_path / "old.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "old.pth")
    with pytest.raises(SystemExit, match=f"convert_checkpoint: error: .*{said}"):
        convert(tmp_path, "--trust", "old.pth", "new.pth")
    assert not (tmp_path / "new.pth").exists()


@pytest.mark.parametrize("words", [(), ("--trust",)])
def test_a_small_file_does_not_fill_the_disk(tmp_path, words):
    torch.save({"model": {"w": torch.zeros(1).expand(2_000_000_000)}}, tmp_path / "old.pth")
    with pytest.raises(SystemExit, match="convert_checkpoint: error: the tensors in .* claim 8,000,000,000 bytes"):
        convert(tmp_path, *words, "old.pth", "new.pth")
    assert not (tmp_path / "new.pth").exists()
