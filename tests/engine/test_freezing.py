"""Frozen layers do not move by a bit, then they learn; a resumed run knows how far it was."""

import logging

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.engine import HookBase
from tests.engine.toys import ToyTrainer, toy_cfg, train

FROZEN = ("embed.weight", "embed.bias", "neck.weight", "neck.running_mean", "neck.num_batches_tracked")


class Snapshots(HookBase):
    """The state, and what is in training mode, after each iteration."""

    def __init__(self):
        self.states, self.modes = [], []

    def after_step(self):
        state = self.trainer.bare_model.state_dict()
        self.states.append({name: value.clone() for name, value in state.items()})
        self.modes.append([name for name, m in self.trainer.bare_model.named_modules() if name and m.training])


class Watched(ToyTrainer):
    def build_hooks(self):
        self.seen = Snapshots()
        return [*super().build_hooks(), self.seen]


def frozen_cfg(folder, iterations, layers="['embed', 'neck']", **keys):
    keys = {"SOLVER__WEIGHT_DECAY": 0.1, "SOLVER__WARMUP_ITERS": 0, **keys}
    return toy_cfg(folder, MODEL__FREEZE_LAYERS=layers, SOLVER__FREEZE_ITERS=iterations, **keys)


@pytest.mark.parametrize("opt", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_not_a_bit_moves_and_then_all_learn(tmp_path, opt):
    trainer = train(frozen_cfg(tmp_path, 5, SOLVER__OPT=opt, TEST__EVAL_PERIOD=1), trainer_class=Watched)
    torch.manual_seed(0)
    start, states = ToyTrainer.build_model(trainer.cfg).state_dict(), trainer.seen.states
    for name in FROZEN:
        assert all(torch.equal(state[name], start[name]) for state in states[:5]), name
        assert not torch.equal(states[5][name], start[name]), name
    weights = [state["heads.classifier.weight"] for state in states]
    assert not any(torch.equal(*pair) for pair in zip(weights, weights[1:], strict=False))
    assert trainer.seen.modes[4] == ["heads", "heads.classifier"]
    assert trainer.seen.modes[5] == ["embed", "neck", "heads", "heads.classifier"]


@pytest.mark.parametrize("opt", ["SGD", "AdamW"])
@pytest.mark.parametrize("last", ["model_0000.pth", "model_0002.pth"])
def test_freezing_goes_on_where_it_was_and_ends_with_the_same_bits(tmp_path, opt, last):
    whole = train(frozen_cfg(tmp_path / "whole", 5, SOLVER__OPT=opt))
    cfg = frozen_cfg(tmp_path / "parts", 5, SOLVER__OPT=opt)
    train(cfg)
    (tmp_path / "parts/last_checkpoint").write_text(last)
    resumed = train(cfg, resume=True, trainer_class=Watched)
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, resumed.bare_model.state_dict()[name]), name
    thawed = ["neck" in modes for modes in resumed.seen.modes]
    assert thawed == [iteration >= 5 for iteration in range(resumed.start_iter, 12)]


def test_for_the_whole_run_without_gradients_or_optimiser_state(tmp_path):
    trainer = train(frozen_cfg(tmp_path, -1), trainer_class=Watched)
    torch.manual_seed(0)
    start = ToyTrainer.build_model(trainer.cfg).state_dict()
    assert all(torch.equal(trainer.bare_model.state_dict()[name], start[name]) for name in FROZEN)
    assert len(list(trainer._parameters())) == 1
    assert all("neck" not in modes for modes in trainer.seen.modes)


def test_a_single_parameter_can_be_frozen(tmp_path):
    trainer = train(frozen_cfg(tmp_path, 99, "['embed.weight']"), trainer_class=Watched)
    first, *_, last = trainer.seen.states
    assert torch.equal(first["embed.weight"], last["embed.weight"])
    assert not torch.equal(first["embed.bias"], last["embed.bias"]) and "embed" in trainer.seen.modes[0]


def test_clipping_does_not_see_frozen_gradients(tmp_path):
    class Clipped(ToyTrainer):
        def run_step(self):
            self.clip_gradients = lambda parameters, norm: seen.append(sum(p.grad is not None for p in parameters))
            super().run_step()

    seen = []
    train(frozen_cfg(tmp_path, 5), trainer_class=Clipped)
    assert seen == [1] * 5 + [5] * 7


class OwnStep(ToyTrainer):
    """A step of somebody's own."""

    def run_step(self):
        sum(self.model(self._next_batch()).values()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def test_a_step_of_somebody_s_own_must_not_thaw_layers_unnoticed(tmp_path):
    with pytest.raises(RuntimeError, match="OwnStep.run_step trains frozen layers"):
        train(frozen_cfg(tmp_path, 5), trainer_class=OwnStep)
    train(frozen_cfg(tmp_path, -1), trainer_class=OwnStep)


def test_zero_iterations_or_no_layers_freeze_nothing_and_say_so(tmp_path, caplog):
    for cfg in (frozen_cfg(tmp_path, 0), frozen_cfg(tmp_path, 3, "[]")):
        caplog.clear()
        assert ToyTrainer(cfg).layer_freeze is None
        assert "nothing is frozen" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert ToyTrainer(toy_cfg(tmp_path)).layer_freeze is None
    assert not caplog.text


@pytest.mark.parametrize(
    ("layers", "iterations", "message"),
    [
        ("['embedd']", 3, r"ToyModel has no part 'embedd'; did you mean embed or .*Its parts: embed, neck, heads"),
        ("['embedd']", 0, "no part 'embedd'"),
        ("['embed', 'neck', 'heads']", 3, "leaves nothing to train"),
        ("['embed', 'neck', 'heads']", -1, "leaves nothing to train"),
        ("['embed']", -2, "must be -1 or more .-1: the whole run., got -2"),
    ],
)
def test_mistakes_are_explained(tmp_path, layers, iterations, message):
    with pytest.raises(ConfigError, match=message):
        ToyTrainer(frozen_cfg(tmp_path, iterations, layers))
