"""When hooks act, and what they leave behind."""

import contextlib
import json
import os
import random
from types import SimpleNamespace

import pytest
import torch

from fastreid.engine import TrainerBase, callbacks, hooks
from fastreid.engine.evaluating import ResultsError
from fastreid.utils.checkpoint import Checkpointer, read_checkpoint
from tests.engine.toys import ToyTrainer, toy_cfg, train


class Trainer(TrainerBase):
    def __init__(self):
        super().__init__()
        self.results, self.best_metric = {}, None
        self.optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])

    def run_step(self):
        self.storage.put_scalars(total_loss=float(self.iter))


def run(hook_list, *, epochs=5, iters=2, start=0, best=None):
    trainer = Trainer()
    trainer.best_metric = best
    trainer.register_hooks(hook_list)
    trainer.train(start, epochs, iters)
    return trainer


def evaluations(period, **options):
    at = []
    hook = hooks.EvalHook(period, lambda: at.append(hook.trainer.epoch) or {"P": {"metric": 1.0}})
    run([hook], **options)
    return at


def test_evaluation_every_period_and_at_the_end():
    assert evaluations(2) == [1, 3, 4]
    assert evaluations(5) == [4]
    assert evaluations(100) == [4]
    assert evaluations(0) == [4]
    assert evaluations(2, start=4) == [4]


def test_evaluation_leaves_random_states_as_they_were():
    draws = []

    class Draw(hooks.HookBase):
        def before_epoch(self):
            draws.append((random.random(), torch.rand(()).item()))

    for period in (0, 1):
        random.seed(1)
        torch.manual_seed(1)
        run([hooks.EvalHook(period, lambda: {"P": {"metric": torch.rand(()).item()}}), Draw()])
    assert draws[:5] == draws[5:]


@pytest.mark.parametrize("stopped", [False, True])
def test_skipped_images_are_logged_once_at_the_end(caplog, monkeypatch, stopped):
    class Drawing(hooks.HookBase):
        def before_train(self):
            self.trainer.data_loader = SimpleNamespace(skipped={"a.jpg": "cut off"})

        def after_step(self):
            self.trainer.data_loader.skipped[f"{self.trainer.iter % 3}.jpg"] = "empty"
            if stopped and self.trainer.iter == 5:
                raise KeyboardInterrupt

    elsewhere = {"a.jpg": "cut off", "z.jpg": "a text"}
    monkeypatch.setattr(hooks.comm, "all_gather", lambda mine: [mine, elsewhere])
    with pytest.raises(KeyboardInterrupt) if stopped else contextlib.nullcontext():
        run([Drawing(), hooks.LogSkippedImages()])
    (said,) = caplog.messages
    assert said.startswith("trained since iteration 0 without some images: ")
    assert f"{4 if stopped else 5} images could not be read (0.jpg: empty; 1.jpg: empty" in said


def test_nothing_is_logged_where_nothing_was_skipped(caplog):
    class Drawing(hooks.HookBase):
        def before_train(self):
            self.trainer.data_loader = []  # somebody's own loader

    run([Drawing(), hooks.LogSkippedImages()])
    assert not caplog.messages


def checkpointer_in(folder):
    return Checkpointer(torch.nn.Linear(1, 1), folder)


def test_checkpoints_every_period_and_final(tmp_path):
    run([hooks.PeriodicCheckpointer(checkpointer_in(tmp_path), 2)])
    assert sorted(os.listdir(tmp_path)) == [
        "last_checkpoint", "model_0001.pth", "model_0003.pth", "model_final.pth",
    ]  # fmt: skip
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    content = read_checkpoint(tmp_path / "model_0003.pth")
    assert (content["epoch"], content["iteration"]) == (3, 8)


def test_period_0_keeps_only_the_final_one(tmp_path):
    run([hooks.PeriodicCheckpointer(checkpointer_in(tmp_path), 0)])
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_final.pth"]


def best_run(folder, metrics, **options):
    scores = iter(metrics)
    checkpointer = checkpointer_in(folder)

    def evaluate():
        metric = next(scores)
        return {"A": {"metric": metric + 1.0}, "B": {"metric": metric - 1.0}}

    run([hooks.EvalHook(1, evaluate), hooks.BestCheckpointer(checkpointer)], **options)
    return checkpointer


def test_best_follows_the_mean_metric_and_says_where_it_comes_from(tmp_path, caplog):
    caplog.set_level("INFO", logger="fastreid")
    best_run(tmp_path, [10.0, 30.0, 20.0, 30.0, 5.0])
    content = read_checkpoint(tmp_path / "model_best.pth")
    assert (content["epoch"], content["best_metric"]) == (1, 30.0)
    assert "chosen on the test protocols" in caplog.text


class Memory:
    def __init__(self):
        self.records, self.closed = [], False

    def write(self, record):
        self.records.append(record)

    def close(self):
        self.closed = True


def test_writer_gets_means_per_period_the_end_and_evaluations():
    memory, timer = Memory(), hooks.IterationTimer()
    evaluate = hooks.EvalHook(2, lambda: {"P": {"mAP": 7.0, "metric": 7.0}})
    run([timer, evaluate, hooks.PeriodicWriter(lambda: [memory], 4)])
    assert [record["iteration"] for record in memory.records] == [4, 4, 8, 8, 10, 10]
    first, evaluation = memory.records[:2]
    assert list(first)[:4] == ["iteration", "epoch", "lr", "total_loss"]
    assert (first["epoch"], first["lr"], first["total_loss"]) == (1, 0.5, 1.5)
    assert first["time"] > 0 and first["eta_seconds"] > 0
    assert evaluation == {"iteration": 4, "epoch": 1, "P/mAP": 7.0, "P/metric": 7.0}
    assert memory.records[-2]["total_loss"] == 8.5 and memory.records[-2]["eta_seconds"] == 0
    assert memory.closed


def test_rate_is_set_before_the_step_it_is_for():
    asked = []
    schedule = SimpleNamespace(set_iteration=asked.append)
    run([hooks.LRScheduler(schedule)], epochs=2, iters=2, start=1)
    assert asked == [2, 3]


def test_rates_of_fast_reids_two_arguments():
    asked = []
    run([hooks.LRScheduler(object(), SimpleNamespace(set_iteration=asked.append))], epochs=1, iters=2)
    assert asked == [0, 1]


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_a_scheduler_of_torch_is_refused_with_the_remedy(with_optimizer):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(hooks.ScheduleError, match=r"not StepLR\. .*scheduler\.step\(\)"):
        hooks.LRScheduler(optimizer, scheduler) if with_optimizer else hooks.LRScheduler(scheduler)


def test_an_evaluation_may_have_no_figures(tmp_path):
    trainer = run([hooks.EvalHook(1, lambda: None), hooks.BestCheckpointer(None)], epochs=1)
    assert trainer.results == {}


@pytest.mark.parametrize("results", [{"a": 3}, 5, [("P", {"mAP": 1.0})]])
def test_an_evaluation_that_returns_anything_else_is_refused(results):
    with pytest.raises(ResultsError, match="must return {protocol: {figure: number}}.*but it returned"):
        run([hooks.EvalHook(1, lambda: results)], epochs=1)


def test_callbacks_are_called_with_the_trainer_at_their_points():
    seen = []
    points = {point: lambda trainer, point=point: seen.append((point, trainer.iter)) for point in callbacks.POINTS}
    trainer = run([hooks.CallbackHook(**points)], epochs=1, iters=2)
    names = [point for point, _ in seen]
    assert names[:3] == ["before_train", "before_epoch", "before_step"]
    assert names[-2:] == ["after_epoch", "after_train"]
    assert seen.count(("after_step", 1)) == 1 and trainer.iter == 2
    assert set(callbacks.POINTS) - set(names) == {"after_backward"}  # this trainer has none
    with pytest.raises(TypeError, match="no point 'after_stepp'; there are before_train, "):
        hooks.CallbackHook(after_stepp=print)


def test_a_profile_of_chosen_iterations(tmp_path):
    run([hooks.AutogradProfiler(lambda trainer: trainer.iter == 1, tmp_path / "profiles")], epochs=1, iters=3)
    (trace,) = (tmp_path / "profiles").iterdir()
    assert trace.name == "profiler-trace-iter1.json" and "traceEvents" in json.loads(trace.read_text())


def test_a_writer_needs_the_method_that_makes_it_and_a_timer():
    with pytest.raises(TypeError, match="takes the method self.build_writers"):
        hooks.PeriodicWriter([Memory()], 200)
    with pytest.raises(RuntimeError, match="needs an IterationTimer"):
        run([hooks.PeriodicWriter(lambda: [Memory()])])


class ForksTrainer(ToyTrainer):
    """Its hooks are fast-reid's own list, built by fast-reid's constructors."""

    def build_hooks(self):
        cfg = self.cfg.clone()
        ret = [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
        ]
        if cfg.TEST.PRECISE_BN.ENABLED:
            loader = self.build_train_loader(cfg)
            ret.append(hooks.PreciseBN(self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER))
        if len(cfg.MODEL.FREEZE_LAYERS) > 0 and cfg.SOLVER.FREEZE_ITERS > 0:
            ret.append(hooks.LayerFreeze(self.model, cfg.MODEL.FREEZE_LAYERS, cfg.SOLVER.FREEZE_ITERS))

        def test_and_save_results():
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        ret.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, test_and_save_results))
        ret.append(hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        ret.append(hooks.PeriodicWriter(self.build_writers, 200))
        return ret


def test_a_fork_that_builds_all_hooks_itself_trains_as_we_do(tmp_path):
    keys = {"SOLVER__FREEZE_ITERS": 4, "MODEL__FREEZE_LAYERS": ["embed"], "TEST__PRECISE_BN__ENABLED": True}
    keys |= {"TEST__PRECISE_BN__NUM_ITER": 2, "TEST__EVAL_PERIOD": 2}
    ours, theirs = (
        train(toy_cfg(tmp_path / kind.__name__, **keys), trainer_class=kind) for kind in (ToyTrainer, ForksTrainer)
    )
    states = ours.bare_model.state_dict(), theirs.bare_model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert ours.results == theirs.results == theirs._last_eval_results
    assert (tmp_path / "ForksTrainer/model_final.pth").is_file()
