"""A step that is not finite leaves nothing behind but a count and a warning; too many stop the run."""

import itertools
import json

import pytest
import torch
from torch import nn

from fastreid.config import ConfigError
from fastreid.engine import SimpleTrainer
from fastreid.engine.nonfinite import BufferBackup, DivergenceError
from fastreid.utils.checkpoint import read_checkpoint
from fastreid.utils.env import seed_everything
from tests.engine.toys import ToyTrainer, toy_cfg, train


class PoisonedLoader:
    """The toy's loader, with images that are not finite in some iterations."""

    def __init__(self, loader, bad):
        self._loader, self._bad = loader, bad
        self.dataset, self.sampler, self.iters_per_epoch = loader.dataset, loader.sampler, loader.iters_per_epoch

    def __iter__(self):
        # Not a generator: the trainer keeps the seed that an iterator draws when it is made to itself.
        return map(self._poison, itertools.count(self.sampler.skip // 8), self._loader)

    def _poison(self, number, batch):
        if number in self._bad:
            batch["images"][3] = float("nan")
        return batch


def poisoned(*bad):
    class Trainer(ToyTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            return PoisonedLoader(super().build_train_loader(cfg), bad)

    return Trainer


def state_of(trainer):
    optimizer = trainer.optimizer.state_dict()["state"]
    moments = {f"momentum {n}": values["momentum_buffer"] for n, values in optimizer.items()}
    return {name: value.clone() for name, value in (trainer.bare_model.state_dict() | moments).items()}


def test_a_bad_step_changes_nothing_and_is_told(tmp_path, caplog):
    class Watched(poisoned(4)):
        def run_step(self):
            before = state_of(self) if self.iter == 4 else {}
            super().run_step()
            after = state_of(self)
            assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
            assert self.took_step is (self.iter != 4)

    trainer = train(toy_cfg(tmp_path), trainer_class=Watched)
    assert (trainer.nonfinite_steps, trainer.nonfinite_in_a_row) == (1, 0)
    (warning,) = (r.getMessage() for r in caplog.records if "step skipped" in r.getMessage())
    assert "1 in a row, 1 in the run: iteration 4 (epoch 1), lr 0.0" in warning
    assert "{'loss_identity': nan}" in warning and "images with pixels that are not finite: img" in warning
    assert "1 of 12 steps were skipped" in caplog.text
    last = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()][-2]
    assert last["nonfinite_steps"] == 1 and last["total_loss"] > 0
    assert read_checkpoint(tmp_path / "model_final.pth")["nonfinite_steps"] == 1
    assert all(value.isfinite().all() for value in trainer.bare_model.state_dict().values())


def test_too_many_in_a_row_stop_with_the_run_before_the_first(tmp_path):
    cfg = toy_cfg(tmp_path, SOLVER__MAX_NONFINITE=2)
    with pytest.raises(DivergenceError) as error:
        train(cfg, trainer_class=poisoned(4, 5, 6, 7))
    message = str(error.value)
    assert "iteration 6 (epoch 2)" in message and "3 steps in a row were not finite (3 in the run)" in message
    assert "model_before_nonfinite.pth" in message and "after iteration 4" in message
    assert (tmp_path / "last_checkpoint").read_text() == "model_before_nonfinite.pth"
    content = read_checkpoint(tmp_path / "model_before_nonfinite.pth")
    assert (content["epoch"], content["iteration"]) == (0, 4)
    assert (content["nonfinite_steps"], content["nonfinite_in_a_row"]) == (3, 0)

    class Short(ToyTrainer):
        def run_step(self):
            if self.iter == 4:
                raise KeyboardInterrupt
            super().run_step()

    seed_everything(cfg.MODEL.SEED)
    short = Short(toy_cfg(tmp_path / "short"))  # a run that ended there
    with pytest.raises(KeyboardInterrupt):
        short.train()
    for name, value in short.bare_model.state_dict().items():
        assert torch.equal(value, content["model"][name]), name

    resumed = train(cfg, resume=True)  # the images are well again
    assert (resumed.start_epoch, resumed.start_iter, resumed.iter, resumed.nonfinite_steps) == (1, 4, 12, 3)
    whole = train(toy_cfg(tmp_path / "whole"))
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, resumed.bare_model.state_dict()[name]), name


def test_rare_bad_steps_never_stop_a_run(tmp_path):
    trainer = train(toy_cfg(tmp_path, SOLVER__MAX_NONFINITE=1), trainer_class=poisoned(0, 2, 4, 6, 8, 10))
    assert trainer.nonfinite_steps == 6


def test_the_count_goes_on_after_a_resume(tmp_path):
    cfg = toy_cfg(tmp_path, SOLVER__MAX_NONFINITE=1)
    train(cfg, trainer_class=poisoned(1, 5))
    (tmp_path / "last_checkpoint").write_text("model_0001.pth")
    resumed = ToyTrainer(cfg)
    resumed.resume_or_load(resume=True)
    assert (resumed.nonfinite_steps, resumed.nonfinite_in_a_row) == (2, 1)  # iteration 5 ended an epoch
    assert resumed.storage.pop_means()["nonfinite_steps"] == 2


class NoSlope(nn.Module):
    """A loss that is finite where its gradient is not: sqrt at 0."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch):
        self.seen += 1
        return {"a": (self.w * batch["x"]).sqrt(), "b": 0.1 * self.w}


def no_slope(values, **options):
    model = NoSlope()
    data = ({"x": torch.tensor(value), "img_paths": [f"{value}.jpg"]} for value in values)
    return SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1), **options)


@pytest.mark.parametrize("clip", [None, lambda p, norm: nn.utils.clip_grad_norm_(p, 1.0)])
def test_a_bad_gradient_of_a_finite_loss_is_skipped_too(caplog, clip):
    trainer = no_slope([1.0, 0.0, 1.0], max_nonfinite=1, clip_gradients=clip)
    trainer.train(0, 1, 3)
    assert trainer.model.w.isfinite() and trainer.nonfinite_steps == 1
    assert trainer.model.seen == 2  # the bad forward pass has left no trace
    assert "non-finite gradient of w, of finite losses {'a': 0.0, 'b': 0." in caplog.text and "0.0.jpg" in caplog.text


def test_fp16_is_no_excuse_at_scale_one():
    """An overflow lowers the scale and is no bad step; what no scale can help is one."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer = no_slope([0.0] * 5, max_nonfinite=1, scaler=scaler)
    with pytest.raises(DivergenceError, match="iteration 3 .*loss scale 1: non-finite gradient"):
        trainer.train(0, 1, 5)
    assert trainer.iter == 3 and scaler.get_scale() == 1.0 and trainer.model.w == 1.0


def test_a_bad_loss_leaves_the_scale_alone():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer = no_slope([float("nan"), 1.0], max_nonfinite=1, scaler=scaler)
    trainer.train(0, 1, 2)
    assert scaler.get_scale() == 4.0 and trainer.took_step and trainer.nonfinite_steps == 1


def test_buffers_are_restored_and_changed_ones_named():
    model = nn.BatchNorm1d(2)
    backup = BufferBackup(model)
    backup.remember()
    for _ in range(2):
        model(torch.randn(4, 2))
    assert set(backup.changed()) == {"running_mean", "running_var", "num_batches_tracked"}
    backup.restore()
    assert model.num_batches_tracked == 0 and torch.equal(model.running_var, torch.ones(2))
    assert not model.running_mean.any() and backup.changed() == []


def test_a_negative_limit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="MAX_NONFINITE must be 0 or more, got -1"):
        ToyTrainer(toy_cfg(tmp_path, SOLVER__MAX_NONFINITE=-1))
