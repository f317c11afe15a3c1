"""Whole runs of a teacher and its students: the commands of the page, and a run that is stopped and resumed."""

import shlex

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.engine import DefaultTrainer
from fastreid.utils.checkpoint import read_checkpoint
from tests.engine.test_epoch_plans import stopping_at
from tests.engine.toys import train
from tests.methods.cluster_contrast.conftest import make_domain
from tests.miniature import ROOT, run_tool
from tests.pages import TEXTS, blocks

PAGE = "docs/distillation.md"
SMALL = [
    *shlex.split("MODEL.DEVICE cpu MODEL.BACKBONE.DEPTH 18x MODEL.BACKBONE.FEAT_DIM 512 MODEL.BACKBONE.PRETRAIN False"),
    *("INPUT.SIZE_TRAIN", "[32, 16]", "INPUT.SIZE_TEST", "[32, 16]"),
    *("DATASETS.NAMES", "['csv:people.csv']", "DATASETS.TESTS", "['csv:people.csv']"),
    *shlex.split("DATALOADER.NUM_WORKERS 0 DATALOADER.NUM_INSTANCE 4 SOLVER.IMS_PER_BATCH 16 SOLVER.MAX_EPOCH 2"),
    *shlex.split("SOLVER.AMP.ENABLED False SOLVER.ITERS_PER_EPOCH 3 SOLVER.CHECKPOINT_PERIOD 1 SOLVER.FREEZE_ITERS 0"),
    *shlex.split("SOLVER.DELAY_EPOCHS 0 TEST.REPORT False"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, only_small_resnets):
    """A folder in which every command of the page has run, on few people and smaller networks."""
    folder = tmp_path_factory.mktemp("distillation")
    make_domain(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    for command in "\n".join(blocks(TEXTS[PAGE], "bash")).splitlines():
        _, tool, *words = shlex.split(command)
        run_tool(tool, *words, *SMALL, cwd=folder)
    return folder


def test_the_commands_of_the_page_run(folder):
    names = [f"{path.name}" for path in sorted((folder / "logs/dukemtmc").iterdir())]
    assert names == ["kd_R34", "kd_R34_overhaul", "sbs_R101-ibn"]
    lines = (folder / "logs/dukemtmc/kd_R34_overhaul/metrics.json").read_text()
    assert all(f'"loss_{name}"' in lines for name in ("cls", "triplet", "jsdiv", "overhaul"))
    evaluated, trained = (
        (folder / f"logs/dukemtmc/kd_R34/{name}results.json").read_text() for name in ("evaluated/", "")
    )
    assert evaluated == trained


def cfg_of(folder, output, monkeypatch):
    monkeypatch.chdir(folder)
    cfg = get_cfg()
    cfg.merge_from_file("configs/distillation/kd_R34_overhaul.yml")
    cfg.merge_from_list([*SMALL, "OUTPUT_DIR", str(folder / output)])
    cfg.freeze()
    return cfg


def test_a_resumed_run_ends_with_the_same_bits(folder, monkeypatch):
    train(cfg_of(folder, "whole", monkeypatch), trainer_class=DefaultTrainer)
    cfg = cfg_of(folder, "parts", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, trainer_class=stopping_at(4))
    resumed = train(cfg, resume=True, trainer_class=DefaultTrainer)
    assert resumed.start_iter == 4
    before, after = (read_checkpoint(folder / output / "model_final.pth")["model"] for output in ("whole", "parts"))
    assert before.keys() == after.keys() and not any(name.startswith("teachers") for name in before)
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []


def test_a_run_is_not_resumed_with_another_teacher(folder, monkeypatch):
    path = folder / "logs/dukemtmc/sbs_R101-ibn/model_final.pth"
    content = path.read_bytes()
    state = torch.load(path, weights_only=True)
    state["model"]["backbone.conv1.weight"] += 1
    try:
        torch.save(state, path)
        cfg = cfg_of(folder, "parts", monkeypatch)
        with pytest.raises(ValueError, match="weights of the assets, which are in no checkpoint, changed"):
            train(cfg, resume=True, trainer_class=DefaultTrainer)
    finally:
        path.write_bytes(content)
