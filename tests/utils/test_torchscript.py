"""The tensors of a TorchScript archive are read, and nothing in it is run."""

import os
import pickle
import warnings
import zipfile

import pytest
import torch
from torch import nn

from fastreid.utils.checkpoint_file import WeightsError, read_checkpoint
from fastreid.utils.file_kind import is_torchscript, what_it_is


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.norm = nn.MultiheadAttention(8, 2), nn.LayerNorm(8)
        self.halves = nn.Parameter(torch.randn(8, 3).half().T)  # not contiguous
        self.nothing = nn.Parameter(torch.zeros(0, 4))

    def forward(self, x):
        return self.norm(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Inner(), Inner())
        self.resolution, self.names, self.scales = 224, ["a", "b"], {"x": 1.5}
        self.tied = self.blocks[0].norm.weight
        self.register_buffer("steps", torch.tensor([2**40, -3]))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("part", torch.arange(6)[2:])


def save_scripted(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will replace it
        torch.jit.save(torch.jit.script(module), path)


@pytest.fixture
def archive(tmp_path):
    torch.manual_seed(0)
    save_scripted(Outer(), tmp_path / "x.pt")
    return tmp_path / "x.pt"


def test_tensors_have_the_names_types_and_values_of_the_module(archive):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(archive).state_dict()
    found = read_checkpoint(archive)
    assert found.keys() == expected.keys() and "blocks.1.attn.in_proj_weight" in found
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_it_is_recognised(archive, tmp_path):
    assert is_torchscript(archive) and "a TorchScript archive (torch.jit.save): convert it" in what_it_is(archive)
    torch.save({"w": torch.ones(2)}, tmp_path / "y.pt")
    assert not is_torchscript(tmp_path / "y.pt") and not is_torchscript(__file__)


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def rewritten(archive, changes, compression=zipfile.ZIP_STORED):
    """Replace files of an archive; `changes` is {end of the name: bytes -> bytes}."""
    with zipfile.ZipFile(archive) as source:
        files = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(archive, "w", compression) as target:
        for name, data in files.items():
            change = next((change for end, change in changes.items() if name.endswith(end)), None)
            target.writestr(name, change(data) if change else data)
    return archive


def test_code_is_never_run(archive, tmp_path):
    mark = tmp_path / "was-here"
    command = pickle.dumps(Call(os.system, f"touch {mark}"), protocol=2)
    broken = {"/data.pkl": lambda _: command}
    with pytest.raises(WeightsError, match=r"could run code \((posix|nt)\.system is not allowed\)"):
        read_checkpoint(rewritten(archive, broken))
    assert not mark.exists()


def test_code_of_the_archive_is_not_looked_at(archive):
    expected = read_checkpoint(archive)
    found = read_checkpoint(rewritten(archive, {".py": lambda _: b"raise SystemExit"}))
    assert found.keys() == expected.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"/data/0": lambda data: data[:-4]}, r"0 has \d+ values, not \d+"),
        ({"/data/0": lambda data: data[:-1]}, "cannot be read as a checkpoint"),
        ({"/data.pkl": lambda data: data[:-200]}, "cannot be read as a checkpoint"),
        ({"/byteorder": lambda _: b"big"}, "another order of bytes"),
        ({"/data.pkl": lambda _: pickle.dumps(bytearray(9), protocol=5)}, "FRAME is not allowed"),
        ({"/data.pkl": lambda _: b"\x80\x02N\x71\x01r\xff\xff\xff\x7f."}, "LONG_BINPUT is not allowed"),
        ({"/data.pkl": lambda _: b"\x80\x02cnumpy\nzeros\n."}, r"numpy\.zeros is not allowed"),
        ({"/data.pkl": lambda data: data.replace(b"FloatStorage", b"XXXXXStorage")}, r"torch\.XXXXXStorage"),
    ],
)
def test_damaged_and_hostile_archives_are_refused(archive, changes, said):
    with pytest.raises(WeightsError, match=said):
        read_checkpoint(rewritten(archive, changes))


def test_compressed_tensors_are_refused(archive):
    with pytest.raises(WeightsError, match="its tensors are compressed"):
        read_checkpoint(rewritten(archive, {}, zipfile.ZIP_DEFLATED))


def test_tensors_that_claim_more_than_there_is(tmp_path):
    """A view with strides 0, which torch.jit keeps, would fill the memory when it is copied."""
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(1).expand(2**30))
    save_scripted(module, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="claim 4,294,967,296 bytes"):
        read_checkpoint(tmp_path / "x.pt")
