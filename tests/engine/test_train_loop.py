"""The order of things in a run, and what one step does."""

import pytest
import torch
from torch import nn

from fastreid.engine import HookBase, SimpleTrainer, TrainerBase, hooks
from fastreid.utils.checkpoint import Checkpointer, read_checkpoint
from fastreid.utils.events import EventStorage
from fastreid.utils.writers import JSONWriter


class Recorder(HookBase):
    def __init__(self):
        self.events = []

    def _note(self, point):
        self.events.append((point, self.trainer.epoch, self.trainer.iter))

    def before_train(self):
        self._note("before_train")

    def after_train(self):
        self._note("after_train")

    def before_epoch(self):
        self._note("before_epoch")

    def after_epoch(self):
        self._note("after_epoch")

    def before_step(self):
        self._note("before_step")

    def after_step(self):
        self._note("after_step")


class Silent(TrainerBase):
    def run_step(self):
        pass


def test_six_points_in_order():
    trainer, recorder = Silent(), Recorder()
    trainer.register_hooks([None, recorder])
    trainer.train(1, 3, 1)
    assert recorder.events == [
        ("before_train", 0, 1),
        ("before_epoch", 1, 1), ("before_step", 1, 1), ("after_step", 1, 1), ("after_epoch", 1, 2),
        ("before_epoch", 2, 2), ("before_step", 2, 2), ("after_step", 2, 2), ("after_epoch", 2, 3),
        ("after_train", 2, 3),
    ]  # fmt: skip


def test_after_train_comes_also_after_an_error():
    class Failing(TrainerBase):
        def run_step(self):
            raise KeyboardInterrupt

    trainer, recorder = Failing(), Recorder()
    trainer.register_hooks([recorder])
    with pytest.raises(KeyboardInterrupt):
        trainer.train(0, 2, 2)
    assert [event[0] for event in recorder.events] == [
        "before_train", "before_epoch", "before_step", "after_train",
    ]  # fmt: skip


class Weighted(nn.Module):
    """Losses a = w x and b = 2 w x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, batch):
        product = self.w * batch["x"]
        return {"a": product, "b": 2 * product}


def simple(batches, **options):
    model = Weighted()
    return SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def endless(value, **extra):
    while True:
        yield {"x": torch.tensor(value), **extra}


def test_one_step_is_gradient_descent_on_the_sum():
    trainer = simple(endless(2.0))
    trainer.train(0, 1, 1)
    assert trainer.model.w.item() == pytest.approx(1 - 0.1 * 3 * 2.0)
    means = trainer.storage.pop_means()
    assert (means["a"], means["b"], means["total_loss"]) == (2.0, 4.0, 6.0)
    assert means["data_time"] >= 0
    assert trainer.model.w.grad is None


def test_gradients_are_clipped_between_backward_and_step():
    def clip(parameters, norm):
        assert norm.item() == 6.0
        for parameter in parameters:
            assert parameter.grad.item() == 6.0
            parameter.grad.fill_(1.0)

    trainer = simple(endless(2.0), clip_gradients=clip)
    trainer.train(0, 1, 1)
    assert trainer.model.w.item() == pytest.approx(0.9)


def test_clipping_sees_unscaled_gradients_and_an_overflow_skips_the_step():
    seen = []
    trainer = simple(
        endless(2.0),
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000),
        clip_gradients=lambda parameters, norm: seen.extend(p.grad.item() for p in parameters),
    )
    trainer.train(0, 1, 3)
    assert seen[0] == float("inf") and seen[-1] == 6.0
    taken = sum(value == 6.0 for value in seen)
    assert trainer.model.w.item() == pytest.approx(1 - 0.6 * taken)


def test_autocast_covers_the_forward_pass():
    class Probe(Weighted):
        def forward(self, batch):
            self.dtype = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
            return super().forward(batch)

    model = Probe()
    SimpleTrainer(
        model, endless(1.0), torch.optim.SGD(model.parameters(), lr=0.1),
        autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ).train(0, 1, 1)  # fmt: skip
    assert model.dtype is torch.bfloat16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_loss_names_terms_iteration_rate_and_images(value):
    paths = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    trainer = simple(endless(value, img_paths=paths))
    with pytest.raises(FloatingPointError) as error:
        trainer.train(0, 1, 1)
    message = str(error.value)
    assert "iteration 0 (epoch 0), lr 0.1" in message
    assert f"'a': {value}" in message and "'b'" in message
    assert "a.jpg, b.jpg, c.jpg and 1 more, all named in log.txt" in message and "d.jpg" not in message
    assert trainer.model.w.item() == 1.0  # before the step, so that the weights are still good


def test_a_loader_that_ends_is_an_error_not_a_hang():
    with pytest.raises(RuntimeError, match="ended at iteration 2; it must be endless"):
        simple([{"x": torch.tensor(1.0)}] * 2).train(0, 1, 3)


class Broken(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield {"x": 1.0}
        raise OSError("cannot read image 7.jpg")


def test_a_failing_data_worker_stops_the_run():
    loader = torch.utils.data.DataLoader(Broken(), batch_size=None, num_workers=1)
    with pytest.raises(OSError, match=r"cannot read image 7\.jpg"):
        simple(loader).train(0, 1, 5)


def test_processes_do_not_wait_for_a_gradient_that_never_comes(monkeypatch):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle, self.frozen = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1)
            self.frozen.requires_grad_(False)

        def forward(self, batch):
            return {"loss": self.used(batch["images"]).sum()}

    model = Idle()
    trainer = SimpleTrainer(model, [{"images": torch.ones(2, 2)}] * 3, torch.optim.SGD(model.used.parameters(), 0.1))
    monkeypatch.setattr("fastreid.utils.comm.is_distributed", lambda: True)
    monkeypatch.setattr("fastreid.utils.comm.all_reduce_sum", lambda tensor: tensor.detach().clone())
    with pytest.raises(RuntimeError, match=r"2 parameters have no part in the loss: idle\.weight, idle\.bias\. "):
        trainer.train(0, 1, 3)


class Fails(HookBase):
    """Its work fails, or its clean-up."""

    def __init__(self, point, error):
        setattr(self, point, self._fail)
        self.error = error

    def _fail(self):
        raise self.error


def test_clean_up_does_not_hide_the_error_that_came_first(caplog):
    trainer, recorder = Silent(), Recorder()
    trainer.register_hooks(
        [Fails("after_train", OSError("no room")), Fails("after_step", ValueError("first")), recorder]
    )
    with pytest.raises(ValueError, match="first"):
        trainer.train(0, 1, 2)
    assert "Fails.after_train failed too: OSError: no room" in caplog.text
    assert recorder.events[-1][0] == "after_train"  # hooks after it clean up all the same


def test_an_error_in_a_clean_up_alone_is_raised():
    trainer = Silent()
    trainer.register_hooks([Fails("after_train", OSError("no room"))])
    with pytest.raises(OSError, match="no room"):
        trainer.train(0, 1, 2)


@pytest.mark.parametrize("is_evaluated", [False, True])
def test_hooks_work_with_a_simple_trainer(tmp_path, is_evaluated):
    """As users of fast-reid combine them by hand."""
    model = nn.Linear(2, 1)

    class Losses(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = model

        def forward(self, batch):
            return {"loss": self.linear(batch["images"]).square().mean()}

    batches = iter(lambda: {"images": torch.ones(3, 2)}, None)
    trainer = SimpleTrainer(Losses(), batches, torch.optim.SGD(model.parameters(), lr=0.1))
    checkpointer = Checkpointer(model, tmp_path, optimizer=trainer.optimizer)
    evaluation = [
        hooks.EvalHook(1, lambda: {"P": {"metric": 5.0}}),
        hooks.BestCheckpointer(checkpointer),
        hooks.EvaluationRecorder(tmp_path),
    ]
    trainer.register_hooks([
        hooks.IterationTimer(),
        hooks.PeriodicCheckpointer(checkpointer, 1),
        hooks.StopOnSignal(checkpointer),
        *(evaluation if is_evaluated else []),
        hooks.PeriodicWriter(lambda: [JSONWriter(tmp_path / "metrics.json")], 1),
        hooks.LogSkippedImages(),
    ])  # fmt: skip
    trainer.train(0, 2, 3)
    content = read_checkpoint(tmp_path / "model_final.pth")
    assert (content["epoch"], content["iteration"]) == (1, 6)
    assert content["best_metric"] == (5.0 if is_evaluated else None)
    assert (tmp_path / "model_best.pth").exists() is is_evaluated


def test_hooks_work_with_a_user_defined_trainer_that_has_little_state(tmp_path):
    class Bare(TrainerBase):
        def __init__(self):
            self.hooks, self.storage = [], EventStorage()

        def run_step(self):
            pass

    trainer = Bare()
    trainer.register_hooks([hooks.PeriodicCheckpointer(Checkpointer(nn.Linear(1, 1), tmp_path), 1)])
    trainer.train(0, 2, 1)
    assert read_checkpoint(tmp_path / "model_0000.pth")["best_metric"] is None
