"""Whole runs of DCAC: killed and resumed, and in two processes."""

import shlex
import signal

import pytest
import torch

from tests.methods import whole_runs
from tests.methods.dcac.conftest import TINY
from tests.methods.whole_runs import STOP, final
from tests.tiny import make_people

# Three epochs of two iterations on images of noise.
KEYS = [
    *map(str, TINY),
    *shlex.split("SOLVER.MAX_EPOCH 3 SOLVER.IMS_PER_BATCH 4 SOLVER.ITERS_PER_EPOCH 2 SOLVER.CHECKPOINT_PERIOD 1"),
    *shlex.split("DATALOADER.NUM_WORKERS 0 TEST.EVAL_PERIOD 0 MODEL.BACKBONE.PRETRAIN False"),
    *("DCAC.SD.LATENT_CACHE", "latents"),
]


@pytest.fixture
def folder(tmp_path):
    make_people(tmp_path)
    return tmp_path


def train(folder, sd_folder, output, *words):
    fixed = ["--config-file", "config.yml", *KEYS, "DCAC.SD.WEIGHTS", str(sd_folder)]
    return whole_runs.train(folder, fixed, output, *words)


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(folder, sd_folder, sent):
    whole = train(folder, sd_folder, "whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    (folder / "stop.py").write_text(STOP.format(iteration=3, signal=int(sent)))
    stopped = train(folder, sd_folder, "stopped", "--import=stop.py")
    assert stopped.returncode != 0 and not (folder / "stopped/model_final.pth").exists()
    resumed = train(folder, sd_folder, "stopped", "--import=stop.py", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    mine, theirs = final(folder, "stopped"), final(folder, "whole")
    assert mine.keys() == theirs.keys() and "memory.class_prototypes" in mine
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.slow
def test_two_processes_train_as_one(folder, sd_folder):
    norm = ("MODEL.HEADS.NORM", "syncBN", "SOLVER.OPT", "SGD", "SOLVER.BASE_LR", "0.01", "SOLVER.MAX_EPOCH", "2")
    for output, options in (("one", ()), ("two", ("--num-gpus=2",))):
        done = train(folder, sd_folder, output, *options, *norm)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = final(folder, "one"), final(folder, "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name].float(), value.float(), rtol=1e-3, atol=1e-4, msg=name)
