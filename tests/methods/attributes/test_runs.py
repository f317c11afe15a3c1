"""Whole runs: the commands of the page on few images, and a run that is stopped and resumed."""

import json
import shlex

import pytest
import torch
from scipy.io import savemat

from fastreid.config import ConfigError, get_cfg
from fastreid.data.benchmarks.attributes import DUKEMTMC_LAYOUT, MARKET1501_LAYOUT, PA100K_LAYOUT
from fastreid.engine import DefaultTrainer
from fastreid.engine.resuming import ResumeError
from fastreid.utils.checkpoint import read_checkpoint
from tests.data.benchmarks.attribute_files import pa100k_content, write_duke, write_market, write_pa100k
from tests.engine.test_epoch_plans import stopping_at
from tests.engine.toys import train
from tests.miniature import ROOT, run_tool
from tests.pages import TEXTS, blocks

PAGE = "docs/attributes.md"
RECIPE = "configs/Attributes/pa100k.yml"
SMALL = [
    *shlex.split("MODEL.DEVICE cpu MODEL.BACKBONE.NAME build_timm_backbone MODEL.BACKBONE.TIMM_NAME test_vit"),
    *shlex.split("MODEL.BACKBONE.PRETRAIN False SOLVER.AMP.ENABLED False MODEL.BACKBONE.LAST_STRIDE 1"),
    *("INPUT.SIZE_TRAIN", "[32, 16]", "INPUT.SIZE_TEST", "[32, 16]", "SOLVER.STEPS", "[]", "SOLVER.BASE_LR", "0.01"),
    *shlex.split("DATALOADER.NUM_WORKERS 0 SOLVER.IMS_PER_BATCH 8 SOLVER.MAX_EPOCH 2 SOLVER.ITERS_PER_EPOCH 3"),
    *shlex.split("SOLVER.WARMUP_ITERS 0 SOLVER.CHECKPOINT_PERIOD 1 TEST.EVAL_PERIOD 1 DATASETS.ROOT ."),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which every command of the page has run, on few images and a smaller network."""
    folder = tmp_path_factory.mktemp("attributes")
    write_pa100k(folder)
    write_market(folder, each=4)
    write_duke(folder, each=4)
    (folder / "configs").symlink_to(ROOT / "configs")
    said = []
    for command in "\n".join(blocks(TEXTS[PAGE], "bash")).splitlines():
        _, tool, *words = shlex.split(command)
        said.append(run_tool(tool, *words, *SMALL, cwd=folder))
    (folder / "dry_run.txt").write_text(said[0])
    return folder


@pytest.mark.parametrize("layout", [PA100K_LAYOUT, MARKET1501_LAYOUT, DUKEMTMC_LAYOUT])
def test_the_trees_of_the_page_are_those_of_the_messages(layout):
    assert f"```\n{layout}\n```" in TEXTS[PAGE]


def results(folder, name):
    return json.loads((folder / f"logs/attributes/{name}/results.json").read_text())


def test_the_commands_of_the_page_run(folder):
    trained = results(folder, "pa100k")["PA100K"]
    assert trained["images"] == 12 and 0 <= trained["mA"] <= 100 and "mA/Female" in trained
    assert results(folder, "pa100k/validated")["PA100K_VAL"]["images"] == 8
    assert results(folder, "market1501")["Market1501Attr"]["images"] == 8
    assert results(folder, "dukemtmc")["DukeMTMCAttr"]["images"] == 8
    assert (folder / "logs/attributes/pa100k/model_best.pth").exists()
    assert not (folder / "logs/attributes/pa100k/report.html").exists()


def test_the_dry_run_says_what_is_tested(folder):
    said = (folder / "dry_run.txt").read_text()
    assert "training step" in said and "their ranking" not in said and "is not known" not in said
    assert "test images" in said and ["PA100K", "12", "26"] in [line.split() for line in said.splitlines()]


def test_a_checkpoint_has_the_figures_of_its_training(folder):
    words = ["--config-file", RECIPE, "--eval-only", "MODEL.WEIGHTS", "logs/attributes/pa100k/model_final.pth"]
    run_tool("tools/train_net.py", *words, *SMALL, "OUTPUT_DIR", "again", cwd=folder)
    assert json.loads((folder / "again/results.json").read_text()) == results(folder, "pa100k")


def cfg_of(folder, output, monkeypatch, *keys):
    monkeypatch.chdir(folder)
    cfg = get_cfg()
    cfg.merge_from_file(RECIPE)
    cfg.merge_from_list([*SMALL, "OUTPUT_DIR", str(folder / output), *keys])
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
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []


def test_a_run_is_not_resumed_with_other_attributes(folder, monkeypatch):
    file, content = folder / "PA-100K/annotation.mat", pa100k_content()
    before = file.read_bytes()
    content["train_label"][0, 0] = 1 - content["train_label"][0, 0]
    try:
        savemat(file, content)
        with pytest.raises(ResumeError, match="the attributes of the people in training images changed"):
            train(cfg_of(folder, "logs/attributes/pa100k", monkeypatch), resume=True, trainer_class=DefaultTrainer)
    finally:
        file.write_bytes(before)


def test_attributes_are_learnt(folder, monkeypatch):
    """Women are bright in these images."""
    keys = ("SOLVER.MAX_EPOCH", 8, "INPUT.PADDING.ENABLED", False, "SOLVER.CHECKPOINT_PERIOD", 8)
    trainer = train(cfg_of(folder, "longer", monkeypatch, *keys), trainer_class=DefaultTrainer)
    assert trainer.results["PA100K"]["mA/Female"] > 90


def test_a_data_set_without_attributes_is_refused_before_training(folder, monkeypatch):
    with pytest.raises(ConfigError, match="30 attributes|but image .* has 30"):
        DefaultTrainer(cfg_of(folder, "wrong", monkeypatch, "DATASETS.NAMES", ("Market1501Attr",)))
    with pytest.raises(ConfigError, match="NUM_CLASSES is 26|do not have the same attributes"):
        DefaultTrainer(cfg_of(folder, "wrong", monkeypatch, "DATASETS.TESTS", ("Market1501Attr",)))


def test_evaluators_of_rankings_are_refused(folder, monkeypatch):
    with pytest.raises(ConfigError, match="gives no descriptors to rank"):
        DefaultTrainer.build_evaluator(cfg_of(folder, "unused", monkeypatch), "PA100K")
