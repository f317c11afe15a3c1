"""Every way a checkpoint file can be wrong has its own sentence."""

import argparse
import gzip
import io
import tarfile
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastreid.utils.checkpoint_file import WeightsError, read_checkpoint, state_dict_in, weights_file


def test_missing_file_names_what_is_there(tmp_path):
    torch.save({}, tmp_path / "model_final.pth")
    with pytest.raises(WeightsError, match=r"no weights file .*model_finl\.pth.*model_final\.pth"):
        read_checkpoint(tmp_path / "model_finl.pth")
    with pytest.raises(WeightsError, match="the folder .*nowhere does not exist"):
        read_checkpoint(tmp_path / "nowhere" / "x.pth")


def test_empty_folder(tmp_path):
    with pytest.raises(WeightsError, match="the folder has no checkpoint"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("keep", [0, 10, 700])
def test_truncated_file(tmp_path, keep, lazily):
    path = tmp_path / "x.pth"
    torch.save({"model": {"w": torch.ones(100)}}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"x\.pth (cannot be read|is not a file of tensors)"):
        read_checkpoint(path, lazily=lazily)


def test_text_file(tmp_path):
    path = tmp_path / "x.pth"
    path.write_text("<html>not found</html>")
    with pytest.raises(WeightsError, match=r"x\.pth"):
        read_checkpoint(path)


def test_pickled_objects_are_refused_with_the_reason(tmp_path):
    torch.save({"model": SimpleNamespace(a=1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="could run code"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"model": {"a": 1}}, torch.ones(2)])
def test_no_state_dict_inside(content):
    with pytest.raises(WeightsError, match="holds no state dict"):
        state_dict_in(content, "x.pth")


def test_counters_and_numpy_numbers_of_fast_reid_are_read(tmp_path):
    scheduler = {"milestones": Counter({30: 1, 55: 1}), "best": np.float64(0.5)}
    torch.save({"model": {"w": torch.ones(2)}, "lr_sched": scheduler, "metric": np.float32(0.25)}, tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    assert content["metric"] == 0.25 and content["lr_sched"]["milestones"] == Counter({30: 1, 55: 1})


def test_a_file_with_code_is_refused_and_the_converter_is_named(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"model": {"w": torch.ones(1)}, "trap": Touch(marker)}, tmp_path / "trap.pth")
    with pytest.raises(WeightsError, match=r"could run code .*tools/convert_checkpoint.py --trust .*trap.pth NEW_FILE"):
        read_checkpoint(tmp_path / "trap.pth")
    assert not marker.exists()


def test_safetensors_are_read(tmp_path):
    state = {"backbone.weight": torch.randn(2, 3), "count": torch.tensor(3)}
    save_file(state, tmp_path / "a.safetensors")
    content = state_dict_in(read_checkpoint(tmp_path / "a.safetensors"), "a.safetensors")
    assert content.keys() == state.keys() and all(torch.equal(content[name], state[name]) for name in state)
    with pytest.raises(WeightsError, match=r"the folder has a\.safetensors"):
        read_checkpoint(tmp_path / "b.pth")


@pytest.mark.parametrize("keep", [0, 5, 60])
def test_truncated_safetensors(tmp_path, keep):
    save_file({"w": torch.ones(100)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:keep])
    with pytest.raises(WeightsError, match="cannot be read as a safetensors file; it may be truncated"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_a_pickle_under_the_name_of_safetensors_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"trap": Touch(marker)}, tmp_path / "trap.safetensors")
    with pytest.raises(WeightsError, match="another kind of file under this name"):
        read_checkpoint(tmp_path / "trap.safetensors")
    assert not marker.exists()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def gzip_file(path):
    path.write_bytes(gzip.compress(b"weights"))


def zip_file(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.pth", b"weights")


def tar_file(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())


def compressed(path):
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(100_000)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "a Git LFS pointer.*git lfs pull",
        ),
        (b"<!DOCTYPE html><html><head><title>Sign in</title>", r"a web page \(HTML\).*download it again"),
        (b"\n <HTML>404</HTML>", "a web page"),
        (b'{"error": "not found"}', 'a text file that begins \'{"error": "not found"}\''),
        (b"", "it is empty"),
        (gzip_file, "a gzip archive: unpack it"),
        (zip_file, r"a zip archive with model\.pth: unpack it"),
        (tar_file, "a tar archive: unpack it"),
        (compressed, "a checkpoint whose parts are compressed"),
        (lambda path: save_file({"w": torch.ones(3)}, path), r"a safetensors file: rename it to x\.safetensors"),
        (lambda path: np.savez(path.open("wb"), w=np.ones(3)), "an archive of NumPy arrays"),
        (lambda path: np.save(path.open("wb"), np.ones(3)), "a NumPy array"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\x80", "an ONNX model"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
        (bytes(40) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "the index of a TensorFlow checkpoint"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG picture"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, content, said):
    path = tmp_path / "x.pth"
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(
        WeightsError, match=rf"x\.pth cannot be read as a checkpoint: it is .*{said}|it is empty"
    ) as error:
        read_checkpoint(path)
    assert "--trust" not in str(error.value) and "truncated" not in str(error.value)


def test_a_pointer_under_the_name_of_safetensors(tmp_path):
    (tmp_path / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="cannot be read as a safetensors file: it is a Git LFS pointer"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_a_folder_is_answered_with_what_is_in_it(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"is a folder, no weights file: name one of pytorch_model\.bin"):
        read_checkpoint(tmp_path)


def test_the_weights_in_a_folder_of_hugging_face(tmp_path):
    assert weights_file(tmp_path) == tmp_path and weights_file(tmp_path / "x.pth") == tmp_path / "x.pth"
    for name in ("pytorch_model.bin", "model.safetensors"):  # the second one is preferred
        (tmp_path / name).touch()
        assert weights_file(str(tmp_path)) == tmp_path / name
    assert weights_file(tmp_path / "pytorch_model.bin") == tmp_path / "pytorch_model.bin"


W = torch.ones(2)


@pytest.mark.parametrize(
    "content",
    [
        {"teacher": {"w": W, "w2": W}, "student": {"w": -W}},
        {"model_state_dict": {"w": W, "w2": W}, "loss": 0.1},
        {"net": {"w": W, "w2": W}},
        {"model": {"teacher": {"w": W, "w2": W}}},
        {"my_part": {"w": W, "w2": W}, "epoch": 3},
        {"w": W, "epoch": 3, "w2": W, "name": None},
        {"model": {}, "state_dict": {"w": W, "w2": W}},
        {"model": "resnet50", "state_dict_ema": {"w": W, "w2": W}},
        OrderedDict(w=W, w2=W),
    ],
)
def test_the_state_dict_is_found(content):
    state = state_dict_in(content, "x.pth")
    assert set(state) == {"w", "w2"} and state["w"] is W


def test_what_is_there_instead_is_named():
    content = {"epoch": 3, "first_part": {"a": W}, "second_part": {"b": W}}
    with pytest.raises(WeightsError) as error:
        state_dict_in(content, "x.pth")
    assert "it holds a dict with epoch (int), first_part (dict of a), second_part (dict of b)" in str(error.value)
    with pytest.raises(WeightsError, match="it holds a list"):
        state_dict_in([W], "x.pth")


@pytest.mark.parametrize("place", [lambda t: t, lambda t: {"model": {"w": W, "trap": t}}, lambda t: {"x": [0, [t]]}])
def test_a_tensor_that_claims_more_than_is_stored_is_refused(tmp_path, place):
    torch.save(place(torch.zeros(1).expand(2_000_000_000)), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="claim 8,000,0.* bytes, and .* are stored .*made to fill memory and disk"):
        read_checkpoint(tmp_path / "x.pth")


def test_shared_weights_and_views_are_no_such_claim(tmp_path):
    table, itself = torch.randn(1000, 500), []
    itself.append(itself)
    content = {"a": table, "b": table, "row": table[3], "turned": table.T, "list": itself}
    torch.save(content, tmp_path / "x.pth")
    assert torch.equal(read_checkpoint(tmp_path / "x.pth")["turned"], table.T)


def test_a_tensor_without_values_is_refused(tmp_path):
    torch.save({"w": torch.empty(3, device="meta")}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"w in .*x\.pth has a shape and no values"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "refused"),
    [(np.ones(3), "multiarray._reconstruct"), (argparse.Namespace(a=1), "argparse.Namespace"), (print, "print")],
)
def test_what_is_not_loaded_is_named_without_torchs_advice(tmp_path, content, refused):
    torch.save({"model": content}, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as error:
        read_checkpoint(tmp_path / "x.pth")
    assert f"{refused} is not allowed)" in str(error.value)
    assert "\x1b" not in str(error.value) and "options" not in str(error.value)
