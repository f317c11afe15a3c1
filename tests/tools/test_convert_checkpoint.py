"""Rewriting old checkpoints: only by choice, nothing lost, nothing half-written."""

import pickle
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tools.convert_checkpoint as tool
from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import read_checkpoint
from fastreid.utils.errors import UserError
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


def test_the_config_of_a_run_is_kept_with_the_whole_model(tmp_path):
    state = {"backbone.conv1.weight": torch.ones(64, 3, 7, 7), "heads.weight": torch.ones(2)}
    torch.save({"model": state, "optimizer": {"state": {}}, "config_yaml": "A: 1"}, tmp_path / "old.pth")
    for name, words in (("new.pth", ()), ("trusted.pth", ("--trust",))):
        convert(tmp_path, *words, "old.pth", name)
        content = read_checkpoint(tmp_path / name)
        assert content.keys() == {"model", "config_yaml"} and content["config_yaml"] == "A: 1"
    convert(tmp_path, "--backbone", "old.pth", "backbone.pth")
    assert read_checkpoint(tmp_path / "backbone.pth").keys() == {"model"}


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


SMALL = ["INPUT.SIZE_TRAIN", [64, 32], "INPUT.SIZE_TEST", [64, 32], "MODEL.DEVICE", "cpu"]
BACKBONES = {
    "resnet": ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.DEPTH", "18x"],
    "vit": ["MODEL.BACKBONE.NAME", "build_vit_backbone", "MODEL.BACKBONE.DEPTH", "mini"],
    "clip": ["MODEL.BACKBONE.NAME", "build_clip_backbone", "MODEL.BACKBONE.DEPTH", "mini"],
    "swin": ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM_NAME", "swin_tiny_patch4_window7_224"],
    "convnext": ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM_NAME", "convnext_atto"],
}


def model_of(*keys, seed=0):
    cfg = get_cfg()
    cfg.merge_from_list([*SMALL, *keys])
    torch.manual_seed(seed)
    return build_model(cfg, num_classes=3).eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_alone_fills_that_of_another_model(name, tmp_path, caplog):
    trained = model_of(*BACKBONES[name])
    for buffer in trained.buffers():  # as training leaves them
        if buffer.is_floating_point() and buffer.ndim == 1:
            buffer.add_(torch.rand_like(buffer))
    torch.save({"model": trained.state_dict(), "iteration": 3}, tmp_path / "trained.pth")
    said = convert(tmp_path, "--backbone", "trained.pth", "backbone.pth")
    own = trained.backbone.state_dict()
    values = sum(value.numel() for value in own.values())
    assert f"backbone.pth: {len(own)} tensors, {values:,} values; left out: heads" in said
    keys = ["MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", str(tmp_path / "backbone.pth")]
    keys += ["MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE", 1.0]
    with caplog.at_level("INFO", "fastreid"):
        filled, fresh = (model_of(*BACKBONES[name], *more, seed=1) for more in (keys, []))
    assert f"{len(own)} of {len(own)} tensors matched, 100.0%" in caplog.text
    assert "missing: none; other shape: none; left over in the file: none" in caplog.text
    images = torch.rand(2, 3, 64, 32) * 255
    with torch.no_grad():
        maps = [model.backbone(model.preprocess_image(images)) for model in (trained, filled, fresh)]
    assert torch.equal(maps[0], maps[1]) and not torch.allclose(maps[0], maps[2], atol=1e-3)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["conv1.weight", "fc.weight"], "must have one part that is called backbone, but its parts are conv1, fc"),
        (["a.backbone.w", "b.backbone.w", "my_backbone.w"], "but it has a.backbone., b.backbone."),
        (["backbone.0.w", "b1.w", "b2.w", "b3.w"], "is of MGN, whose branches have a copy each"),
    ],
)
def test_what_has_no_backbone_is_explained(tmp_path, names, said):
    torch.save({name: torch.ones(1) for name in names}, tmp_path / "old.pth")
    with pytest.raises(SystemExit, match=said):
        convert(tmp_path, "--backbone", "old.pth", "new.pth")
    assert not (tmp_path / "new.pth").exists()
    with pytest.raises(SystemExit, match="--backbone and --stable-diffusion exclude each other"):
        convert(tmp_path, "--backbone", "--stable-diffusion", "old.pth", "new.pth")


class Lightning:
    """Stands for the callback whose name is in the files of Stable Diffusion."""


Lightning.__module__, Lightning.__qualname__ = "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"


def test_a_stable_diffusion_of_one_file_becomes_folders(tmp_path, monkeypatch):
    state = {"model.diffusion_model.w": torch.ones(1)}
    with monkeypatch.context() as patch:  # only while the file is written
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks", Lightning.__module__):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[Lightning.__module__].ModelCheckpoint = Lightning
        torch.save({"state_dict": state, "callbacks": {Lightning: {"best": 1}}}, tmp_path / "v1.ckpt")
    seen = []

    def write(found, folder):
        seen.append(found)
        (folder / "unet").mkdir(parents=True)

    monkeypatch.setattr(tool, "convert_single_file", write)
    words = ["--stable-diffusion", str(tmp_path / "v1.ckpt"), str(tmp_path / "sd")]
    tool.main(words)
    assert torch.equal(seen[0]["model.diffusion_model.w"], torch.ones(1)) and (tmp_path / "sd/unet").is_dir()
    with pytest.raises(SystemExit, match="sd exists; name another file, or add --overwrite"):
        tool.main(words)
    tool.main([*words, "--overwrite"])
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("v1.ckpt", "sd")] == []


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder with an earlier Stable Diffusion, and what writes the next one; its conversion is replaced."""

    def write(state, folder):
        (folder / "unet").mkdir(parents=True)
        (folder / "unet/new").touch()
        if "stop" in state:
            raise KeyboardInterrupt

    monkeypatch.setattr(tool, "convert_single_file", write)
    (tmp_path / "sd/unet").mkdir(parents=True)
    (tmp_path / "sd/unet/earlier").touch()
    return tmp_path / "sd"


def contents(folder):
    return sorted(path.relative_to(folder.parent).as_posix() for path in folder.parent.rglob("*") if path.is_file())


def test_folders_of_a_user_are_not_replaced(folders):
    (folders / "notes.txt").touch()
    with pytest.raises(UserError, match=r"sd also holds notes.txt, which would be lost"):
        tool.write_folders({}, folders)
    assert contents(folders) == ["sd/notes.txt", "sd/unet/earlier"]


def test_the_earlier_folders_stay_after_an_interruption_at_any_moment(folders, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        tool.write_folders({"stop": True}, folders)
    assert contents(folders) == ["sd/unet/earlier"]
    rename = Path.rename

    def stop_between(path, target):
        if path.name == ".sd.draft":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop_between)
        with pytest.raises(KeyboardInterrupt):
            tool.write_folders({}, folders)
    assert contents(folders) == ["sd/unet/earlier"]


def test_a_kill_between_two_renames_is_made_good(folders):
    folders.rename(folders.with_name(".sd.before"))
    with pytest.raises(KeyboardInterrupt):
        tool.write_folders({"stop": True}, folders)
    assert contents(folders) == ["sd/unet/earlier"]
    tool.write_folders({}, folders)
    assert contents(folders) == ["sd/unet/new"]


def test_another_file_is_no_stable_diffusion(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "old.pth")
    with pytest.raises(SystemExit, match="no Stable Diffusion 1"):
        convert(tmp_path, "--stable-diffusion", "old.pth", "sd")
    assert not (tmp_path / "sd").exists()


def test_a_plain_pickle_is_read_if_it_is_trusted(tmp_path):
    (tmp_path / "old.pkl").write_bytes(pickle.dumps({"model": {"w": np.ones((2, 3)), "b": np.arange(3)}, "by": "x"}))
    with pytest.raises(SystemExit, match="old.pkl is not a file of tensors") as error:
        convert(tmp_path, "old.pkl", "new.pth")
    assert "it may be a plain pickle" in str(error.value) and "weights_only" not in str(error.value)
    convert(tmp_path, "--trust", "old.pkl", "new.pth")
    model = read_checkpoint(tmp_path / "new.pth")["model"]
    assert model["w"].tolist() == [[1, 1, 1], [1, 1, 1]] and model["b"].tolist() == [0, 1, 2]


def test_nothing_is_left_out_silently(tmp_path):
    torch.save({"w": torch.ones(1), "b": np.zeros(2), "epoch": 3}, tmp_path / "mixed.pth")
    assert "new.pth: 2 tensors" in convert(tmp_path, "--trust", "mixed.pth", "new.pth")
    torch.save({"module.w": torch.ones(1), "w": torch.zeros(1)}, tmp_path / "twice.pth")
    with pytest.raises(SystemExit, match="twice.pth has module.w and w, which are both w without"):
        convert(tmp_path, "twice.pth", "other.pth")


@pytest.mark.parametrize("name", ["new.safetensors", "new", "new.onnx"])
def test_only_names_of_files_of_torch_are_written(old, name):
    with pytest.raises(SystemExit, match=f"{name} would be a file of torch: name it .*new.pth"):
        convert(old, "--trust", "old.pth", name)
    assert not (old / name).exists()


def test_an_empty_path_is_no_folder(old, capsys):
    with pytest.raises(SystemExit):
        convert(old, "old.pth", "")
    assert "argument NEW: the path is empty" in capsys.readouterr().err
