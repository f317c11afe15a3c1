"""A run that averages its weights: what is evaluated, what checkpoints hold, how it is resumed."""

import os
import signal

import pytest
import torch

from fastreid.engine.hooks import Interrupted
from fastreid.utils.checkpoint import WeightsError, load_weights, read_checkpoint
from tests.engine.test_freezing import OwnStep
from tests.engine.test_nonfinite import poisoned
from tests.engine.toys import ToyTrainer, toy_cfg, train


def ema_cfg(folder, **keys):
    return toy_cfg(folder, **{"SOLVER__EMA__ENABLED": True, "SOLVER__EMA__MOMENTUM": 0.8, **keys})


class Watched(ToyTrainer):
    """Remembers the weights that were evaluated."""

    evaluated: list = []

    @classmethod
    def test(cls, cfg, model):
        cls.evaluated.append({name: value.clone() for name, value in model.state_dict().items()})
        return super().test(cfg, model)


def same(first, second):
    return [name for name, value in first.items() if not torch.equal(value, second[name])] == []


def test_the_average_is_evaluated_and_is_the_checkpoints_model(tmp_path):
    class Trainer(Watched):
        evaluated = []

    trainer = train(ema_cfg(tmp_path, TEST__EVAL_PERIOD=2), trainer_class=Trainer)
    final, plain = read_checkpoint(tmp_path / "model_final.pth"), train(toy_cfg(tmp_path / "plain"))
    assert final["weights"] == "averaged" and final["average"]["updates"] == 12
    assert same(Trainer.evaluated[-1], final["model"]) and not same(final["model"], final["average"]["raw"])
    assert same(plain.bare_model.state_dict(), trainer.bare_model.state_dict())  # training is not touched by it
    assert same(final["average"]["raw"], trainer.bare_model.state_dict())
    best = read_checkpoint(tmp_path / "model_best.pth")
    assert best["weights"] == "averaged" and any(same(best["model"], seen) for seen in Trainer.evaluated)
    assert read_checkpoint(tmp_path / "plain/model_final.pth")["weights"] == "raw"
    other = ToyTrainer.build_model(trainer.cfg)
    load_weights(other, tmp_path / "model_final.pth")  # as MODEL.WEIGHTS: what was evaluated
    assert same(other.state_dict(), final["model"])


@pytest.mark.parametrize("opt", ["SGD", "AdamW"])
def test_resumed_it_ends_with_the_same_bits(tmp_path, opt):
    train(ema_cfg(tmp_path / "whole", SOLVER__OPT=opt))
    cfg = ema_cfg(tmp_path / "parts", SOLVER__OPT=opt)
    train(cfg)
    (tmp_path / "parts/last_checkpoint").write_text("model_0001.pth")
    resumed = train(cfg, resume=True)
    whole, parts = (read_checkpoint(tmp_path / run / "model_final.pth") for run in ("whole", "parts"))
    assert resumed.start_iter == 6 and whole["average"]["updates"] == parts["average"]["updates"]
    assert same(whole["model"], parts["model"]) and same(whole["average"]["raw"], parts["average"]["raw"])


@pytest.mark.parametrize("when", [4, "evaluation"])
def test_a_signal_in_the_middle_loses_neither_of_the_two(tmp_path, when):
    class Signalled(ToyTrainer):
        def run_step(self):
            if self.iter == when:
                os.kill(os.getpid(), signal.SIGTERM)
            super().run_step()

        @classmethod
        def test(cls, cfg, model):
            if when == "evaluation":
                os.kill(os.getpid(), signal.SIGTERM)
            return super().test(cfg, model)

    keys = {"TEST__EVAL_PERIOD": 2, "SOLVER__CHECKPOINT_PERIOD": 0}
    train(ema_cfg(tmp_path / "whole", **keys))
    with pytest.raises(Interrupted):
        train(ema_cfg(tmp_path / "parts", **keys), trainer_class=Signalled)
    train(ema_cfg(tmp_path / "parts", **keys), resume=True)
    whole, parts = (read_checkpoint(tmp_path / run / "model_final.pth") for run in ("whole", "parts"))
    assert same(whole["model"], parts["model"]) and same(whole["average"]["raw"], parts["average"]["raw"])


def test_a_skipped_step_is_no_update(tmp_path):
    trainer = train(ema_cfg(tmp_path), trainer_class=poisoned(2, 7))
    assert trainer.average.updates == 10


def test_a_step_of_somebody_s_own_is_averaged(tmp_path):
    assert train(ema_cfg(tmp_path), trainer_class=OwnStep).average.updates == 12


def test_with_and_without_do_not_resume_each_other(tmp_path):
    train(ema_cfg(tmp_path / "a"))
    with pytest.raises(WeightsError, match="averages its weights: resume it with SOLVER.EMA.ENABLED True"):
        train(toy_cfg(tmp_path / "a"), resume=True)
    train(toy_cfg(tmp_path / "b"))
    with pytest.raises(WeightsError, match="lacks average; use it as MODEL.WEIGHTS"):
        train(ema_cfg(tmp_path / "b"), resume=True)


def test_it_learns(tmp_path):
    trainer = train(ema_cfg(tmp_path, SOLVER__MAX_EPOCH=30, SOLVER__BASE_LR=0.2))
    assert trainer.results["Toy"]["mAP"] > 80
