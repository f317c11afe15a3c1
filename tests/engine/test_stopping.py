"""A run that is asked to stop saves all of its work, whoever of its processes hears it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from fastreid.data.workers import begin_worker
from fastreid.engine import HookBase, launch
from fastreid.utils.checkpoint import read_checkpoint
from tests.engine.remains import differences, in_a_fork, remains_of
from tests.engine.toys import ITERS_PER_EPOCH, ToyImages, ToySampler, ToyTrainer, toy_cfg, toy_images, train
from tests.miniature import ROOT, rendered


class WithWorkers(ToyTrainer):
    """Its batches come from two forked workers, and it says where it is in a file."""

    at = None

    @classmethod
    def build_train_loader(cls, cfg):
        images = toy_images()
        loader = DataLoader(
            ToyImages(images), batch_size=8, sampler=ToySampler(len(images), 8), num_workers=2,
            worker_init_fn=begin_worker, multiprocessing_context="fork",
        )  # fmt: skip
        loader.iters_per_epoch = ITERS_PER_EPOCH
        return loader

    def build_hooks(self):
        return [*super().build_hooks(), Waits(self.at)]


class Waits(HookBase):
    """In one iteration it waits for a signal."""

    def __init__(self, at):
        self.at = at

    def before_step(self):
        if self.trainer.iter == self.at:
            (Path(self.trainer.cfg.OUTPUT_DIR) / ".here").touch()
            time.sleep(0.5)
            (Path(self.trainer.cfg.OUTPUT_DIR) / ".here").unlink()


def signal_group(folder, number):
    def send(pid):
        until(lambda: (folder / ".here").exists())
        os.killpg(pid, number)

    return send


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="data workers are forked on Linux only")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [4, 5])  # in the middle of an epoch; its last iteration
def test_a_signal_to_the_whole_group_loses_nothing(tmp_path, capfd, number, at):
    train(toy_cfg(tmp_path / "whole"))
    cfg, folder, groups = toy_cfg(tmp_path / "parts"), tmp_path / "parts", []
    stopped = type("Stopped", (WithWorkers,), {"at": at})
    send = signal_group(folder, number)
    status = in_a_fork(lambda: train(cfg, trainer_class=stopped), lambda pid: (groups.append(pid), send(pid)))
    said = capfd.readouterr().err
    assert status == 1 and f"stopped by a signal after iteration {at + 1}" in said and "worker" not in said
    assert read_checkpoint(folder / "model_interrupted.pth")["iteration"] == at + 1
    until(lambda: is_gone(groups[0]), seconds=10)
    train(cfg, resume=True)
    assert differences(remains_of(folder), remains_of(tmp_path / "whole")) == []


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(tmp_path):
    class Trainer(ToyTrainer):
        def build_hooks(self):
            save = self.checkpointer.save

            def signalled(name, **values):
                if name in ("model_0001", "model_best"):
                    os.kill(os.getpid(), signal.SIGTERM)
                return save(name, **values)

            self.checkpointer.save = signalled
            return super().build_hooks()

    cfg, whole = toy_cfg(tmp_path / "parts", TEST__EVAL_PERIOD=1), tmp_path / "whole"
    train(toy_cfg(whole, TEST__EVAL_PERIOD=1))
    with pytest.raises(SystemExit, match="stopped by a signal after iteration 4 "):  # best of the first epoch
        train(cfg, trainer_class=Trainer)
    assert (tmp_path / "parts/model_best.pth").exists()
    with pytest.raises(SystemExit, match="stopped by a signal after iteration 6 "):  # before its evaluation
        train(cfg, resume=True, trainer_class=Trainer)
    train(cfg, resume=True)
    assert differences(remains_of(tmp_path / "parts"), remains_of(whole)) == []


def train_in_two(folder):
    train(toy_cfg(folder, SOLVER__MAX_EPOCH=200, SOLVER__CHECKPOINT_PERIOD=1, DATASETS__TESTS=()))


_LAUNCH = """
import sys
from fastreid.engine import launch
from tests.engine.test_stopping import train_in_two
if __name__ == "__main__":
    launch(train_in_two, 2, args=(sys.argv[1],), device="cpu")
"""


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["group", "launcher"])
def test_two_processes_stop_together(tmp_path, whom):
    script = tmp_path / "launch.py"
    script.write_text(_LAUNCH)
    run = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "run")], env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: (tmp_path / "run/model_0001.pth").exists())
    (os.killpg if whom == "group" else os.kill)(run.pid, signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1 and said.count("stopped by a signal after iteration") == 1, said
    assert "Traceback" not in said and "terminated" not in said
    assert (tmp_path / "run/last_checkpoint").read_text() == "model_interrupted.pth"
    until(lambda: is_gone(run.pid), seconds=10)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_real_run_in_a_group_that_is_told_to_stop(tmp_path, tmp_path_factory, processes):
    data = rendered(tmp_path_factory.getbasetemp(), "CARGO")
    command = [sys.executable, "tools/train_net.py", "--config-file", "configs/quickstart/stage1.yml", "--resume"]
    command += ["--num-gpus", str(processes), "MODEL.DEVICE", "cpu", "DATASETS.ROOT", str(data)]
    command += ["OUTPUT_DIR", str(tmp_path), "SOLVER.IMS_PER_BATCH", "16", "SOLVER.CHECKPOINT_PERIOD", "1"]
    command += ["DATALOADER.NUM_WORKERS", "2", "SOLVER.MAX_EPOCH", "50"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    until(lambda: (tmp_path / "model_0000.pth").exists(), seconds=300)
    time.sleep(0.5)
    os.killpg(run.pid, signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 1 and "stopped by a signal after iteration" in said and "--resume" in said, said
    assert "Traceback" not in said and "worker" not in said
    assert (tmp_path / "last_checkpoint").read_text() == "model_interrupted.pth"
    until(lambda: is_gone(run.pid), seconds=10)


def test_a_launcher_needs_no_main_thread():
    assert launch(int, 1) == 0
