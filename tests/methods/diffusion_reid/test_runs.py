"""Whole trainings of the generator: killed and resumed, in two processes, of one person, with re-ID features."""

import shlex
import signal

import pytest
import torch

from tests.methods import whole_runs
from tests.methods.diffusion_reid.conftest import factory_keys
from tests.methods.whole_runs import STOP, final
from tests.miniature import run_tool

KEYS = [
    *shlex.split("SOLVER.MAX_EPOCH 3 SOLVER.ITERS_PER_EPOCH 2 SOLVER.CHECKPOINT_PERIOD 1 SOLVER.OPT AdamW"),
    *shlex.split("SOLVER.WARMUP_ITERS 0 SOLVER.BASE_LR 1e-3 TEST.EVAL_PERIOD 0 MODEL.HEADS.NUM_CLASSES 0"),
    *shlex.split("SOLVER.IMS_PER_BATCH 2 DIFFPERSON.TRAIN.COND_DROP 0.3 DIFFPERSON.IIR.HIDDEN 16"),
]


@pytest.fixture
def train(place, assets, tmp_path):
    """(OUTPUT_DIR, further options and keys) -> the finished process."""
    features = (
        *("DIFFPERSON.IIR.MODE", "encoder", "DIFFPERSON.IIR.INPUT", "reid"),
        *("DIFFPERSON.IIR.REID", str(place / "out/model_final.pth")),
    )

    def run(output, *words):
        options = [word for word in words if word.startswith("--")]
        keys = [word for word in words if not word.startswith("--")]
        fixed = [*factory_keys(place, assets), *features, *KEYS, *keys]
        return whole_runs.train(tmp_path, fixed, str(tmp_path / output), *options)

    return run


def check(done):
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_killed_and_resumed_run_ends_with_the_same_bits(train, tmp_path, place):
    pivot = ("DIFFPERSON.TUNE.PIVOT", "0.5")
    check(train("whole", *pivot))
    (tmp_path / "stop.py").write_text(STOP.format(iteration=3, signal=int(signal.SIGKILL)))
    stopped = train("stopped", "--import=stop.py", *pivot)
    assert stopped.returncode != 0 and not (tmp_path / "stopped/model_final.pth").exists()
    check(train("stopped", "--import=stop.py", "--resume", *pivot))
    mine, theirs = final(tmp_path, "stopped"), final(tmp_path, "whole")
    assert mine.keys() == theirs.keys() and {"words.features", "words.layers.1.weight"} <= mine.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert not any(name.startswith(("text.", "autoencoder.")) or "extractor" in name for name in mine)
    assert mine["words.features"].abs().sum() > 0
    # The first of three epochs, and a half rounded to two, train the words; the last one trains the adapters.
    log = (tmp_path / "whole/log.txt").read_text()
    assert "epoch 0: denoiser frozen" in log and "epoch 2: words frozen" in log


def test_the_plain_loop_freezes_in_the_same_epochs(place, assets, tmp_path):
    pivot = ("DIFFPERSON.TUNE.PIVOT", "0.5", "SOLVER.MAX_EPOCH", "2")
    for tool in ("train_net", "plain_train_net"):
        keys = (*factory_keys(place, assets), *KEYS, *pivot, "OUTPUT_DIR", str(tmp_path / tool))
        run_tool(f"tools/{tool}.py", *keys, cwd=tmp_path)
    plain, theirs = final(tmp_path, "plain_train_net"), final(tmp_path, "train_net")
    assert plain.keys() == theirs.keys()
    assert [name for name in plain if not torch.equal(plain[name], theirs[name])] == []


def test_one_person(train, tmp_path):
    record = tmp_path / "record.py"
    record.write_text(
        "from fastreid.methods.diffusion_reid.generator import DiffusionReID\n"
        "forward = DiffusionReID.forward\n"
        "def noted(self, batch):\n"
        "    with open('seen.txt', 'a') as file:\n"
        "        file.write(' '.join(map(str, batch['targets'].tolist())) + ' ')\n"
        "    return forward(self, batch)\n"
        "DiffusionReID.forward = noted\n"
    )
    keys = ("DIFFPERSON.PERSON", "2", "SOLVER.MAX_EPOCH", "1")
    check(train("one", f"--import={record}", "DIFFPERSON.IIR.MODE", "table", *keys))
    assert set((tmp_path / "seen.txt").read_text().split()) == {"2"}
    assert len(final(tmp_path, "one")["words.vectors"]) == 1
    check(train("encoder", *keys))
    check(train("all", "SOLVER.MAX_EPOCH", "1"))
    features = final(tmp_path, "all")["words.features"]
    torch.testing.assert_close(final(tmp_path, "encoder")["words.features"], features[2:])


@pytest.mark.slow
def test_two_processes_train_as_one(train, tmp_path):
    plain = ("SOLVER.OPT", "SGD", "SOLVER.BASE_LR", "0.01", "SOLVER.MAX_EPOCH", "2")
    check(train("one", *plain))
    check(train("two", "--num-gpus=2", *plain))
    one, two = final(tmp_path, "one"), final(tmp_path, "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name].float(), value.float(), rtol=1e-3, atol=1e-5, msg=name)
