"""Every way a checkpoint file can be wrong has its own sentence."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastreid.utils.checkpoint_file import WeightsError, read_checkpoint, state_dict_in


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
