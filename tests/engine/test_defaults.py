"""The real trainer on a toy: resuming, best and last checkpoints, metrics.json, errors."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.engine import DefaultTrainer, HookBase
from fastreid.engine.finished import FINISHED, UNFINISHED, state_of
from fastreid.evaluation import NoValidQueryError
from fastreid.utils.checkpoint import WeightsError, read_checkpoint
from tests.engine.toys import ITERS_PER_EPOCH, PEOPLE, ToyTrainer, toy_cfg, train


class StopAfter(HookBase):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise KeyboardInterrupt


class Interrupted(ToyTrainer):
    def build_hooks(self):
        return [*super().build_hooks(), StopAfter(7)]  # in the third epoch of three iterations


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize("opt", ["SGD", "AdamW"])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, opt):
    whole = train(toy_cfg(tmp_path / "whole", SOLVER__OPT=opt))
    cfg = toy_cfg(tmp_path / "parts", SOLVER__OPT=opt)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, trainer_class=Interrupted)
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0001.pth"
    resumed = train(cfg, resume=True)
    assert resumed.start_epoch == 2
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, resumed.bare_model.state_dict()[name]), name
    assert resumed.results == whole.results
    last, expected = lines(tmp_path / "parts")[-2], lines(tmp_path / "whole")[-2]
    assert (last["iteration"], last["lr"]) == (expected["iteration"], expected["lr"])


class Signalled(ToyTrainer):
    """A signal comes in the middle of an iteration, or of an evaluation."""

    when = 0

    def build_hooks(self):
        return [*super().build_hooks(), SignalAt(self.when)]

    @classmethod
    def test(cls, cfg, model):
        if cls.when == "evaluation":
            torch.rand(3)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the evaluation went on")
        return super().test(cfg, model)


class SignalAt(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("when", [0, 2, 4, 5, "evaluation"])
def test_a_signal_loses_nothing(tmp_path, when):
    whole = train(toy_cfg(tmp_path / "whole", SOLVER__CHECKPOINT_PERIOD=0, TEST__EVAL_PERIOD=2))
    cfg = toy_cfg(tmp_path / "parts", SOLVER__CHECKPOINT_PERIOD=0, TEST__EVAL_PERIOD=2)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit, match="stopped by a signal after iteration .* --resume"):
        train(cfg, trainer_class=type("Signalled", (Signalled,), {"when": when}))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_interrupted.pth"
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == (6 if when == "evaluation" else when + 1)
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, resumed.bare_model.state_dict()[name]), name
    assert resumed.results == whole.results and resumed.best_metric == whole.best_metric
    assert [line["iteration"] for line in lines(tmp_path / "parts") if "lr" in line][-1] == 12


def test_a_signal_in_the_last_iteration_changes_nothing(tmp_path):
    whole = train(toy_cfg(tmp_path / "whole"))
    told = train(toy_cfg(tmp_path / "told"), trainer_class=type("Signalled", (Signalled,), {"when": 11}))
    assert torch.equal(whole.bare_model.embed.weight, told.bare_model.embed.weight) and told.results == whole.results


def test_the_second_signal_stops_at_once(tmp_path):
    class Impatient(HookBase):
        def before_step(self):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    class Trainer(ToyTrainer):
        def build_hooks(self):
            return [*super().build_hooks(), Impatient()]

    with pytest.raises(KeyboardInterrupt):
        train(toy_cfg(tmp_path), trainer_class=Trainer)


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(tmp_path, caplog):
    whole = train(toy_cfg(tmp_path / "whole"))
    cfg = toy_cfg(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train(cfg, trainer_class=Interrupted)
    newest = tmp_path / "parts" / "model_0001.pth"
    weight = read_checkpoint(newest)["model"]["embed.weight"].numpy().tobytes()
    content = newest.read_bytes()
    assert content.count(weight) == 1
    newest.write_bytes(content.replace(weight, bytes([weight[0] ^ 1]) + weight[1:]))  # one bit
    resumed = train(cfg, resume=True)
    assert resumed.start_epoch == 1 and "model_0001.pth cannot be resumed from" in caplog.text
    assert torch.equal(whole.bare_model.embed.weight, resumed.bare_model.embed.weight)


def test_as_many_checkpoints_stay_as_asked_for(tmp_path):
    train(toy_cfg(tmp_path, SOLVER__KEEP_CHECKPOINTS=2, SOLVER__MAX_EPOCH=6))
    names = sorted(path.name for path in tmp_path.glob("model_*.pth"))
    assert names == ["model_0003.pth", "model_0004.pth", "model_best.pth", "model_final.pth"]


def test_training_learns(tmp_path):
    trainer = train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=30, SOLVER__BASE_LR=0.2))
    assert trainer.results["Toy"]["Rank-1"] == 100.0
    assert trainer.results["Toy"]["mAP"] > 80


def test_files_of_a_run(tmp_path):
    trainer = train(toy_cfg(tmp_path, SOLVER__CHECKPOINT_PERIOD=3, TEST__EVAL_PERIOD=2))
    assert {path.name for path in tmp_path.glob("model*")} == {
        "model_0002.pth", "model_final.pth", "model_best.pth",
    }  # fmt: skip
    assert list(tmp_path.glob("events.out.tfevents.*"))
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"Toy", "ToyToo"} and results == trainer.results
    training, *_, evaluation = lines(tmp_path)[-2:]
    assert list(training) == [
        "iteration", "epoch", "lr", "total_loss", "loss_identity", "data_time", "time",
        "eta_seconds",
    ]  # fmt: skip
    assert training["iteration"] == 4 * ITERS_PER_EPOCH and training["epoch"] == 3
    assert evaluation["Toy/mAP"] == results["Toy"]["mAP"] and "ToyToo/Rank-1" in evaluation
    final = read_checkpoint(tmp_path / "model_final.pth")
    assert {"model", "optimizer", "scheduler", "scaler", "rng"} < set(final)
    assert (final["epoch"], final["iteration"]) == (3, 12)


def test_resuming_a_finished_run_evaluates(tmp_path, caplog):
    caplog.set_level("INFO", logger="fastreid")
    first = train(toy_cfg(tmp_path))
    before = (tmp_path / "model_final.pth").read_bytes()
    again = train(toy_cfg(tmp_path), resume=True)
    assert again.results == first.results
    assert "has finished its 4 epochs: evaluating it" in caplog.text
    assert (tmp_path / "model_final.pth").read_bytes() == before


@pytest.mark.parametrize("loss", ["deleted", "deleted with the note", "damaged"])
def test_a_finished_run_that_lost_its_last_checkpoint_writes_it_again(tmp_path, caplog, loss):
    train(toy_cfg(tmp_path))
    final = tmp_path / "model_final.pth"
    whole = read_checkpoint(final)
    if loss == "damaged":
        final.write_bytes(final.read_bytes()[:-100])
    else:
        final.unlink()
    if loss == "deleted with the note":
        (tmp_path / "last_checkpoint").unlink()
    assert state_of(tmp_path) == UNFINISHED
    train(toy_cfg(tmp_path), resume=True)
    assert state_of(tmp_path) == FINISHED and "It is written again" in caplog.text
    again = read_checkpoint(final)
    assert (again["epoch"], again["iteration"]) == (whole["epoch"], whole["iteration"])
    assert all(torch.equal(value, again["model"][name]) for name, value in whole["model"].items())
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_run_that_is_resumed_with_fewer_epochs_than_it_has_done_writes_no_last_checkpoint(tmp_path):
    train(toy_cfg(tmp_path))
    (tmp_path / "model_final.pth").unlink()
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=2), resume=True)
    assert not (tmp_path / "model_final.pth").exists()


def test_resume_without_a_checkpoint_starts_anew_or_from_weights(tmp_path, caplog):
    caplog.set_level("INFO", logger="fastreid")
    first = train(toy_cfg(tmp_path / "a"), resume=True)
    assert first.start_epoch == 0 and "nothing to resume" in caplog.text
    weights = str(tmp_path / "a" / "model_final.pth")
    trainer = ToyTrainer(toy_cfg(tmp_path / "b", MODEL__WEIGHTS=weights))
    trainer.resume_or_load(resume=True)
    assert trainer.start_epoch == 0
    assert torch.equal(trainer.bare_model.embed.weight, first.bare_model.embed.weight)


def test_longer_training_can_be_resumed_but_other_epochs_not(tmp_path):
    train(toy_cfg(tmp_path))
    assert train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=5), resume=True).iter == 5 * ITERS_PER_EPOCH
    longer = ToyTrainer(toy_cfg(tmp_path))
    longer.iters_per_epoch = 4
    with pytest.raises(ConfigError, match="resume with the same data and batch size"):
        longer.resume_or_load(resume=True)


def test_missing_weights_are_an_error(tmp_path):
    trainer = ToyTrainer(toy_cfg(tmp_path, MODEL__WEIGHTS=str(tmp_path / "stage1.pth")))
    with pytest.raises(WeightsError, match="no weights file"):
        trainer.resume_or_load()


def test_evaluation_that_fails_keeps_the_training(tmp_path):
    class Unlucky(ToyTrainer):
        @classmethod
        def test(cls, cfg, model):
            raise OSError("gallery is gone")

    with pytest.raises(OSError, match="gallery is gone"):
        train(toy_cfg(tmp_path), trainer_class=Unlucky)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_protocol_that_cannot_be_scored_stops_the_run_before_it_starts(tmp_path):
    class OneCamera(ToyTrainer):
        @classmethod
        def build_test_datasets(cls, cfg):
            return [
                SimpleNamespace(name=data.name, query=data.query, gallery=data.query)
                for data in super().build_test_datasets(cfg)
            ]

    with pytest.raises(NoValidQueryError, match="Toy"):
        OneCamera(toy_cfg(tmp_path))


def test_going_on_with_other_weights_than_the_run_started_from_is_logged(tmp_path, caplog):
    train(toy_cfg(tmp_path / "stage1"))
    weights = tmp_path / "stage1" / "model_final.pth"
    cfg = toy_cfg(tmp_path / "stage2", MODEL__WEIGHTS=str(weights))
    train(cfg)
    os.utime(weights, (2**31, 2**31))  # what it holds counts, not its date
    train(cfg, resume=True)
    assert "is not the file that this run started from" not in caplog.text
    train(toy_cfg(tmp_path / "stage1", SOLVER__BASE_LR=0.01))
    train(cfg, resume=True)
    assert "model_final.pth is not the file that this run started from" in caplog.text


def test_no_test_protocols(tmp_path):
    trainer = train(toy_cfg(tmp_path, DATASETS__TESTS="()"))
    assert trainer.results == {} and not (tmp_path / "model_best.pth").exists()


def test_class_count_comes_from_the_data(tmp_path):
    cfg = toy_cfg(tmp_path)
    scaled = DefaultTrainer.auto_scale_hyperparams(cfg, PEOPLE)
    assert scaled.MODEL.HEADS.NUM_CLASSES == PEOPLE and scaled.is_frozen()
    assert cfg.MODEL.HEADS.NUM_CLASSES == 0
    more = toy_cfg(tmp_path, MODEL__HEADS__NUM_CLASSES=9)
    assert DefaultTrainer.auto_scale_hyperparams(more, 4).MODEL.HEADS.NUM_CLASSES == 9
    with pytest.raises(ConfigError, match="is 3 but the training data has 4 people"):
        DefaultTrainer.auto_scale_hyperparams(toy_cfg(tmp_path, MODEL__HEADS__NUM_CLASSES=3), 4)


def test_bf16_training_keeps_fp32_weights_and_learns(tmp_path):
    trainer = train(
        toy_cfg(
            tmp_path, SOLVER__AMP__ENABLED=True, SOLVER__AMP__DTYPE="bf16",
            SOLVER__MAX_EPOCH=30, SOLVER__BASE_LR=0.2,
        )
    )  # fmt: skip
    assert trainer.bare_model.embed.weight.dtype is torch.float32
    assert trainer.results["Toy"]["mAP"] > 80


def test_building_a_trainer_writes_nothing(tmp_path):
    ToyTrainer(toy_cfg(tmp_path / "dry"))
    assert not (tmp_path / "dry").exists()


def test_a_model_that_is_sharded_is_built_on_the_cpu(tmp_path):
    """The device may have no room for all of it."""
    devices = []

    class Trainer(ToyTrainer):
        @classmethod
        def build_model(cls, cfg):
            devices.append(cfg.MODEL.DEVICE)
            return super().build_model(cfg)

    Trainer(toy_cfg(tmp_path, MODEL__DEVICE="cpu:0"))
    with pytest.raises(ConfigError, match="SOLVER.FSDP distributes a model over processes"):
        Trainer(toy_cfg(tmp_path, MODEL__DEVICE="cpu:0", SOLVER__FSDP__ENABLED=True))
    assert devices == ["cpu:0", "cpu"]
